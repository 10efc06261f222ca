"""Backends: the handful of operations that are worth writing more than once.

`reference` defines each operation in float64, plainly; `numpy` is the fast one for a CPU; a CUDA
backend is chosen through CuPy where it can run.  `get_backend` selects.  Nothing outside this room
knows where an array lives.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.normed_maps import NormedMaps
from ckncuda.backend.sketch import Sketch
from ckncuda.errors import InvalidSpec
from ckncuda.layer import Layer, LayerSpec, Shape

Array = NDArray[np.floating[Any]]

NAMES = ("numpy", "cupy", "reference")


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


@dataclass(frozen=True)
class BackendStatus:
    """Whether a backend works on this machine, and if not, why and what to do."""

    name: str
    works: bool
    detail: str


def get_backend(
    name: str = "auto",
    *,
    threads: int | None = None,
    memory: int | None = None,
    precision: str = "float32",
) -> Backend:
    """Select a backend.

    Parameters
    ----------
    name : {"auto", "numpy", "cupy", "reference"}
        ``auto`` takes the environment variable ``CKNCUDA_BACKEND`` if it is set, else CUDA where it
        works, else NumPy.
    threads : int, optional
        CPU threads to use; by default as many as this process may run on.
    memory : int, optional
        Bytes that a computation may use for its blocks of images, and half of it for a sample of
        patches; by default 2 GiB.
    precision : {"float32", "tf32", "bfloat16"}
        Of the products of patches and anchors on a GPU; a CPU computes in float32.

    Raises
    ------
    BackendUnavailable
        The backend cannot run here; the message says why and what to install.
    InvalidSpec
        There is no backend of that name, or an option is out of range.

    Examples
    --------
    >>> get_backend("numpy", threads=1).name
    'numpy'
    """
    origin = ""
    if name == "auto" and "CKNCUDA_BACKEND" in os.environ:
        name, origin = os.environ["CKNCUDA_BACKEND"], " (from the environment variable CKNCUDA_BACKEND)"
    if threads is not None and threads < 1:
        raise InvalidSpec(f"threads is {threads}; it must be at least 1")
    if memory is not None and memory < 64 << 20:
        raise InvalidSpec(f"memory is {memory} bytes; it must be at least 64 MiB")
    if name == "auto":
        name = "cupy" if _cupy_status().works else "numpy"
    if name not in NAMES:
        raise InvalidSpec(f"there is no backend {name!r}{origin}; the backends are auto, {', '.join(NAMES)}")
    if name == "cupy":
        return _cupy(memory, precision)
    if precision != "float32":
        raise InvalidSpec(
            f"the backend {name} has no precision {precision!r}; use --backend cupy, or float32"
        )
    return _numpy(threads, memory) if name == "numpy" else _reference(memory)


def backend_statuses() -> list[BackendStatus]:
    """What each backend can do on this machine."""
    from ckncuda.backend.numpy import available_threads, describe, has_numba
    from ckncuda.backend.reference import ReferenceBackend

    return [
        BackendStatus("numpy", True, describe(available_threads(), has_numba())),
        _cupy_status(),
        BackendStatus("reference", True, ReferenceBackend.description),
    ]


def _cupy_status() -> BackendStatus:
    from ckncuda.backend.cupy import describe, why_unavailable

    reason = why_unavailable()
    return BackendStatus("cupy", reason is None, describe() if reason is None else reason)


# Imported on demand: nobody pays for a backend that is not used.


def _numpy(threads: int | None, memory: int | None) -> Backend:
    from ckncuda.backend.numpy import NumpyBackend

    return NumpyBackend(threads=threads, memory=memory)


def _cupy(memory: int | None, precision: str) -> Backend:
    from ckncuda.backend.cupy import CupyBackend

    return CupyBackend(memory, precision)


def _reference(memory: int | None) -> Backend:
    from ckncuda.backend.reference import ReferenceBackend

    return ReferenceBackend(memory=memory)
