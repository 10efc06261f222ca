"""Backends: the handful of operations that are worth writing more than once.

`reference` defines each operation in float64, plainly; `numpy` is the fast one for a CPU, `cupy` for a GPU.
Nothing outside this room knows where an array lives.
"""

import functools
import logging
import os
import weakref
from dataclasses import dataclass
from typing import Any

from ckncuda.backend.operations import Backend
from ckncuda.backend.process_lock import ProcessLock
from ckncuda.errors import InvalidSpec
from ckncuda.given.parameters import shown, whole
from ckncuda.layer.spec import LayerSpec
from ckncuda.types import Shape

NAMES = ("numpy", "cupy", "reference")
LEAST_MEMORY = 64 << 20  # bytes
PLENTY = 10**100  # threads, or bytes: to ask for more than there is does no harm

__all__ = [
    "NAMES",
    "Backend",
    "BackendStatus",
    "KeptBackends",
    "backend_statuses",
    "get_backend",
    "shared_backend",
    "unfused_reason",
]

_SHARED: weakref.WeakValueDictionary[str, Backend] = weakref.WeakValueDictionary()
_SHARING = ProcessLock()


@dataclass(frozen=True)
class BackendStatus:
    """The state of a backend on this machine: whether it works, and if not, why and what to do."""

    name: str
    works: bool
    detail: str


def get_backend(
    name: str = "auto", *, threads: int | None = None, memory: int | None = None, precision: str = "float32"
) -> Backend:
    """Select a backend.

    Parameters
    ----------
    name : {"auto", "numpy", "cupy", "reference"}
        ``auto`` takes the environment variable ``CKNCUDA_BACKEND`` if it is set, else CUDA where it
        works, else NumPy.
    threads : int, optional
        CPU threads to use, of which more than there are cores are not started; by default as many as this
        process may run on: its cores, its quota of them (cgroups), or ``OMP_NUM_THREADS``, whatever is least.
    memory : int, optional
        Bytes that all of a fit or a prediction on a CPU keeps to, above the process with its imports: half
        for a sample of patches, an eighth for blocks of images; what needs more is refused before the work.
        By default 2 GiB for blocks and half of it for a sample, and no bound on what else must be held.
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
    name, origin = _named(name)
    if threads is not None:
        expected = "it must be a whole number of at least 1, such as 4"
        threads = whole("threads", threads, 1, expected, PLENTY)
    if memory is not None:
        expected = "it must be a whole number of bytes, at least 64 MiB, such as 2 * 2**30"
        memory = whole("memory", memory, LEAST_MEMORY, expected, PLENTY)
    if not isinstance(name, str) or name not in NAMES:
        raise InvalidSpec(f"there is no backend {shown(name)}{origin}; give auto, {', '.join(NAMES)}")
    # Imported on demand: nobody pays for a backend that is not used.
    if name == "cupy":
        from ckncuda.backend.cupy import CupyBackend

        return CupyBackend(memory, precision)
    if precision != "float32":
        raise InvalidSpec(
            f"the backend {name} has no precision {precision!r}; use --backend cupy, or float32"
        )
    if name == "numpy":
        from ckncuda.backend.numpy import NumpyBackend

        return NumpyBackend(threads, memory)
    from ckncuda.backend.reference import ReferenceBackend

    return ReferenceBackend(memory)


def shared_backend(backend: Backend | str) -> Backend:
    """Return a backend as it is, or the one of a name that all share as long as one of them keeps it.

    Plans, packed weights and threads are a backend's: whoever encodes one image after another keeps it.
    One of a GPU is made anew, for the device and the stream that are current.

    Examples
    --------
    >>> kept = shared_backend("numpy")
    >>> kept is shared_backend("numpy")
    True

    Raises
    ------
    InvalidSpec
        This is neither a backend nor the name of one.
    """
    if not isinstance(backend, str):
        return _checked(backend)
    name, _ = _named(backend)
    if name not in ("numpy", "reference"):
        return get_backend(backend)
    with _SHARING:
        shared = _SHARED.get(name)
        if shared is None:
            shared = _SHARED[name] = get_backend(name)
        return shared


class KeptBackends:
    """The backends that somebody, such as a model, computed with, kept for the next time.

    Copies and pickles of the keeper begin with none.

    Examples
    --------
    >>> kept = KeptBackends()
    >>> kept.of("numpy") is kept.of("numpy")
    True
    """

    def __init__(self) -> None:
        self._by_name: dict[str, Backend] = {}

    def of(self, backend: Backend | str) -> Backend:
        """Return a backend as it is, or the `shared_backend` of a name, and keep that one."""
        found = shared_backend(backend)
        if isinstance(backend, str) and found.name != "cupy":
            self._by_name[found.name] = found
        return found

    def __reduce__(self) -> tuple[type["KeptBackends"], tuple[()]]:
        return KeptBackends, ()


def _checked(backend: Any) -> Backend:
    """Return a backend; raise `InvalidSpec` for anything else."""
    if isinstance(backend, type) or not hasattr(backend, "images_per_block"):
        raise InvalidSpec(
            f"backend is {shown(backend)}; expected a name, {', '.join(('auto', *NAMES))}, or what "
            'get_backend gives, such as get_backend("numpy")'
        )
    checked: Backend = backend
    return checked


def backend_statuses() -> list[BackendStatus]:
    """Return what each backend can do on this machine."""
    from ckncuda.backend.numpy import available_threads, describe, why_plain
    from ckncuda.backend.reference import ReferenceBackend

    return [
        BackendStatus("numpy", True, describe(available_threads(), why_plain())),
        _cupy_status(),
        BackendStatus("reference", True, ReferenceBackend.description),
    ]


def unfused_reason(spec: LayerSpec, shape: Shape) -> str | None:
    """Return why a layer is not one fused kernel on a GPU, for inputs of a shape, or None; asks no GPU."""
    from ckncuda.backend.cupy.encode import unfused_reason as reason

    return reason(spec, shape)


def _named(name: str) -> tuple[str, str]:
    """Return the name of a backend in place of ``auto``, and, in words, where it is from."""
    origin = ""
    if name == "auto" and os.environ.get("CKNCUDA_BACKEND"):
        name, origin = os.environ["CKNCUDA_BACKEND"], " (from the environment variable CKNCUDA_BACKEND)"
    if name == "auto":
        name = "cupy" if _gpu_works() else "numpy"
    return name, origin


def _gpu_works() -> bool:
    """Say once, where the GPU would be taken but for something that is missing, that it is not."""
    from ckncuda.backend.cupy import unavailability

    found = unavailability()
    if found is not None and found.surprising:
        _warn_once(f"the GPU is not used, NumPy computes instead: {found.reason}")
    return found is None


@functools.cache
def _warn_once(message: str) -> None:
    logging.getLogger("ckncuda").warning("%s", message)


def _cupy_status() -> BackendStatus:
    from ckncuda.backend.cupy import describe, why_unavailable

    reason = why_unavailable()
    return BackendStatus("cupy", reason is None, describe() if reason is None else reason)
