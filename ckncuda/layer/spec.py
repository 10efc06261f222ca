"""Layers before they have learned anything: `LayerSpec`, and `KernelLayer`, which never learns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from ckncuda.errors import InvalidSpec
from ckncuda.given.parameters import choice, instance, listed, number, whole
from ckncuda.layer.dot_product import KERNELS, DotProductKernel, kernel_from_dict
from ckncuda.layer.geometry import EvenPadding, Geometry, Padding, Patch, checked_patch
from ckncuda.layer.pooling import Alignment, Pooling
from ckncuda.layer.projection import Whitening
from ckncuda.types import Shape

Scale = Literal["norm", "floored_norm"]

_CHOICES = {
    "padding": Padding,
    "even_padding": EvenPadding,
    "pooling": Pooling,
    "alignment": Alignment,
    "whitening": Whitening,
    "scale": Scale,
}


class _PatchLayer(Geometry):
    """Geometry and κ: what layers have in common, whether they learn anchor points or not."""

    kernel: DotProductKernel
    norm_floor: float
    scale: Scale

    def __post_init__(self) -> None:
        checked = self._own()  # of a layer without anchor points fewer than those here
        for name, value in checked.items():
            if name == "patch":
                value = checked_patch(value)
            elif name in ("filters", "subsampling"):
                value = whole(name, value, 1)
            elif name in _CHOICES:
                value = choice(name, value, get_args(_CHOICES[name]))
            elif name in ("epsilon", "norm_floor"):
                value = number(name, value, lambda x: x >= 0, "it must be a number that is not negative")
            elif name == "decorrelation":
                value = number(name, value, lambda p: 0 <= p <= 0.5, "it must lie between 0 and 0.5")
            object.__setattr__(self, name, value)
        if self.norm_floor < 1e-30:
            raise InvalidSpec(
                f"norm_floor is {self.norm_floor}; it must be at least 1e-30, since patches of zeros "
                "are divided by it"
            )
        expected = "it must be a kernel such as Exponential(sigma=0.6)"
        instance("kernel", self.kernel, DotProductKernel, expected)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, the kernel's parameters among the layer's: what a configuration file holds."""
        own = self._own()
        del own["kernel"]
        if self.even_padding == "same":  # so that programs of before this option read such layers
            del own["even_padding"]
        return own | self.kernel.to_dict()

    def with_anchors(self, filters: int, **options: Any) -> "LayerSpec":
        """Return the layer of a network with so many anchor points, and further options of `LayerSpec`."""
        return LayerSpec(**(self._own() | {"filters": filters} | options))

    def without_anchors(self) -> "KernelLayer":
        """Return the layer of the exact kernel that this one is or approximates."""
        return KernelLayer(**{f.name: getattr(self, f.name) for f in fields(KernelLayer)})

    def _own(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]  # of dataclasses


@dataclass(frozen=True)
class KernelLayer(_PatchLayer):
    """A layer of an exact kernel: geometry and κ, all that there is where no anchor points are learned.

    A map of pairs of positions has one number for each of them: `channels` is 1.

    Parameters
    ----------
    patch, subsampling, kernel, padding, pooling, alignment, norm_floor, scale, even_padding
        See `LayerSpec`.

    Examples
    --------
    >>> from ckncuda import Exponential
    >>> layer = KernelLayer(patch=3, subsampling=2, kernel=Exponential(sigma=0.6))
    >>> layer.with_anchors(filters=64).without_anchors() == layer
    True
    """

    patch: Patch
    subsampling: int
    kernel: DotProductKernel
    padding: Padding = "zero"
    pooling: Pooling = "gaussian"
    alignment: Alignment = "corner"
    norm_floor: float = 1e-5
    scale: Scale = "norm"
    even_padding: EvenPadding = "same"


