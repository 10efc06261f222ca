"""Options of end-to-end training, and what they make of a system."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import click

from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.files.atomic_file import atomic_file
from ckncuda.given.parameters import listed
from ckncuda.images.augment import Augmentation
from ckncuda.model.model import Model
from ckncuda.model.system import CLASSIFIERS, OF_A_TRAINING, System
from ckncuda.network.encoder import EncoderSpec
from ckncuda.studies.plots import check_plotting, draw_training
from ckncuda.supervised.checkpoint import Checkpoints
from ckncuda.supervised.encoder import TrainedEncoderSpec
from ckncuda.supervised.training import Training

Command = TypeVar("Command", bound=Callable[..., Any])

MOST_DIGITS = 9  # of a number that is read

_OPTIONS = (
    click.option(
        "--end-to-end",
        is_flag=True,
        help="Let the anchor points learn from the labels too. A tenth of the images (--validation) is kept "
        "from them, to choose the epoch and λ of the classifier. Without --preset, --config or --layer the "
        "network is that of the preset supervised; supervised and chen5 are trained without this option too.",
    ),
    click.option(
        "--epochs",
        type=int,
        help="Training: passes over the images. [default: 30, of supervised 60, of chen5 105]",
    ),
    click.option(
        "--learning-rate",
        type=float,
        help="Training: the highest, which --schedule lowers. [default: 0.003 of adam, 0.1 of sgd]",
    ),
    click.option(
        "--schedule",
        type=click.Choice(["cosine", "steps", "constant"]),
        help="Training: how the learning rate falls. cosine: to zero at the last epoch; steps: to a tenth at "
        "each of the --milestones. [default: cosine]",
    ),
    click.option(
        "--milestones",
        metavar="E,E,…",
        help="Training: epochs of --schedule steps, which is meant where they are given, such as 60,85,100. "
        "[default: of chen5 these, or in proportion to --epochs]",
    ),
    click.option(
        "--warmup",
        type=float,
        help="Training: epochs at the beginning in which the learning rate rises from zero. [default: 1]",
    ),
    click.option("--batch", type=int, help="Training: images of a step. [default: 128]"),
    click.option(
        "--loss",
        type=click.Choice(["softmax", "squared-hinge", "squared"]),
        help="Training: what its linear classifier minimises. [default: softmax]",
    ),
    click.option(
        "--label-smoothing",
        type=float,
        help="Training: share of the probability that --loss softmax gives to all classes alike, such as "
        "0.1. [default: 0]",
    ),
    click.option(
        "--head-fit",
        type=click.Choice(["joint", "alternating"]),
        help="Training: its linear classifier takes steps with the anchor points, or (alternating) is also "
        "fitted anew before each epoch. [default: joint]",
    ),
    click.option(
        "--head-rate",
        type=float,
        help="Training: times the learning rate is that of the linear classifier; a slow one leaves the work "
        "to the anchor points. [default: 0.1; of chen5 1]",
    ),
    click.option(
        "--augment",
        metavar="CHANGES",
        help="Training: how each image is changed at random whenever it is seen: mirrored, moved by up to so "
        "many pixels, a square hidden, as in flip,crop=4,cutout=8; or none. [default: none, of supervised "
        "flip,crop=4]",
    ),
    click.option(
        "--init",
        type=click.Choice(["unsupervised", "random"]),
        help="Training: anchor points at the start, those of k-means or random ones. [default: unsupervised]",
    ),
    click.option(
        "--train-layers",
        metavar="1-K",
        help="Training: the lower layers alone, such as 1-2; those above then learn without labels from what "
        "the trained ones give. [default: all layers, of supervised 1-2]",
    ),
    click.option(
        "--after",
        type=click.Choice([*CLASSIFIERS, "none"]),
        help="Training: the classifier that is fitted on the trained features, as by --classifier; none: the "
        "linear one of the training is kept. [default: as of --classifier]",
    ),
    click.option(
        "--resume",
        metavar="FILE",
        help="Training: go on from OUTPUT.checkpoint, which is written after each epoch and removed at the "
        "end; the other options must be as they were.",
    ),
    click.option(
        "--history",
        metavar="FILE",
        help="Training: write loss and accuracy of each epoch, as .csv or, drawn, as .png.",
    ),
)

_OF_TRAININGS = (
    *("epochs", "learning_rate", "schedule", "milestones", "warmup", "batch", "loss", "label_smoothing"),
    *("head_fit", "head_rate", "augment", "init", "train_layers"),
)
NOT_EXACT = (*_OF_TRAININGS, "end_to_end", "after", "resume", "history")
"""Options that exact kernels do not have."""


def training_options(command: Command) -> Command:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True)
class TrainingOptions:
    """Values of the options of end-to-end training, as they were given.

    Attributes
    ----------
    end_to_end : bool
        A training was asked for; a preset or a configuration may have one of its own.
    given : mapping
        Options of `Training`, those that were given.
    after : str or None
    """

    end_to_end: bool = False
    given: Mapping[str, Any] = field(default_factory=dict)
    after: str | None = None

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> "TrainingOptions":
        """Take them out of a command's options."""
        texts = {name: options.pop(name) for name in _OF_TRAININGS}
        given = {name: value for name, value in texts.items() if value is not None}
        if "init" in given:
            given["start"] = given.pop("init")
        if "augment" in given:
            given["augment"] = Augmentation.from_text(given["augment"])
        if "milestones" in given:
            given["milestones"] = tuple(_whole("milestones", each) for each in given["milestones"].split(","))
        if "train_layers" in given:
            first, dash, last = given["train_layers"].partition("-")
            if dash and first.strip() != "1":
                raise InvalidSpec(
                    f"--train-layers {given['train_layers']}: layers are trained from 1 on: 1-2"
                )
            given["train_layers"] = _whole("train-layers", last if dash else first)
        return cls(options.pop("end_to_end"), given, options.pop("after"))

    def applied(self, system: System, of_classifier: dict[str, Any]) -> System:
        """Return a system whose networks are trained: all if that was asked for, else those that are already.

        ``optimizer`` and ``validation``, options of classifiers, are taken out where they are the training's.
        """
        is_trained = any(isinstance(encoder, TrainedEncoderSpec) for encoder in system.encoders)
        if not self.end_to_end and not is_trained:
            if self.given or self.after:
                names = [shown(name) for name in (*self.given, *(["after"] if self.after else []))]
                raise InvalidSpec(f"{listed(names)}: for training end to end, give --end-to-end with it")
            if of_classifier.get("optimizer") == "adam":
                raise InvalidSpec("--optimizer adam is for --end-to-end; softmax has lbfgs and sgd")
            return system
        given = dict(self.given)
        for name in ("optimizer", "validation"):
            if name in of_classifier:
                given[name] = of_classifier.pop(name)
        if given.get("optimizer") == "lbfgs":
            raise InvalidSpec("--optimizer lbfgs is for softmax; --end-to-end has adam and sgd")
        return replace(
            system,
            encoders=[
                _trained(encoder, given)
                if self.end_to_end or isinstance(encoder, TrainedEncoderSpec)
                else encoder
                for encoder in system.networks
            ],
        )

    @property
    def classifier(self) -> str | None:
        """The classifier that ``after`` stands for."""
        return OF_A_TRAINING if self.after == "none" else self.after


