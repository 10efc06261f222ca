"""What a backend does: each operation said once, and how a host walks blocks of images."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ckncuda.backend.normed_maps import NormedMaps
from ckncuda.backend.sketch import Sketch
from ckncuda.layer import Layer, LayerSpec
from ckncuda.types import Array, Shape


class Backend(Protocol):
    """What every backend does, with arrays of its own and of its type (`dtype`)."""

    name: str
    description: str
    """How it computes, for people: library, type, threads."""
    dtype: Any
    memory_budget: int
    """Bytes that one call may use for its blocks of images."""

    def encode(self, maps: Array, layers: Sequence[Layer]) -> Array:
        """Patch, norm, κ, pool and project, layer after layer: maps [n, h, w, c] to [n, h', w', filters]."""
        ...

    def map_blocks(
        self,
        function: Callable[[Array], Array],
        blocks: Iterable[NDArray[Any]],
        out: NDArray[Any] | None = None,
    ) -> Iterator[NDArray[Any]]:
        """A function, such as `encode`, of block after block of images, to NumPy arrays.

        Parameters
        ----------
        function : callable
            From a block [b, h, w, c] of the backend's own arrays to a result [b, …]; of part of a block the
            result is that part of the block's result.
        blocks : iterable of arrays [b, h, w, c]
            NumPy's or the backend's.
        out : array [n, …], optional
            NumPy's or the backend's: where the results are written, one after the other; what is yielded are
            its parts then.
        """
        ...

    def sketch(self, patches: Array) -> Sketch | None:
        """What lets `nearest_anchor` leave out most products of these unit patches, if anything does."""
        ...

    def nearest_anchor(
        self, patches: Array, anchors: Array, sketch: Sketch | None = None
    ) -> tuple[NDArray[np.intp], Array]:
        """The anchor [k, d] of largest cosine to each unit patch [n, d]: its number and the cosine [n].

        The `sketch` of the patches changes nothing but the time.
        """
        ...

    def sum_by_anchor(self, patches: Array, nearest: NDArray[np.intp], anchors: int) -> Array:
        """Sums [anchors, d] of the patches [n, d] whose nearest anchor is each of so many."""
        ...

    def patch_norms(self, maps: Array, specs: Sequence[LayerSpec]) -> tuple[NDArray[np.float64], ...]:
        """Of the exact kernel: the norms [n, h_l, w_l] of the patches of images at each layer.

        Maps, float32 or float64 [n, h, w, c], and norms are in the host's memory.
        """
        ...

    def gram_block(
        self,
        first: NormedMaps,
        second: NormedMaps,
        specs: Sequence[LayerSpec],
        *,
        tangent: bool = False,
        symmetric: bool = False,
    ) -> NDArray[np.floating[Any]]:
        """The exact kernel of each of the first images with each of the second: [n, n2], on the host.

        Parameters
        ----------
        first, second : NormedMaps
            Both in float32 or both in float64, in which the kernel is computed.
        specs : sequence of LayerSpec
            From the image upwards.
        tangent : bool
            The neural tangent kernel; the layers' kernels are ``arccos1`` then.
        symmetric : bool
            Whether it is known that the result is symmetric: only one half is computed then.
        """
        ...

    def images_per_block(self, layers: Sequence[Layer], shape: Shape) -> int:
        """How many images of this shape to carry through these layers, or none, within `memory_budget`."""
        ...

    def empty(self, shape: tuple[int, ...]) -> Array:
        """An array for results: where the backend computes if there is room to go on, else NumPy's."""
        ...

    def asarray(self, array: NDArray[Any]) -> Array:
        """Bring an array to where the backend computes, as floating point; bytes 0…255 become 0…1."""
        ...

    def wait(self) -> None:
        """Return when all that was asked for has been computed."""
        ...

    def to_host(self, array: Array) -> Array:
        """Bring an array of the backend back as a NumPy array."""
        ...


class HostBlocks:
    """Blocks of images one after the other, results in host memory, nothing left to wait for."""

    dtype: DTypeLike

    def asarray(self, array: NDArray[Any]) -> NDArray[Any]:
        """See `ckncuda.backend.Backend`; each backend has its own."""
        raise NotImplementedError

    def map_blocks(
        self,
        function: Callable[[NDArray[Any]], NDArray[Any]],
        blocks: Iterable[NDArray[Any]],
        out: NDArray[Any] | None = None,
    ) -> Iterator[NDArray[Any]]:
        """One after the other."""
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

    def empty(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """In the host's memory."""
        return np.empty(shape, self.dtype)

    def wait(self) -> None:
        """Nothing is ever left to do."""

    def to_host(self, array: NDArray[Any]) -> NDArray[Any]:
        """Nothing to do."""
        return array
