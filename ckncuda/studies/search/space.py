"""The space of a search: networks, preprocessing and classifiers that fit the images."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ckncuda.errors import InvalidSpec
from ckncuda.images.preprocess import Preprocessor, preprocessor_from_dict
from ckncuda.images.symmetries import Symmetries
from ckncuda.layer.dot_product import Exponential
from ckncuda.layer.spec import LayerSpec
from ckncuda.model.presets import MOST_FOR_KERNEL_RIDGE
from ckncuda.model.system import System
from ckncuda.network.encoder import EncoderSpec
from ckncuda.supervised.encoder import TrainedEncoderSpec
from ckncuda.types import Shape

VERSION = 1  # of the space: a search goes on in the space in which it began
PATCHES = 40  # sampled for each filter: more change little and take as much longer
ZCA_SIZE = 4096  # numbers an image: beyond, its eigenvectors alone take a minute
TWO_LAYERS_SIDE = 6  # pixels: below, nothing is left for a second layer to look at
LARGE_SIDE = 16  # pixels from which on the first layer may be subsampled by 3
PATCHES_PER_FILTER = 10  # at least, as the presets have it
_CLASSIFIERS: Mapping[str, Mapping[str, Any]] = {
    "ridge": {},
    "kernel-ridge arccos1": {"kernel": "arccos1"},
    "kernel-ridge auto": {"kernel": "auto"},
}


@dataclass(frozen=True)
class Range:
    """Whole numbers from low to high, or others in steps or on a logarithmic scale."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return math.isclose(steps, round(steps), abs_tol=1e-6)


Parameter = Range | tuple[Any, ...]