def shown(name: str) -> str:
    """Return an option as it is typed, by the name of its value."""
    return f"--{'init' if name == 'start' else name}".replace("_", "-")


def _trained(encoder: EncoderSpec, given: Mapping[str, Any]) -> TrainedEncoderSpec:
    """Return an encoder with options given in place of its own, and what belongs to these."""
    own = encoder.training if isinstance(encoder, TrainedEncoderSpec) else Training()
    given = dict(given)
    if "epochs" in given and "milestones" not in given:
        own = own.lasting(given["epochs"])
    if "milestones" in given:
        given.setdefault("schedule", "steps")
    elif given.get("schedule", own.schedule) != "steps":
        given["milestones"] = ()
    if given.get("optimizer", own.optimizer) != own.optimizer:
        given.setdefault("learning_rate", None)
    training = replace(own, **given)
    return TrainedEncoderSpec(encoder.layers, encoder.preprocessing, encoder.symmetries, training)


def _whole(name: str, text: str) -> int:
    if not text.strip().isdecimal() or len(text.strip()) > MOST_DIGITS:
        raise InvalidSpec(f"--{name}: {text.strip()[:80]!r} is no whole number such as 2")
    return int(text)


def trainings(system: System, is_labelled: bool, history: str | None, resume: str | None) -> int:
    """Count the encoders that are trained; raise `InvalidSpec` for files of trainings if there are none.

    Raise `InvalidData` if there are no labels to train them with.
    """
    count = sum(isinstance(encoder, TrainedEncoderSpec) for encoder in system.encoders)
    if not count and (history or resume):
        raise InvalidSpec("--history and --resume are for training end to end: give --end-to-end")
    if count and not is_labelled:
        raise InvalidData("the images have no labels, which training end to end needs: give --labels")
    return count


def files(options: dict[str, Any]) -> tuple[str | None, str | None]:
    """Take --history and --resume out of a command's options, of which the first must be a good name."""
    history, resume = options.pop("history"), options.pop("resume")
    check_history(history)
    return history, resume


@contextlib.contextmanager
def going_on(checkpoints: Checkpoints) -> Iterator[None]:
    """Have Ctrl-C say how to go on, if something has been learned by then."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if checkpoints.write is not None and os.path.exists(checkpoints.write):
            raise KeyboardInterrupt(
                f"what was learned is kept: go on with --resume {os.fspath(checkpoints.write)}"
            ) from interrupt
        raise


def write_history(path: str, model: Model) -> None:
    """Write how the trainings of a model went: a CSV file, or a picture."""
    trainings = [each["history"] for each in model.report.get("training", [])]
    if path.lower().endswith(".png"):
        draw_training(trainings, path)
        return
    names = list(trainings[0][0])
    with atomic_file(path) as file:
        lines = [",".join(["encoder", *names])]
        for number, history in enumerate(trainings, 1):
            lines += [",".join([str(number), *(_cell(each[name]) for name in names)]) for each in history]
        file.write(("\n".join(lines) + "\n").encode())


def check_history(path: str | None) -> None:
    """Raise, before any work, if a history could not be written there."""
    if path is None:
        return
    if path.lower().endswith(".png"):
        check_plotting(path)
    elif not path.lower().endswith(".csv"):
        raise InvalidData(f"--history {path}: give a name ending in .csv, or in .png for a picture")


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)
