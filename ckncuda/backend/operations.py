"""The operations of a backend, each said once, and a host's way through blocks of images."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ckncuda.errors import InvalidData
from ckncuda.layer.layer import Layer
from ckncuda.layer.spec import KernelLayer, LayerSpec, check_specs
from ckncuda.types import Array, Index, Shape

PairSpec = KernelLayer | LayerSpec
"""A layer of an exact kernel."""

Specs = Sequence[PairSpec]
"""The layers of an exact kernel, from the image upwards."""

Blocks = Iterable[NDArray[Any]]
"""Images [b, h, w, c] after images, NumPy's or the backend's."""

Upstream = Array | Callable[[Array, slice], Array]
"""The gradient of a number by the output of layers, of its shape; or a function that returns it.

The function is given the output of some of the images, an array of the backend, and which they are.
"""

AnchorSearch = Callable[[Array], tuple[Index, Array]]
"""Finds the nearest of any anchors [k, d] to the patches it was made for; see `Backend.anchor_search`."""


@dataclass(frozen=True, eq=False)
class NormedMaps:
    """Images in the host's memory, with the norm of every patch at every layer of an exact kernel."""

    maps: Array  # float32 or float64 [n, h, w, c]: exact kernels are computed in their type
    norms: tuple[NDArray[np.float64], ...]  # n(u) [n, h_l, w_l] of each layer, where its input lives

    def __len__(self) -> int:
        """Count the images."""
        return len(self.maps)

    def __getitem__(self, images: slice) -> "NormedMaps":
        """Return some of the images."""
        return NormedMaps(self.maps[images], tuple(norms[images] for norms in self.norms))

    def have_dark_patches(self, spec: PairSpec) -> bool:
        """Tell whether any patches, not of zeros, have norms below the floor by which they are divided.

        Then n t n' is not their inner product, which tangents of a fused first layer take it for.
        """
        norms = self.norms[0]
        return spec.scale == "norm" and bool(((norms > 0) & (norms < spec.norm_floor)).any())


class Backend(Protocol):
    """The operations that every backend has, on arrays of its own and of its type (`dtype`)."""

    name: str
    description: str  # library, type and threads, for people
    options: dict[str, Any]  # ``get_backend(**options)`` makes the same one, here or elsewhere
    dtype: Any
    memory_budget: int  # bytes that one call may use for its blocks of images

    def encode(self, maps: Array, layers: Sequence[Layer]) -> Array:
        """Patch, norm, κ, pool and project, layer after layer: maps [n, h, w, c] to [n, h', w', filters]."""

    def encode_backward(
        self, maps: Array, layers: Sequence[Layer], upstream: Upstream, *, by_maps: bool = True
    ) -> tuple[Array | None, list[NDArray[np.float64]]]:
        """Carry a gradient by `encode` of these maps back to gradients by the maps and by the anchor points.

        Parameters
        ----------
        maps : [n, h, w, c]
        layers : sequence of Layer
            κ of each has a bounded derivative.
        upstream : [n, h', w', filters] or function
            Gradient by the output.  A function is called once for each block of images, in their order, with
            the block's output [b, h', w', filters] and its slice of the n, and returns it: then the output
            that a loss is made of need not be computed twice.
        by_maps : bool
            False spares the gradient by the maps, which a training has no use for.

        Returns
        -------
        gradient by the maps : [n, h, w, c], an array of the backend, or None
        gradients by the anchor points : list of float64 [filters, height, width, channels]
            On the host, one a layer, through K_ZZ^{-1/2} too, as if they were not bound to the sphere.

        Raises
        ------
        InvalidSpec
            The derivative of a κ is not bounded.
        InvalidData
            ``upstream`` is not of the output's shape, or maps are not of the layers' channels.
        """

    def map_blocks(
        self, function: Callable[[Array], Array], blocks: Blocks, out: NDArray[Any] | None = None
    ) -> Iterator[NDArray[Any]]:
        """Apply a function, such as `encode`, to block after block of images, and yield NumPy arrays.

        The function takes the backend's arrays, and may be given parts of a block.  Results are written to
        ``out`` [n, …], NumPy's or the backend's, if it is given: its parts are what is yielded then.
        """

    def each_image(self, function: Callable[[Array], Array], images: Array, size: int) -> Array:
        """Apply a function that takes each image by itself, and keeps its shape, to images [n, h, w, c].

        Where there are threads, each takes so many images at a time.
        """

    def nearest_anchor(self, patches: Array, anchors: Array) -> tuple[Index, Array]:
        """Return the number of the anchor [k, d] of largest cosine to each unit patch [n, d], and the cosine.

        Both are [n]; of equal anchors the first is taken.
        """

    def anchor_search(self, patches: Array) -> AnchorSearch:
        """Return `nearest_anchor` of these patches for any anchors, about as many each time.

        What spares products is prepared once.
        """

    def sum_by_anchor(self, patches: Array, nearest: Index, anchors: int) -> Array:
        """Sum the patches [n, d] whose nearest anchor is each of so many: [anchors, d]."""

    def patch_norms(self, maps: Array, specs: Specs) -> tuple[NDArray[np.float64], ...]:
        """Compute the norms [n, h_l, w_l] of the patches of images at each layer of an exact kernel.

        Maps, float32 or float64 [n, h, w, c], and norms are in the host's memory.
        """

    def gram_block(
        self,
        first: NormedMaps,
        second: NormedMaps,
        specs: Specs,
        *,
        tangent: bool = False,
        symmetric: bool = False,
    ) -> Array:
        """Compute the exact kernel of each of the first images with each of the second: [n, n2], on the host.

        Both are in float32 or both in float64, in which it is computed.  ``tangent`` asks for the neural
        tangent kernel of layers of κ ``arccos1``; of what is known to be ``symmetric`` one half is computed.
        """

    def images_per_block(self, layers: Sequence[Layer], shape: Shape) -> int:
        """Count the images of this shape that go through these layers, or none, within `memory_budget`."""

    def bytes_at_once(
        self, specs: Sequence[LayerSpec], shape: Shape, memory: int, *, back: bool = False
    ) -> int:
        """Count the host's bytes of a block of images of this shape in layers, if it may take so many.

        ``back`` counts those of the way back through them too.
        """

    def empty(self, shape: tuple[int, ...]) -> Array:
        """Return an array for results: where the backend computes if there is room to go on, else NumPy's."""

    def asarray(self, array: NDArray[Any]) -> Array:
        """Bring an array to where the backend computes, as floating point; bytes 0…255 become 0…1."""

    def wait(self) -> None:
        """Return when all that was asked for has been computed."""

    def to_host(self, array: Array) -> Array:
        """Bring an array of the backend back as a NumPy array."""