class SearchSpace:
    """The parameters of a search over systems for images of one shape.

    Every choice of parameters is a system that fits the images: patches, positions and filters are
    lowered where the images are too small or too few for them.

    Parameters
    ----------
    shape : (height, width, channels)
    images : int
        In all.
    fewest : int
        Images that a trial is fitted on first: they must have patches enough for all filters.
    memory : int, optional
        Bytes that features and classifier may take; by default half of the machine's.

    Attributes
    ----------
    parameters : dict
        By name: a `Range`, or a tuple of choices.  Filters are powers of two, given by their exponents.
    """

    def __init__(self, shape: Shape, images: int, fewest: int, memory: int | None = None) -> None:
        height, width, channels = shape
        side = min(height, width)
        self.shape, self.images, self.fewest = shape, images, fewest
        self.memory = physical_memory() // 2 if memory is None else memory
        preprocessing = ["none", "standardize"]
        preprocessing += ["local_whitening"] if side >= 3 else []
        preprocessing += ["zca"] if height * width * channels <= ZCA_SIZE else []
        classifiers = tuple(_CLASSIFIERS) if images <= MOST_FOR_KERNEL_RIDGE else ("ridge",)
        self.parameters: dict[str, Parameter] = {
            "layers": Range(1, 2 if side >= TWO_LAYERS_SIDE else 1, step=1),
            "first_filters_log2": Range(5, 8, step=1),
            "first_patch": (2, 3, 5),
            "first_sigma": Range(0.4, 0.9, step=0.01),
            "first_subsampling": (2, 3) if side >= LARGE_SIDE else (1, 2),
            "last_filters_log2": Range(8, 11, step=1),
            "last_patch": (2, 3, 5),
            "last_sigma": Range(0.4, 0.9, step=0.01),
            "last_positions": (2, 3, 4),
            "last_decorrelation": (0.0, 0.25, 0.4),
            "preprocessing": tuple(preprocessing),
            "zca_epsilon": Range(0.03, 3, log=True),
            "classifier": classifiers,
        }
        if channels >= 3:  # photographs; of greyscale images many are writing, which has no mirror symmetry
            self.parameters["flip"] = (False, True)

    def draw(self, trial: Any) -> System:
        """Return the system of a trial, an `optuna.trial.BaseTrial` that chooses the parameters."""
        layers: list[LayerSpec] = []
        shape = self.shape
        if self.suggest(trial, "layers") == 2:
            layers.append(self._layer(trial, "first", shape, self.suggest(trial, "first_subsampling")))
            shape = layers[0].output_shape(shape)
        remaining = min(shape[:2])
        subsampling = -(-remaining // min(self.suggest(trial, "last_positions"), remaining))
        decorrelation = self.suggest(trial, "last_decorrelation")
        layers.append(self._layer(trial, "last", shape, subsampling, decorrelation=decorrelation))
        preprocessing = self._preprocessing(trial)
        flip = self.suggest(trial, "flip") if "flip" in self.parameters else False
        name = self.suggest(trial, "classifier")
        encoder = EncoderSpec(layers, preprocessing, Symmetries(flip=flip))
        return System([encoder], name.partition(" ")[0], _CLASSIFIERS[name], enough_patches(encoder))

    def suggest(self, trial: Any, name: str) -> Any:
        """Return the value that an Optuna trial chooses for a parameter."""
        parameter = self.parameters[name]
        if isinstance(parameter, tuple):
            return trial.suggest_categorical(name, parameter)
        if parameter.step == 1:
            return trial.suggest_int(name, int(parameter.low), int(parameter.high))
        value = trial.suggest_float(
            name, parameter.low, parameter.high, step=parameter.step, log=parameter.log
        )
        return float(f"{value:.2g}")  # no more places than anybody would give

    def matching(self, system: System) -> dict[str, Any]:
        """Return the parameters that say of a system what the space has words for, to learn from it."""
        (encoder,) = system.networks
        layers = encoder.layers
        ridge = system.classifier == "kernel-ridge"
        kernel = f" {system.classifier_options.get('kernel', 'auto')}" if ridge else ""
        found: dict[str, Any] = {
            "layers": len(layers),
            "classifier": system.classifier + kernel,
            "flip": encoder.symmetries.flip,
        }
        preprocessing = encoder.preprocessing or ()
        if len(preprocessing) < 2:
            options = preprocessing[0].to_dict() if preprocessing else {"name": "none"}
            found["preprocessing"] = options["name"]
            if "epsilon" in options:
                found["zca_epsilon"] = options["epsilon"]
        if len(layers) == 2:
            found |= _layer_parameters("first", layers[0]) | {"first_subsampling": layers[0].subsampling}
        if len(layers) in (1, 2):
            found |= _layer_parameters("last", layers[-1])
            found["last_positions"] = min(encoder.output_shape(self.shape)[:2])
            found["last_decorrelation"] = layers[-1].decorrelation
        known = self.parameters
        return {name: value for name, value in found.items() if name in known and value in known[name]}

    def _layer(self, trial: Any, place: str, shape: Shape, subsampling: int, **options: Any) -> LayerSpec:
        side = min(shape[:2])
        most = max(1, self.fewest * shape[0] * shape[1] // PATCHES_PER_FILTER)
        filters = min(2 ** int(self.suggest(trial, f"{place}_filters_log2")), most)
        if place == "last":
            positions = math.prod(-(-size // subsampling) for size in shape[:2])
            while filters > 1 and self._bytes(filters * positions) > self.memory:
                filters //= 2
        return LayerSpec(
            filters=filters,
            patch=min(self.suggest(trial, f"{place}_patch"), side),
            subsampling=min(subsampling, side),
            kernel=Exponential(sigma=self.suggest(trial, f"{place}_sigma")),
            **options,
        )

    def _bytes(self, features: int) -> int:
        """Count the bytes that features and the classifier's square matrices take at most."""
        return 4 * self.images * features + 3 * 8 * min(self.images, features) ** 2

    def _preprocessing(self, trial: Any) -> list[Preprocessor]:
        name = self.suggest(trial, "preprocessing")
        options = {"epsilon": self.suggest(trial, "zca_epsilon")} if name == "zca" else {}
        return [] if name == "none" else [preprocessor_from_dict({"name": name} | options)]


def physical_memory() -> int:
    """Return the memory of the machine in bytes; 8 GiB where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 8 << 30


def system_of_preset(name: str, images: int, shape: Shape) -> System | None:
    """Return a preset if a search can judge it: one encoder that fits, leave-one-out accuracy; else None.

    One that is trained end to end is judged on few images that have chosen its epoch as well: that is
    another measure, and an optimistic one.
    """
    try:
        system = System.preset(name, images, shape)
        if system.classifier not in ("ridge", "kernel-ridge") or len(system.networks) != 1:
            return None
        if isinstance(system.networks[0], TrainedEncoderSpec):
            return None
        system.check(shape)
    except InvalidSpec:
        return None
    return replace(system, patches=min(system.patches, enough_patches(system.networks[0])))


def work(system: System, shape: Shape) -> int:
    """Count the multiply-adds with anchor points that an image of this shape takes."""
    (encoder,) = system.networks
    total = 0
    for layer in encoder.layers:
        height, width, filters = layer.map_shape(shape)
        total += height * width * filters * layer.terms(shape[2])
        shape = layer.output_shape(shape)
    return total * len(encoder.symmetries)


def enough_patches(encoder: EncoderSpec) -> int:
    """Count the patches that a search samples for each layer, of presets too: they compete on equal terms."""
    return PATCHES * max(layer.filters for layer in encoder.layers)


def _layer_parameters(place: str, layer: LayerSpec) -> dict[str, Any]:
    """Return a layer's filters, patch and σ under the names of the space."""
    found: dict[str, Any] = {f"{place}_patch": layer.patch}
    exponent = math.log2(layer.filters)
    if exponent.is_integer():
        found[f"{place}_filters_log2"] = int(exponent)
    if isinstance(layer.kernel, Exponential) and layer.kernel.sigma is not None:
        found[f"{place}_sigma"] = layer.kernel.sigma
    return found
