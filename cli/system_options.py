"""Options such as --preset, --config, --layer, --preprocess and --classifier as a `System`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ckncuda.errors import InvalidSpec
from ckncuda.exact import ExactKernel
from ckncuda.exact.encoder import ExactEncoderSpec
from ckncuda.given.parameters import shown
from ckncuda.images.preprocess import Preprocessor, preprocessor_from_dict
from ckncuda.layer.dot_product import DotProductKernel, kernel_from_dict
from ckncuda.layer.spec import LayerSpec
from ckncuda.model.configuration import exact_encoders, read_toml
from ckncuda.model.presets import EXACT_LAYERS
from ckncuda.model.system import OF_A_TRAINING, System
from ckncuda.network.encoder import EncoderSpec
from ckncuda.types import Shape

from .training_options import TrainingOptions

MOST_SHOWN = 200  # characters of an option in a message
_WHOLE = re.compile(r"[+-]?[0-9]{1,300}")
_NUMBER = re.compile(
    r"[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)(e[+-]?[0-9]+)?|[+-]?(inf|infinity|nan)", re.IGNORECASE
)

OF_CLASSIFIERS = ("regularization", "kernel", "landmarks", "optimizer", "validation")


@dataclass(frozen=True)
class SystemOptions:
    """Values of the options that describe a system; None, or empty, where an option was not given.

    More than nine fields: one for each option.

    Examples
    --------
    >>> layers = ("filters=64,patch=3,subsampling=4,kernel=exp,sigma=0.6",)
    >>> print(SystemOptions(layer=layers, preprocess=("none",)).of_networks(5000, (32, 32, 3)))
    64 3x3 sigma 0.6 /4; ridge
    """

    preset: str | None = None
    config: str | None = None
    layer: tuple[str, ...] = ()
    preprocess: tuple[str, ...] = ()
    flip: bool | None = None
    shift: int | None = None
    tangent: bool | None = None
    classifier: str | None = None
    classifier_options: Mapping[str, Any] = field(default_factory=dict)
    patches: int | None = None
    training: TrainingOptions = field(default_factory=TrainingOptions)

    def of_networks(self, n: int, shape: Shape) -> System:
        """Return the system for n images of this shape: that of one option, then what others override in it.

        Raises
        ------
        InvalidSpec
            A value is unknown or out of range, or a network is described twice.
        """
        given = [f"--{name}" for name in ("preset", "config", "layer") if getattr(self, name)]
        if len(given) > 1:
            raise InvalidSpec(f"{' and '.join(given)} each describe a network; give one of them")
        if self.config:
            system = System.from_toml(self.config, "nystrom")
        elif self.layer:
            system = System([EncoderSpec([parse_layer(text) for text in self.layer])])
        else:
            usual = "supervised" if self.training.end_to_end else "default"
            system = System.preset(self.preset or usual, n, shape)
        if self.preprocess:
            system = system.preprocessed(parse_preprocessing(self.preprocess))
        if symmetries := _given({"flip": self.flip, "shift": self.shift}):
            encoders = [
                replace(encoder, symmetries=replace(encoder.symmetries, **symmetries))
                for encoder in system.networks
            ]
            system = replace(system, encoders=encoders)
        options = _given(self.classifier_options)
        after = self.training.classifier
        if None not in (self.classifier, after):
            raise InvalidSpec("--classifier and --after name the same thing; give one of them")
        classifier = self.classifier or after
        if classifier == OF_A_TRAINING:
            system = replace(system, classifier="none", classifier_options={})
        elif classifier is not None and classifier != system.classifier:
            system = replace(system, classifier=classifier, classifier_options={})  # they were another's
        system = self.training.applied(system, options)
        if classifier == OF_A_TRAINING:
            system = replace(system, classifier=classifier)
        if options.get("kernel", "auto") != "auto":
            options["kernel"] = _parse_kernel(options["kernel"])
        return replace(
            system,
            classifier_options={**system.classifier_options, **options},
            patches=self.patches or system.patches,
        )

    def of_exact_kernels(self, shape: Shape) -> System:
        """Return the system of exact kernels for images of this shape.

        Raises
        ------
        InvalidSpec
            A value is unknown or out of range, or the layers do not fit the images.
        """
        if self.config and self.layer:
            raise InvalidSpec("--config and --layer each describe a kernel; give one of them")
        given = _given({"tangent": self.tangent, "flip": self.flip})
        if self.config:
            encoders = exact_encoders(read_toml(self.config), self.config, given)
        elif self.layer:
            layers = [parse_options(text, f"--layer {text}") for text in self.layer]
            encoders = [ExactEncoderSpec(ExactKernel.from_dict({"layers": layers} | given))]
        else:
            encoders = [ExactEncoderSpec(ExactKernel(EXACT_LAYERS, **given))]
        options = _given(self.classifier_options)
        landmarks = options.pop("landmarks", None)
        encoders = [replace(encoder, landmarks=landmarks) for encoder in encoders]
        system = System(encoders, classifier_options=options)
        for kernel in system.kernels:
            kernel.check_shape(shape)
        return system.preprocessed(parse_preprocessing(self.preprocess)) if self.preprocess else system

    def one_kernel(self, shape: Shape, advice: str) -> ExactEncoderSpec:
        """Return the exact kernel that the options describe; the advice is for who describes several."""
        system = self.of_exact_kernels(shape)
        if len(system.encoders) > 1:
            raise InvalidSpec(f"{self.config} describes {len(system.encoders)} encoders{advice}")
        return ExactEncoderSpec(system.kernels[0], system.encoders[0].preprocessing)


def parse_layer(text: str) -> LayerSpec:
    """Read ``filters=64,patch=3,subsampling=2,kernel=exp,sigma=0.6``.

    Coefficients of a series are separated by colons: ``kernel=series,coefficients=0.25:0.5:0.25``.
    """
    return LayerSpec.from_dict(parse_options(text, f"--layer {text}"))


def parse_preprocessing(texts: tuple[str, ...]) -> tuple[Preprocessor, ...] | None:
    """Read ``zca`` or ``zca,epsilon=0.03``, one after another; ``none`` is nothing and ``auto`` is None."""
    if texts in (("auto",), ("none",)):
        return None if texts == ("auto",) else ()
    preprocessing = []
    for text in texts:
        name, _, options = text.partition(",")
        if name in ("auto", "none"):
            raise InvalidSpec(f"--preprocess {name} goes with no other --preprocess")
        own = parse_options(options, f"--preprocess {text}")
        if "name" in own:
            raise InvalidSpec(f"--preprocess {_brief(text)}: the name stands first, without name=")
        preprocessing.append(preprocessor_from_dict({"name": name.strip()} | own))
    return tuple(preprocessing)


def parse_options(text: str, where: str) -> dict[str, Any]:
    """Read ``name=value,name=value``; ``where`` is said in errors."""
    options: dict[str, Any] = {}
    where = _brief(where)
    for item in filter(None, text.split(",")):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not name or not value:
            comma = "; decimals have a point, as in sigma=0.6" if item.strip().isdecimal() and options else ""
            raise InvalidSpec(f"{where}: {shown(item)} is not of the form name=value{comma}")
        if "=" in value:  # of another separator
            raise InvalidSpec(f"{where}: {shown(item)} has several =; separate name=value pairs by commas")
        if name in options:
            raise InvalidSpec(f"{where}: {_brief(name)} is given twice")
        options[name] = _parse_value(value)
    return options


def _parse_value(text: str) -> Any:
    if ":" in text:
        return tuple(_parse_value(part) for part in text.split(":"))
    if _WHOLE.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text)
    return text


def _brief(text: str) -> str:
    """Return what was typed for a message: as a terminal shows it, and not too much of it."""
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _parse_kernel(text: str) -> DotProductKernel:
    """Read ``arccos1`` or ``poly,degree=2,offset=1``."""
    options = parse_options(f"kernel={text}", f"--kernel {text}")
    kernel = kernel_from_dict(options)
    if options:
        unknown = _brief(", ".join(options))
        raise InvalidSpec(f"--kernel {_brief(text)}: the kernel {kernel.name} has no {unknown}")
    return kernel


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what was not given."""
    return {name: value for name, value in options.items() if value is not None}
