"""`Training` says how anchor points are trained end to end."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self, get_args

from ckncuda.errors import InvalidSpec
from ckncuda.given.parameters import choice, instance, listed, number, shown, whole
from ckncuda.images.augment import Augmentation

Optimizer = Literal["adam", "sgd"]
Schedule = Literal["cosine", "steps", "constant"]
LossName = Literal["softmax", "squared-hinge", "squared"]
HeadFit = Literal["joint", "alternating"]
Start = Literal["unsupervised", "random"]

LEARNING_RATES: Mapping[str, float] = {"adam": 3e-3, "sgd": 0.1}
DECAY = 0.1  # of the learning rate at each milestone

_CHOICES = {
    "optimizer": Optimizer,
    "schedule": Schedule,
    "loss": LossName,
    "head_fit": HeadFit,
    "start": Start,
}
_WHOLE = {"epochs": 1, "batch": 1}


@dataclass(frozen=True)
class Training:
    """A way in which anchor points of a network, and a linear classifier on its features, learn from labels.

    The classifier, called the head, is there for the training: a classifier that is fitted on the trained
    features afterwards is better, measured by several points.

    More than nine parameters: each is a choice that published programs make differently.

    Parameters
    ----------
    epochs : int
        Passes over the images.
    optimizer : {"adam", "sgd"}
        ``sgd`` with momentum.  Both move anchor points along the sphere, and put them back on it.
    learning_rate : float, optional
        The highest; by default 3e-3 of ``adam``, 0.1 of ``sgd``.
    schedule : {"cosine", "steps", "constant"}
        Of the learning rate: it falls to zero by half a cosine, or to a tenth at each milestone, or not.
    milestones : sequence of int
        Epochs of ``steps``.
    warmup : float
        Epochs in which the learning rate rises from zero.
    momentum : float
        Of ``sgd``; of ``adam`` the decay of the mean gradient.
    batch : int
        Images of a step; all of them where there are fewer.
    loss : {"softmax", "squared-hinge", "squared"}
    label_smoothing : float
        Share of the probability that ``softmax`` gives to all classes alike.
    regularization : float or "auto"
        λ of the head; chosen by leave-one-out of ridge regression on the features at the start, which have
        seen no label.
    head_fit : {"joint", "alternating"}
        ``alternating``: besides the steps, the head is fitted anew before each epoch on the features of all
        images, ridge regression in closed form, the others by L-BFGS.
    head_rate : float
        Times the learning rate is that of the head.  A slow one leaves the work to the anchor points, which
        serve whatever is fitted on the features afterwards.
    augment : Augmentation
    start : {"unsupervised", "random"}
        Anchor points at the beginning: those of spherical k-means, or drawn uniformly from the sphere.
    train_layers : int, optional
        So many layers from the image upwards are trained; those above are learned without labels, on what the
        trained ones give.  While the lower ones are trained, the next one stands above them with at most 128
        filters.  By default all layers are trained.
    validation : float
        Fraction of the images, of each class in proportion, that no gradient sees: they choose the epoch and,
        later, λ and weights of the classifier.

    Examples
    --------
    >>> spec = Training(epochs=30, augment=Augmentation(flip=True, crop=4))
    >>> Training.from_dict(spec.to_dict()) == spec
    True
    """

    epochs: int = 30
    optimizer: Optimizer = "adam"
    learning_rate: float | None = None
    schedule: Schedule = "cosine"
    milestones: Sequence[int] = ()
    warmup: float = 1.0
    momentum: float = 0.9
    batch: int = 128
    loss: LossName = "softmax"
    label_smoothing: float = 0.0
    regularization: float | str = "auto"
    head_fit: HeadFit = "joint"
    head_rate: float = 0.1
    augment: Augmentation = field(default_factory=Augmentation)
    start: Start = "unsupervised"
    train_layers: int | None = None
    validation: float = 0.1

    def __post_init__(self) -> None:
        for name, kinds in _CHOICES.items():
            self._set(name, choice(name, getattr(self, name), get_args(kinds)))
        for name, least in _WHOLE.items():
            self._set(name, whole(name, getattr(self, name), least))
        if self.learning_rate is not None:
            expected = "it must be a positive number, such as 3e-3"
            rate = number("learning_rate", self.learning_rate, lambda r: 0 < r < math.inf, expected)
            self._set("learning_rate", rate)
        self._check_numbers()
        self._check_schedule()
        if self.train_layers is not None:
            self._set("train_layers", whole("train_layers", self.train_layers, 1))
        instance(
            "augment", self.augment, Augmentation, "expected Augmentation(flip=True, crop=4), for instance"
        )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_numbers(self) -> None:
        below_1 = "it must be at least 0 and less than 1"
        for name in ("momentum", "label_smoothing", "validation"):
            self._set(name, number(name, getattr(self, name), lambda x: 0 <= x < 1, below_1))
        expected = "it must be a number that is not negative, such as 0.1"
        self._set("head_rate", number("head_rate", self.head_rate, lambda x: 0 <= x < math.inf, expected))
        expected = "it must be a number of epochs, 0 or more"
        self._set("warmup", number("warmup", self.warmup, lambda x: 0 <= x < math.inf, expected))
        if self.label_smoothing and self.loss != "softmax":
            raise InvalidSpec(
                f"label_smoothing is for the loss softmax; the loss is {self.loss}: leave it out"
            )
        if self.regularization != "auto":
            expected = 'expected "auto" or a number that is not negative'
            given = number("regularization", self.regularization, lambda x: 0 <= x < math.inf, expected)
            self._set("regularization", given)

    def _check_schedule(self) -> None:
        expected = "expected whole numbers of epochs, such as [60, 85, 100]"
        given: Any = self.milestones
        if not isinstance(given, list | tuple):
            raise InvalidSpec(f"milestones are {shown(given)}; {expected}")
        milestones = tuple(whole(f"milestones[{i}]", each, 1, expected) for i, each in enumerate(given))
        self._set("milestones", milestones)
        if bool(milestones) != (self.schedule == "steps"):
            advice = "give milestones" if self.schedule == "steps" else "leave the milestones out"
            raise InvalidSpec(
                f"the schedule is {self.schedule} and milestones are {list(milestones)}; they belong to "
                f"steps: {advice}"
            )
        if list(milestones) != sorted(set(milestones)):
            raise InvalidSpec(f"milestones are {list(milestones)}; expected each once, in increasing order")
        if milestones and milestones[-1] > self.epochs:
            raise InvalidSpec(
                f"milestones are {list(milestones)}, of {self.epochs} epochs; expected epochs that are "
                f"reached, up to {self.epochs}: give others, or more epochs"
            )

    @property
    def highest_rate(self) -> float:
        """The learning rate, before any schedule."""
        return LEARNING_RATES[self.optimizer] if self.learning_rate is None else self.learning_rate

    def rate(self, epoch: float) -> float:
        """Return the learning rate when so many epochs, and parts of one, are done.

        >>> spec = Training(epochs=10, learning_rate=1.0, warmup=2)
        >>> [round(spec.rate(epoch), 3) for epoch in (0, 1, 2, 6, 10)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
        """
        warmup = min(self.warmup, self.epochs)
        if epoch < warmup:
            return self.highest_rate * epoch / warmup
        if self.schedule == "steps":
            return self.highest_rate * DECAY ** sum(epoch >= milestone for milestone in self.milestones)
        if self.schedule == "cosine":
            done = (epoch - warmup) / max(self.epochs - warmup, 1e-12)
            return self.highest_rate * (1 + math.cos(math.pi * min(done, 1.0))) / 2
        return self.highest_rate

    def lasting(self, epochs: int) -> Self:
        """Return the same training over another number of epochs, with milestones in proportion.

        >>> Training(epochs=105, schedule="steps", milestones=(60, 85, 100)).lasting(30).milestones
        (17, 24, 29)
        """
        epochs = whole("epochs", epochs, 1)
        milestones = sorted({max(1, round(each * epochs / self.epochs)) for each in self.milestones})
        return replace(self, epochs=epochs, milestones=milestones)

    def __str__(self) -> str:
        """Return a few words, such as ``layers 1-2 trained 30 epochs (adam 0.003, softmax)``."""
        layers = "" if self.train_layers is None else f"layers 1-{self.train_layers} "
        return f"{layers}trained {self.epochs} epochs ({self.optimizer} {self.highest_rate:g}, {self.loss})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return own | {"augment": self.augment.to_dict(), "milestones": list(self.milestones)}

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> Self:
        """Make one from what `to_dict` gave, or from such a table of a configuration file."""
        options = dict(instance("training", options, Mapping, 'expected options such as {"epochs": 30}'))
        known = [f.name for f in fields(cls)]
        if unknown := sorted(set(options) - set(known)):
            raise InvalidSpec(f"a training has no option {listed(unknown)}; it has {', '.join(known)}")
        if "augment" in options:
            given = options["augment"]
            options["augment"] = (
                Augmentation.from_text(given) if isinstance(given, str) else Augmentation.from_dict(given)
            )
        return cls(**options)
