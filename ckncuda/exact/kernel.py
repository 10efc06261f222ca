"""Exact kernels: layers of infinitely many filters, compared with one another in closed form."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckncuda.backend import Backend
from ckncuda.backend.operations import NormedMaps
from ckncuda.errors import InvalidSpec
from ckncuda.given.parameters import flag, listed, several
from ckncuda.layer.dot_product import ArcCosine, Exponential
from ckncuda.layer.spec import KernelLayer, LayerSpec, check_specs
from ckncuda.types import Array, Shape


@dataclass(frozen=True)
class ExactKernel:
    r"""The kernel of two images that a convolutional kernel network approximates with its anchor points.

    With G⁰(u, v) = ⟨x(u), y(v)⟩, each layer takes sums S over its patches, cosines t = S / (n_x n_y) and
    G' = A (n_x κ(t) n_y) Aᵀ, pooled in both images' coordinates; K(x, y) = Σ_u G(u, u) of the last layer.

    Parameters
    ----------
    layers : sequence of KernelLayer or LayerSpec
        From the image upwards.  What a `LayerSpec` says of anchor points is kept and not looked at; one that
        says nothing of them, but for one filter, is a `KernelLayer`.
    tangent : bool
        The neural tangent kernel of the convolutional network of these layers with infinitely many ReLU
        filters, all trained; the layers' kernels must be ``arccos1``.
    flip : bool
        Average over both images and their mirror images: K does not tell left from right then.

    References
    ----------
    J. Mairal, *End-to-end kernel learning with supervised convolutional kernel networks*, 2016;
    A. Bietti, *Approximation and learning with deep convolutional models: a kernel perspective*, 2022.

    Examples
    --------
    >>> layer = KernelLayer(patch=3, subsampling=2, kernel=Exponential(sigma=0.6))
    >>> ExactKernel([layer]) == ExactKernel.from_dict(ExactKernel([layer]).to_dict())
    True
    """

    layers: Sequence[KernelLayer | LayerSpec]
    tangent: bool = False
    flip: bool = False

    def __post_init__(self) -> None:
        expected = "expected a list of layers such as KernelLayer(patch=3, subsampling=2, kernel=…)"
        layers = several("layers", self.layers, (KernelLayer, LayerSpec), expected)
        both = [(layer, layer.without_anchors()) for layer in layers]
        # One filter, and all else as by default, stands in a file for no anchor points.
        layers = tuple(bare if layer == bare.with_anchors(1) else layer for layer, bare in both)
        object.__setattr__(self, "layers", layers)
        if not layers:
            raise InvalidSpec("an exact kernel needs at least one layer")
        for name in ("tangent", "flip"):
            object.__setattr__(self, name, flag(name, getattr(self, name)))
        for number, layer in enumerate(layers, 1):
            if isinstance(layer.kernel, Exponential) and layer.kernel.sigma is None:
                raise InvalidSpec(
                    f"layer {number}: an exact kernel learns nothing from images: give sigma, not quantile"
                )
            if self.tangent and layer.kernel != ArcCosine(1):
                raise InvalidSpec(
                    f"layer {number}: the tangent kernel is that of ReLU layers, kernel arccos1; "
                    f"its kernel is {layer.kernel.name}"
                )
            if isinstance(layer, LayerSpec) and layer.decorrelation:
                raise InvalidSpec(
                    f"layer {number}: decorrelation is {layer.decorrelation}; an exact kernel has no filters "
                    "to decorrelate: leave it out"
                )

    def check_shape(self, shape: Shape) -> None:
        """Raise `InvalidSpec` if the layers do not fit images (height, width, channels)."""
        check_specs(self.layers, shape)

    def block(
        self,
        first: Array | NormedMaps,
        second: Array | NormedMaps | None,
        backend: Backend,
    ) -> Array:
        """Compute the kernel [n, n2] of each of the first images with each of the second.

        Parameters
        ----------
        first, second : float32 or float64 [n, h, w, c], [n2, h, w, c], or NormedMaps
            In the host's memory, both of the type in which to compute.  What `normed` makes of images is
            worth keeping of those that are compared with many others in turn.  Second None: the first images
            with themselves, of whose pairs only half are computed.
        backend : Backend
        """
        one, symmetric = self.normed(first, backend), second is None
        other = one if second is None else self.normed(second, backend)
        compared = functools.partial(backend.gram_block, specs=self.layers, tangent=self.tangent)
        gram = compared(one, other, symmetric=symmetric)
        if not self.flip:
            return gram
        mirrored = self._mirrored(other, backend)
        # Where mirroring both images changes nothing, two of the four kernels are as the other two.
        if self._keeps_mirror_images(one.maps.shape[1:]):
            gram += compared(one, mirrored, symmetric=symmetric)
            gram /= 2
            return gram
        also = mirrored if symmetric else self._mirrored(one, backend)
        crossed = compared(one, mirrored)
        gram += crossed + (crossed.T if symmetric else compared(also, other))
        gram += compared(also, mirrored, symmetric=symmetric)
        gram /= 4
        return gram

    def normed(self, images: Array | NormedMaps, backend: Backend) -> NormedMaps:
        """Compute the norms of images' patches; those of an image take as long as a kernel of two images."""
        if isinstance(images, NormedMaps):
            return images
        return NormedMaps(images, backend.patch_norms(images, self.layers))

    def _mirrored(self, images: NormedMaps, backend: Backend) -> NormedMaps:
        maps = np.ascontiguousarray(images.maps[:, :, ::-1])
        if not self._keeps_mirror_images(maps.shape[1:]):
            return self.normed(maps, backend)
        return NormedMaps(maps, tuple(np.ascontiguousarray(norms[:, :, ::-1]) for norms in images.norms))

    def _keeps_mirror_images(self, shape: Shape) -> bool:
        """Return whether mirror images have mirrored maps: pooling and margins are symmetric."""
        for layer in self.layers:
            before, after = layer.margins[1]
            _, columns = layer.pooling_matrices(shape)
            if before != after or not np.allclose(columns, columns[::-1, ::-1], rtol=1e-12, atol=0):
                return False
            shape = layer.output_shape(shape)
        return True

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as a file holds it: a layer without anchor points has one filter there."""
        layers = [each.with_anchors(1) if isinstance(each, KernelLayer) else each for each in self.layers]
        return self.description() | {"layers": [layer.to_dict() for layer in layers]}

    def description(self) -> dict[str, Any]:
        """Return plain data without what concerns anchor points: the same for the same kernel alone."""
        layers = [layer.without_anchors().to_dict() for layer in self.layers]
        return {"layers": layers, "tangent": self.tangent, "flip": self.flip}

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> "ExactKernel":
        """Make a kernel from plain data, or raise `InvalidSpec`; layers need no ``filters`` there."""
        options = dict(options)
        layers = [LayerSpec.from_dict({"filters": 1} | layer) for layer in options.pop("layers", [])]
        if unknown := set(options) - {"tangent", "flip"}:
            raise InvalidSpec(
                f"an exact kernel has no option {listed(unknown)}; it has layers, tangent, flip"
            )
        return cls(layers, **options)