@dataclass(frozen=True)
class LayerSpec(_PatchLayer):
    """A convolutional kernel layer, before it has learned anything.

    More than nine parameters: each is a choice that published programs make differently.

    Parameters
    ----------
    filters : int
        Number of anchor points, the channels of the layer's output.
    patch : int or (int, int)
        Side k of the k×k patches, or their height and width, in positions.
    subsampling : int
        s: the output has one position for s×s positions of the input; 1 means no pooling.
    kernel : DotProductKernel
        κ, such as ``Exponential(sigma=0.6)``.
    padding : {"zero", "valid"}
        Patches centred at every position, the image surrounded by zeros (an even patch reaches one
        position further right and down than left and up); or only patches that lie inside the image.
    pooling : {"gaussian", "average", "strided"}
        Weights of the pooling.
    alignment : {"corner", "centered", "valid"}
        Where the pooled positions lie: from the first position on, centred, or at s, 2s, … without
        the last, as programs for exact kernels take them.
    whitening : {"ridge", "root"}
        How K_ZZ^{-1/2} is regularised: (λ + ε)^{-1/2} or 1/(√λ + ε).
    epsilon : float
        ε of the whitening.
    norm_floor : float
        The least norm by which a patch is divided.
    scale : {"norm", "floored_norm"}
        What κ is multiplied with: the patch's norm, so that a patch of zeros maps to zero, or the
        norm after flooring.
    decorrelation : float
        p from 0 (none) to 0.5: the output is multiplied by (C/λ̄ + 0.01)^{-p}, with C the covariance of its
        filters over training images and positions and λ̄ the mean eigenvalue of C.  It lets directions of
        small variance speak in what comes after: a kernel classifier sees more with 0.25 in the last layer.
    even_padding : {"same", "both"}
        Zeros around the image for a patch of an even side k: k/2 − 1 before it and k/2 behind, so that the
        map is as large as the image; or k/2 on both sides, so that it is larger by one, as Chen has it.

    Examples
    --------
    >>> from ckncuda import Exponential
    >>> spec = LayerSpec(filters=64, patch=3, subsampling=2, kernel=Exponential(sigma=0.6))
    >>> spec.output_shape((32, 32, 3))
    (16, 16, 64)
    >>> LayerSpec.from_dict(spec.to_dict()) == spec
    True
    """

    filters: int
    patch: Patch
    subsampling: int
    kernel: DotProductKernel
    padding: Padding = "zero"
    pooling: Pooling = "gaussian"
    alignment: Alignment = "corner"
    whitening: Whitening = "ridge"
    epsilon: float = 1e-3
    norm_floor: float = 1e-5
    scale: Scale = "norm"
    decorrelation: float = 0.0
    even_padding: EvenPadding = "same"

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> "LayerSpec":
        """Make a layer from what `to_dict` gave; options with defaults may be absent."""
        expected = 'expected options such as {"filters": 64, "patch": 3, "subsampling": 2, "sigma": 0.6}'
        options = dict(instance("options", options, Mapping, expected))
        known = [f.name for f in fields(cls)]
        name = options.get("kernel", "exp")
        try:
            kernel = kernel_from_dict(options)
        except InvalidSpec as error:
            if isinstance(name, str) and name in KERNELS and (unknown := sorted(set(options) - set(known))):
                raise InvalidSpec(f"{error}; there is no option {listed(map(repr, unknown))}") from error
            raise
        if unknown := sorted(set(options) - set(known)):
            raise InvalidSpec(
                f"a layer with the kernel {kernel.name} has no option {listed(map(repr, unknown))}; "
                f"it has {', '.join([*known, *list(kernel.to_dict())[1:]])}"
            )
        if missing := [name for name in ("filters", "patch", "subsampling") if name not in options]:
            raise InvalidSpec(f"a layer needs {', '.join(missing)}, such as filters=64,patch=3,subsampling=2")
        return cls(kernel=kernel, **options)


def check_specs(specs: Sequence[KernelLayer | LayerSpec], shape: Shape) -> list[Shape]:
    """Return the output shapes of a stack of layers, for images of a shape; an error names the layer."""
    shapes = []
    for place, spec in enumerate(specs, 1):
        try:
            shape = spec.output_shape(shape)
        except InvalidSpec as error:
            raise InvalidSpec(f"layer {place} does not fit: {error}") from error
        shapes.append(shape)
    return shapes


def check_differentiable(specs: Sequence[LayerSpec]) -> None:
    """Raise `InvalidSpec` unless κ of every layer has a bounded derivative, and all its parameters."""
    for place, spec in enumerate(specs, 1):
        if not spec.kernel.bounded_derivative:
            raise InvalidSpec(
                f"layer {place}: the derivative of the kernel {spec.kernel.name} is infinite at 1, so that "
                "there are no gradients through it; take another kernel, such as exp or arccos1"
            )