class HostBlocks(Backend):
    """Blocks of images one after the other, results in host memory, nothing left to wait for."""

    def anchor_search(self, patches: Array) -> AnchorSearch:
        """Prepare nothing: every call computes all products."""
        return functools.partial(self.nearest_anchor, patches)

    def each_image(self, function: Callable[[Array], Array], images: Array, size: int) -> Array:
        """Take all at once."""
        return function(images)

    def map_blocks(
        self, function: Callable[[Array], Array], blocks: Blocks, out: NDArray[Any] | None = None
    ) -> Iterator[NDArray[Any]]:
        """Take one block after the other."""
        done = 0
        for block in blocks:
            result = function(self.asarray(block))
            del block  # while the next one is read, this one need not be there
            if out is not None:
                part = out[done : done + len(result)]
                part[...] = result
                result = part
            done += len(result)
            yield result
            del result

    def bytes_at_once(
        self, specs: Sequence[LayerSpec], shape: Shape, memory: int, *, back: bool = False
    ) -> int:
        """Return all that it may take."""
        return memory

    def empty(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return an array in the host's memory."""
        return np.empty(shape, self.dtype)

    def wait(self) -> None:
        """Return at once: nothing is ever left to do."""

    def to_host(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the array, which is on the host."""
        return array


def in_parts(
    upstream: Upstream, layers: Sequence[Layer], shape: tuple[int, ...]
) -> Callable[[Array, slice], Array]:
    """Return a function that gives the gradient by the output of some of the maps of a shape [n, h, w, c].

    It raises `InvalidData` where the gradient is not of the shape of the output.
    """
    outputs = check_specs([layer.spec for layer in layers], (shape[1], shape[2], shape[3]))
    out = outputs[-1] if outputs else shape[1:]

    def checked(gradient: Array, expected: tuple[int, ...]) -> Array:
        if gradient.dtype == np.uint8:  # which backends take for pixels of 0…255
            gradient = gradient.astype(np.float32)
        if tuple(gradient.shape) != expected:
            raise InvalidData(
                f"the gradient is of shape {list(gradient.shape)}; the output of the layers is of "
                f"{list(expected)}"
            )
        return gradient

    if callable(upstream):
        function = upstream
        return lambda encoded, images: checked(function(encoded, images), tuple(encoded.shape))
    whole = checked(upstream, (shape[0], *out))
    return lambda encoded, images: whole[images]


def promised_memory(backend: Backend) -> int | None:
    """Return the bytes that all of a fit or a prediction shall keep to, where they were given; else None.

    Then a sample of patches takes half of them, and images that are held, these once preprocessed and blocks
    on their way an eighth each.  By default blocks alone are bounded.  A GPU's memory is its own.
    """
    given: int | None = backend.options.get("memory")
    return given if backend.name == "numpy" else None


def block_memory(backend: Backend) -> int | None:
    """Return the eighth of the `promised_memory`, where there is one."""
    promised = promised_memory(backend)
    return None if promised is None else promised // 8


def mirror(gram: NDArray[Any]) -> None:
    """Copy what is above the diagonal of a square matrix below it."""
    lower = np.tril_indices(len(gram), -1)
    gram[lower] = gram.T[lower]
