"""From --preset, --config, --layer, --preprocess, --flip and --classifier to encoders and a classifier."""

import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ckncuda.classifier import KernelRidge, NystromRidge, Ridge, Softmax, SquaredHinge, TrainableClassifier
from ckncuda.errors import InvalidSpec
from ckncuda.images.preprocess import Preprocessor, preprocessor_from_dict
from ckncuda.images.symmetries import Symmetries
from ckncuda.layer.dot_product import DotProductKernel, kernel_from_dict
from ckncuda.layer.spec import LayerSpec
from ckncuda.model.presets import preset
from ckncuda.network.encoder import EncoderSpec
from ckncuda.network.network import PATCHES
from ckncuda.types import Shape

CLASSIFIERS: dict[str, tuple[type[TrainableClassifier], tuple[str, ...]]] = {
    "ridge": (Ridge, ("regularization", "validation", "seed")),
    "kernel-ridge": (KernelRidge, ("kernel", "regularization", "weights", "validation", "seed")),
    "nystrom-ridge": (
        NystromRidge,
        ("kernel", "regularization", "weights", "landmarks", "validation", "seed"),
    ),
    "softmax": (Softmax, ("regularization", "optimizer", "validation", "seed")),
    "squared-hinge": (SquaredHinge, ("regularization", "validation", "seed")),
}


@dataclass(frozen=True)
class System:
    """What the options describe, before anything is fitted."""

    encoders: list[EncoderSpec]
    classifier: str
    classifier_options: dict[str, Any] = field(default_factory=dict)
    patches: int = PATCHES

    def make_classifier(self, seed: int) -> TrainableClassifier | None:
        """The classifier, not yet fitted; None for ``none``."""
        if self.classifier == "none":
            if self.classifier_options:
                raise InvalidSpec(
                    f"without a classifier there is no {', '.join(sorted(self.classifier_options))}"
                )
            return None
        constructor, names = CLASSIFIERS[self.classifier]
        options = dict(self.classifier_options)
        if (
            isinstance(options.get("kernel"), str) and options["kernel"] != "auto"
        ):  # takes its parameters along
            options["kernel"] = kernel_from_dict(options)
        if unknown := sorted(set(options) - set(names)):
            raise InvalidSpec(
                f"the classifier {self.classifier} has no option {', '.join(unknown)}; "
                f"it has {', '.join(names)}"
            )
        if "seed" in names:
            options.setdefault("seed", seed)
        return constructor(**options)


def read_system(
    n: int,
    shape: Shape,
    preset_name: str | None,
    config: str | None,
    layers: tuple[str, ...],
    preprocess: tuple[str, ...],
    symmetries: dict[str, Any],
    classifier: str | None,
    classifier_options: dict[str, Any],
) -> System:
    """The system for n images of this shape: what one of three options names, then what overrides it."""
    given = [
        name
        for name, value in (("--preset", preset_name), ("--config", config), ("--layer", layers))
        if value
    ]
    if len(given) > 1:
        raise InvalidSpec(f"{' and '.join(given)} each describe a network; give one of them")
    if config:
        system = _from_config(config)
    elif layers:
        system = System([EncoderSpec([parse_layer(text) for text in layers], None)], "ridge")
    else:
        chosen = preset(preset_name or "default")
        system = System(chosen.encoders(n, shape), *chosen.classifier_for(n), patches=chosen.patches)
    if preprocess:
        preprocessing = parse_preprocessing(preprocess)
        encoders = [replace(encoder, preprocessing=preprocessing) for encoder in system.encoders]
        system = replace(system, encoders=encoders)
    if given_symmetries := {name: value for name, value in symmetries.items() if value is not None}:
        encoders = [
            replace(encoder, symmetries=replace(encoder.symmetries, **given_symmetries))
            for encoder in system.encoders
        ]
        system = replace(system, encoders=encoders)
    if classifier is not None and classifier != system.classifier:
        system = replace(system, classifier=classifier, classifier_options={})  # the options were another's
    overrides = {name: value for name, value in classifier_options.items() if value is not None}
    if overrides.get("kernel", "auto") != "auto":
        overrides["kernel"] = _parse_kernel(overrides["kernel"])
    return replace(system, classifier_options=system.classifier_options | overrides)


def parse_layer(text: str) -> LayerSpec:
    """Read ``filters=64,patch=3,subsampling=2,kernel=exp,sigma=0.6``.

    Coefficients of a series are separated by colons: ``kernel=series,coefficients=0.25:0.5:0.25``.
    """
    return LayerSpec.from_dict(parse_options(text, f"--layer {text}"))


