"""Backends: the handful of operations that are worth writing more than once.

`reference` defines each operation in float64, plainly; `numpy` is the fast one for a CPU, `cupy` for a GPU.
Nothing outside this room knows where an array lives.
"""

import functools
import logging
import operator
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckncuda.backend.operations import Backend
from ckncuda.errors import InvalidSpec
from ckncuda.given.parameters import shown
from ckncuda.layer.spec import LayerSpec
from ckncuda.types import Shape

NAMES = ("numpy", "cupy", "reference")

__all__ = [
    "NAMES",
    "Backend",
    "BackendStatus",
    "backend_statuses",
    "chosen_backend",
    "get_backend",
    "unfused_reason",
]


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
        Bytes for a computation's blocks of images, half of them for a sample of patches; by default 2 GiB.
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
    if name == "auto" and os.environ.get("CKNCUDA_BACKEND"):
        name, origin = os.environ["CKNCUDA_BACKEND"], " (from the environment variable CKNCUDA_BACKEND)"
    threads = _whole("threads", threads, "at least 1, such as 4")
    memory = _whole("memory", memory, "a number of bytes, at least 64 MiB, such as 2 * 2**30")
    if threads is not None and threads < 1:
        raise InvalidSpec(f"threads is {threads}; it must be at least 1")
    if memory is not None and memory < 64 << 20:
        raise InvalidSpec(f"memory is {memory} byte{'s' * (memory != 1)}; it must be at least 64 MiB")
    if name == "auto":
        name = "cupy" if _gpu_works() else "numpy"
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


def chosen_backend(backend: Backend | str) -> Backend:
    """Return a backend itself, or that of a name; raise `InvalidSpec` for anything else."""
    if isinstance(backend, str):
        return get_backend(backend)
    if isinstance(backend, type) or not hasattr(backend, "images_per_block"):
        raise InvalidSpec(
            f"backend is {shown(backend)}; expected a name, {', '.join(('auto', *NAMES))}, or what "
            'get_backend gives, such as get_backend("numpy")'
        )
    return backend


def _whole(name: str, value: Any, expected: str) -> int | None:
    """Return a whole number of any type that has them, or None; True is none."""
    if value is None:
        return None
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return operator.index(value)
    except TypeError as error:
        raise InvalidSpec(f"{name} is {value!r}; it must be a whole number, {expected}") from error


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
