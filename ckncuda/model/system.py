"""A whole system before it has learned anything: `System`, and the forms in which it is written down."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from ckncuda.classifier import (
    GramRidge,
    KernelRidge,
    NystromRidge,
    Ridge,
    Softmax,
    SquaredHinge,
    TrainableClassifier,
)
from ckncuda.errors import InvalidSpec
from ckncuda.exact.encoder import ExactEncoderSpec
from ckncuda.exact.kernel import ExactKernel
from ckncuda.given.parameters import choice, file_name, image_shape, instance, listed, several, shown, whole
from ckncuda.images.preprocess import Preprocessor, preprocessor_from_dict
from ckncuda.images.symmetries import Symmetries
from ckncuda.layer.dot_product import DotProductKernel, Exponential, kernel_from_dict
from ckncuda.layer.spec import KernelLayer, LayerSpec
from ckncuda.model import configuration
from ckncuda.model.encoders import ImageEncoderSpec
from ckncuda.model.presets import MOST_FOR_KERNEL_RIDGE, PRESETS
from ckncuda.network.encoder import EncoderSpec
from ckncuda.network.network import PATCHES
from ckncuda.supervised.encoder import TrainedEncoderSpec
from ckncuda.supervised.training import Training
from ckncuda.types import Shape, StrPath

CLASSIFIERS: Mapping[str, type[TrainableClassifier]] = {
    "ridge": Ridge,
    "kernel-ridge": KernelRidge,
    "nystrom-ridge": NystromRidge,
    "softmax": Softmax,
    "squared-hinge": SquaredHinge,
}
"""Classifiers on features."""

OF_EXACT_KERNELS = "gram-ridge"

OF_A_TRAINING = "head"
"""The linear classifier that a network was trained with."""

_OPTIONS = 'expected the options by name, such as {"regularization": 1e-4}'


@dataclass(frozen=True)
class System:
    """Encoders and a classifier that belong together, and how many patches the encoders learn from.

    Parameters
    ----------
    encoders : sequence of EncoderSpec, or of ExactEncoderSpec
        One, or an ensemble, of networks; or one exact kernel, or several that are combined.
    classifier : str
        A name of `CLASSIFIERS`, or ``none``; of exact kernels ``gram-ridge``; of a network that is trained
        end to end ``head`` too, that of its training.  By default ridge regression.
    classifier_options : mapping
        Plain data such as ``{"kernel": "poly", "degree": 2}``; a kernel may also be a `DotProductKernel`.
        Exact kernels have those of `GramRidge`.
    patches : int
        Sampled for each layer of a network.

    Raises
    ------
    InvalidSpec
        There is no encoder, networks and exact kernels are mixed, or the classifier is not one for them.

    Examples
    --------
    >>> layer = LayerSpec(filters=64, patch=3, subsampling=8, kernel=Exponential(sigma=0.6))
    >>> system = System([EncoderSpec([layer])], "kernel-ridge", {"kernel": "arccos1"}, 5000)
    >>> print(system)
    64 3x3 sigma 0.6 /8; auto; kernel-ridge arccos1
    >>> System.from_dict(system.to_dict()) == system
    True
    >>> print(System.preset("fast", n=5000, shape=(32, 32, 1)))
    64 3x3 sigma 0.6 /2 → 1024 3x3 sigma 0.6 /6 decorrelated 0.25; auto; kernel-ridge arccos1
    """

    encoders: Sequence[ImageEncoderSpec]
    classifier: str = ""
    classifier_options: Mapping[str, Any] = field(default_factory=dict)
    patches: int = PATCHES

    def __post_init__(self) -> None:
        expected = "expected a list of encoders such as EncoderSpec(layers)"
        encoders = several("encoders", self.encoders, (EncoderSpec, ExactEncoderSpec), expected)
        object.__setattr__(self, "encoders", encoders)
        object.__setattr__(self, "patches", whole("patches", self.patches, 1))
        if not self.encoders:
            raise InvalidSpec("a system needs at least one encoder")
        if len({isinstance(encoder, ExactEncoderSpec) for encoder in self.encoders}) > 1:
            raise InvalidSpec("a system is one of networks or one of exact kernels; these are both")
        if isinstance(self.classifier, str) and not self.classifier:
            object.__setattr__(self, "classifier", OF_EXACT_KERNELS if self.exact else "ridge")
        elif not self.exact:
            _check_classifier(self.classifier)
        elif self.classifier != OF_EXACT_KERNELS:
            raise InvalidSpec(
                f"classifier is {shown(self.classifier)}; exact kernels have {OF_EXACT_KERNELS}, others are "
                "on features"
            )
        options = dict(instance("classifier_options", self.classifier_options, Mapping, _OPTIONS))
        object.__setattr__(self, "classifier_options", options)
        if self.classifier == OF_A_TRAINING:
            self._check_head()
        if classifier := self.make_classifier(seed=0):
            classifier.check_options()

    def _check_head(self) -> None:
        """Raise `InvalidSpec` unless there is one network, all of which is trained, to have a head."""
        (first, *others) = self.encoders
        if others or not isinstance(first, TrainedEncoderSpec) or not first.is_trained_whole:
            raise InvalidSpec(
                "the classifier head is that of one network of which all layers are trained end to end; here "
                "give another, such as kernel-ridge"
            )
        if any(layer.decorrelation for layer in first.layers):  # of whose outputs the head knows nothing
            raise InvalidSpec(
                "the classifier head learns without decorrelation: give all layers decorrelation=0, or "
                "another classifier, such as kernel-ridge"
            )

    @classmethod
    def preset(cls, name: str, n: int, shape: Shape) -> Self:
        """Return a named system for n images of a shape (height, width, channels), or raise `InvalidSpec`."""
        if not isinstance(name, str) or name not in PRESETS:
            raise InvalidSpec(f"there is no preset {shown(name)}; the presets are {', '.join(PRESETS)}")
        n, shape = whole("n", n, 1), image_shape("shape", shape)
        chosen = PRESETS[name]
        too_many = chosen.classifier == "kernel-ridge" and n > MOST_FOR_KERNEL_RIDGE
        classifier = "nystrom-ridge" if too_many else chosen.classifier
        system = cls(chosen.encoders(n, shape), classifier, dict(chosen.classifier_options), chosen.patches)
        try:
            system.check(shape)
        except InvalidSpec as error:
            size = "x".join(map(str, shape))
            advice = "take larger images, or the preset default, which suits itself to them"
            raise InvalidSpec(f"the preset {name} is not for images of {size}: {error}; {advice}") from error
        return system

    @classmethod
    def from_toml(cls, path: StrPath, method: Literal["nystrom", "exact"] | None = None) -> Self:
        """Read a system from a TOML file, such as ``ckn fit --config`` takes.

        Parameters
        ----------
        path : path-like
        method : {"nystrom", "exact"}, optional
            Whether the layers are those of networks or of exact kernels.  By default of networks, unless the
            file has ``tangent``, ``flip`` or ``[exact]`` at its top.  For exact kernels the classifier of the
            file is left aside.

        Raises
        ------
        InvalidSpec
            The file cannot be read, or something in it is unknown or out of range.
        """
        file = file_name(path, '"net.toml"')
        if method is not None:
            choice("method", method, ("nystrom", "exact"))
        content = configuration.read_toml(file)
        if method == "exact" or (method is None and configuration.is_exact(content)):
            return cls(configuration.exact_encoders(content, file))
        configuration.check_network_file(content, file)
        tables = configuration.encoder_tables(content, file)
        name, options = configuration.classifier(content, file)
        _check_classifier(name, f"{file}: ")
        return cls([configuration.network(table, file) for table in tables], name, options)

    @property
    def exact(self) -> bool:
        """True of a system of exact kernels."""
        return isinstance(self.encoders[0], ExactEncoderSpec)

    @property
    def kernels(self) -> tuple[ExactKernel, ...]:
        """Exact kernels, none in a system of networks."""
        return tuple(each.kernel for each in self.encoders if isinstance(each, ExactEncoderSpec))

    @property
    def networks(self) -> tuple[EncoderSpec, ...]:
        """Encoders that are networks, none in a system of exact kernels."""
        return tuple(each for each in self.encoders if isinstance(each, EncoderSpec))

    def preprocessed(self, preprocessing: Sequence[Preprocessor] | None) -> Self:
        """Return this system with the same preprocessing for all encoders."""
        encoders = [replace(encoder, preprocessing=preprocessing) for encoder in self.encoders]
        return replace(self, encoders=encoders)

    def check(self, shape: Shape) -> None:
        """Raise `InvalidSpec` unless encoders fit such images and the classifier's options are in range."""
        for network in self.networks:
            network.output_shape(shape)
        for kernel in self.kernels:
            kernel.check_shape(shape)
        if classifier := self.make_classifier(seed=0):
            classifier.check_options(encoders=len(self.encoders))

    def make_classifier(self, seed: int) -> TrainableClassifier | GramRidge | None:
        """Return the classifier, not yet fitted, or raise `InvalidSpec`; None for ``none``.

        The seed is that of everything random, where the options hold no other.
        """
        options = dict(self.classifier_options)
        if self.classifier in ("none", OF_A_TRAINING):
            if options:
                without = "without a classifier" if self.classifier == "none" else "of a training's head"
                raise InvalidSpec(f"{without} there is no {listed(options)}: leave it out")
            return None
        constructor: type[TrainableClassifier | GramRidge]
        constructor = GramRidge if self.exact else CLASSIFIERS[self.classifier]
        parameters = inspect.signature(constructor).parameters
        names = [name for name in parameters if name != "max_iterations"]  # which is for programs alone
        if isinstance(options.get("kernel"), str) and options["kernel"] != "auto":
            options["kernel"] = kernel_from_dict(options)  # takes its parameters along
        if unknown := set(options) - set(names):
            has = f"it has {', '.join(names)}"
            raise InvalidSpec(f"the classifier {self.classifier} has no option {listed(unknown)}; {has}")
        return constructor(**({"seed": seed} | self._judged(parameters) | options))

    def _judged(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return what tells a classifier of these parameters which images the anchors did not learn from."""
        trained = [each for each in self.encoders if isinstance(each, TrainedEncoderSpec)]
        held_out = [each.training.validation for each in trained]
        if not held_out or not held_out[0]:
            return {}
        return {"validation": held_out[0]} | ({"choose": "held-out"} if "choose" in parameters else {})

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: of one encoder its layers and the rest, of several a list of ``encoders``."""
        encoders = [_encoder_data(encoder) for encoder in self.encoders]
        options = dict(self.classifier_options)
        if isinstance(options.get("kernel"), DotProductKernel):
            options |= options["kernel"].to_dict()
        return (encoders[0] if len(encoders) == 1 else {"encoders": encoders}) | {
            "classifier": self.classifier,
            "options": options,
            "patches": self.patches,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Make a system from what `to_dict` gave, or raise `InvalidSpec`."""
        try:
            encoders = [_encoder(encoder) for encoder in data.get("encoders", [data])]
            return cls(encoders, data["classifier"], data["options"], data["patches"])
        except (LookupError, TypeError, AttributeError) as error:  # parts are missing, or of other kinds
            raise InvalidSpec(f"data is {shown(data)}; expected what System.to_dict gives") from error

    def __str__(self) -> str:
        """Return one line: filters, patch, κ and subsampling of each layer, and the rest."""
        encoders = " + ".join(map(_shown_encoder, self.encoders))
        options = _shown_options(dict(self.classifier_options), "kernel")
        return f"{encoders}; {self.classifier} {options}".strip()


def _check_classifier(name: Any, where: str = "") -> None:
    if not isinstance(name, str) or name not in (*CLASSIFIERS, OF_A_TRAINING, "none"):
        known = ", ".join(CLASSIFIERS)
        raise InvalidSpec(f"{where}there is no classifier {shown(name)}; there is {known}, head, none")


def _encoder_data(encoder: ImageEncoderSpec) -> dict[str, Any]:
    """Return an encoder as plain data; a preprocessing of None is as the images suggest."""
    steps = encoder.preprocessing
    preprocessing = None if steps is None else [step.to_dict() for step in steps]
    if isinstance(encoder, ExactEncoderSpec):
        return encoder.kernel.to_dict() | {"preprocessing": preprocessing, "landmarks": encoder.landmarks}
    network: dict[str, Any] = {
        "layers": [layer.to_dict() for layer in encoder.layers],
        "preprocessing": preprocessing,
        "symmetries": encoder.symmetries.to_dict(),
    }
    if isinstance(encoder, TrainedEncoderSpec):
        network["training"] = encoder.training.to_dict()
    return network


def _encoder(data: Mapping[str, Any]) -> ImageEncoderSpec:
    """Make an encoder from what `_encoder_data` gave."""
    steps = data["preprocessing"]
    preprocessing = None if steps is None else [preprocessor_from_dict(step) for step in steps]
    if "tangent" in data:
        kernel = ExactKernel.from_dict({name: data[name] for name in ("layers", "tangent", "flip")})
        return ExactEncoderSpec(kernel, preprocessing, data["landmarks"])
    layers = [LayerSpec.from_dict(layer) for layer in data["layers"]]
    network = layers, preprocessing, Symmetries(**data["symmetries"])
    if "training" in data:
        return TrainedEncoderSpec(*network, Training.from_dict(data["training"]))
    return EncoderSpec(*network)


def _shown_encoder(encoder: ImageEncoderSpec) -> str:
    if isinstance(encoder, ExactEncoderSpec):
        layers, symmetries = encoder.kernel.layers, Symmetries(flip=encoder.kernel.flip)
        kind, landmarks = ["tangent kernel" if encoder.kernel.tangent else "exact kernel"], encoder.landmarks
    else:
        layers, symmetries = encoder.layers, encoder.symmetries
        kind, landmarks = [], None
    parts = [*kind, " → ".join(map(_shown_layer, layers))]
    parts += ["auto"] if encoder.preprocessing is None else []
    parts += [_shown_options(step.to_dict(), "name") for step in encoder.preprocessing or ()]
    parts += ["flip"] if symmetries.flip else []
    parts += [f"shift {symmetries.shift}"] if symmetries.shift else []
    parts += [f"{landmarks} landmarks"] if landmarks else []
    parts += [str(encoder.training)] if isinstance(encoder, TrainedEncoderSpec) else []
    return "; ".join(parts)


def _shown_layer(layer: KernelLayer | LayerSpec) -> str:
    """Return a layer in brief, such as ``64 3x3 sigma 0.6 /2``."""
    kernel = layer.kernel
    if isinstance(kernel, Exponential) and kernel.sigma is not None:
        of_kernel = f"sigma {kernel.sigma:g}"
    else:
        of_kernel = _shown_options(kernel.to_dict(), "kernel")
    shown = f"{layer.shown_patch} {of_kernel} /{layer.subsampling}"
    if isinstance(layer, KernelLayer):
        return shown
    decorrelated = f" decorrelated {layer.decorrelation:g}" if layer.decorrelation else ""
    return f"{layer.filters} {shown}{decorrelated}"


def _shown_options(options: dict[str, Any], head: str) -> str:
    """Return the name, and what is not as by default: values of numbers that were given."""
    name = str(options.pop(head, ""))
    if name == "local_whitening":
        usual = {"patch": 3, "power": 0.25}
        options = {key: value for key, value in options.items() if usual.get(key) != value}
    values = [
        f"{key} {value:g}" if isinstance(value, int | float) else f"{key} {value}"
        for key, value in options.items()
        if value is not None
    ]
    return " ".join([name, *values]).strip()