def _parse_kernel(text: str) -> DotProductKernel:
    """Read ``arccos1`` or ``poly,degree=2,offset=1``."""
    options = parse_options(f"kernel={text}", f"--kernel {text}")
    kernel = kernel_from_dict(options)
    if options:
        raise InvalidSpec(f"--kernel {text}: the kernel {kernel.name} has no {', '.join(options)}")
    return kernel


def parse_preprocessing(texts: tuple[str, ...]) -> tuple[Preprocessor, ...] | None:
    """Read ``zca`` or ``zca,epsilon=0.03``, one after another; ``none`` is nothing and ``auto`` is None."""
    if texts in (("auto",), ("none",)):
        return None if texts == ("auto",) else ()
    preprocessing = []
    for text in texts:
        name, _, options = text.partition(",")
        if name in ("auto", "none"):
            raise InvalidSpec(f"--preprocess {name} goes with no other --preprocess")
        preprocessing.append(
            preprocessor_from_dict({"name": name} | parse_options(options, f"--preprocess {text}"))
        )
    return tuple(preprocessing)


def parse_options(text: str, where: str) -> dict[str, Any]:
    """Read ``name=value,name=value``; ``where`` is said in errors."""
    options: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        name, equals, value = item.partition("=")
        if not equals or not value:
            raise InvalidSpec(f"{where}: {item!r} is not of the form name=value")
        if name in options:
            raise InvalidSpec(f"{where}: {name} is given twice")
        options[name.strip()] = _parse_value(value.strip())
    return options


def _parse_value(text: str) -> Any:
    if ":" in text:
        return tuple(_parse_value(part) for part in text.split(":"))
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _from_config(path: str) -> System:
    """Read a TOML file; its form is in the README."""
    content = read_toml(path)
    known = ["encoders", "layers", "preprocessing", "symmetries", "classifier"]
    if unknown := sorted(set(content) - set(known)):
        raise InvalidSpec(f"{path}: there is no table {', '.join(unknown)}; there are {', '.join(known)}")
    tables = read_tables(content.get("encoders"), path, "encoders")
    alone: dict[str, Any] = {
        name: content[name] for name in ("layers", "preprocessing", "symmetries") if name in content
    }
    if "encoders" in content and alone:
        raise InvalidSpec(
            f"{path}: {', '.join(alone)} and encoders both describe encoders; put all of it into [[encoders]]"
        )
    classifier = content.get("classifier", {})
    if not isinstance(classifier, dict):
        raise InvalidSpec(f"{path}: classifier must be a table: [classifier] with a name")
    options = {name: value for name, value in classifier.items() if name != "name"}
    name = classifier.get("name", "ridge")
    if name not in (*CLASSIFIERS, "none"):
        raise InvalidSpec(f"{path}: there is no classifier {name!r}; there is {', '.join(CLASSIFIERS)}, none")
    return System([_encoder(table, path) for table in tables or [alone]], name, options)


def read_toml(path: str) -> dict[str, Any]:
    """The content of a configuration file."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSpec(f"cannot read the configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"{path} is not TOML: {error}") from error


def _encoder(table: dict[str, Any], path: str) -> EncoderSpec:
    """One encoder from its tables."""
    if unknown := sorted(set(table) - {"layers", "preprocessing", "symmetries"}):
        raise InvalidSpec(
            f"{path}: an encoder has no {', '.join(unknown)}; it has layers, preprocessing and symmetries"
        )
    layers = read_tables(table.get("layers"), path, "layers")
    if not layers:
        raise InvalidSpec(f"{path} describes no layer: it needs [[layers]] with filters, patch, subsampling")
    symmetries = Symmetries(**read_symmetries(table, path))
    specs = [LayerSpec.from_dict(layer) for layer in layers]
    return EncoderSpec(specs, read_preprocessing(table, path), symmetries)


def read_symmetries(table: dict[str, Any], path: str) -> dict[str, Any]:
    """Those of an encoder's table: flip and shift, where they are given."""
    symmetries = table.get("symmetries", {})
    if not isinstance(symmetries, dict) or set(symmetries) - {"flip", "shift"}:
        raise InvalidSpec(f"{path}: symmetries must be a table of flip and shift; it is {symmetries}")
    return symmetries


def read_preprocessing(table: dict[str, Any], path: str) -> tuple[Preprocessor, ...]:
    """That of an encoder's table."""
    steps = read_tables(table.get("preprocessing"), path, "preprocessing")
    return tuple(preprocessor_from_dict(step) for step in steps)


def read_tables(value: Any, path: str, name: str) -> list[dict[str, Any]]:
    """Check what a file has under a name: tables, or nothing."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise InvalidSpec(f"{path}: {name} must be tables: [[{name}]]")
    return value
