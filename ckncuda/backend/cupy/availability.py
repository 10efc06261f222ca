"""The CUDA backend's needs, looked for in the order in which they are met: why it cannot run here."""

import ctypes
import functools
import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ckncuda.errors import installing, pass_on_interruption

LEAST_CUPY = 14, 2
"""Older ones do not find kernels of templates among their compiled ones, and compile at each start."""

LEAST_CAPABILITY = 75
NO_DEVICE, DRIVER_TOO_OLD = 100, 35  # CUDA's numbers of errors

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_PROBE = 'extern "C" __global__ void ckn_probe(float* x) { *x = 1; }'


@dataclass(frozen=True)
class Unavailability:
    """Why the CUDA backend cannot run on this machine.

    Attributes
    ----------
    reason : str
        In words, with what to do.
    surprising : bool
        A driver and CuPy are installed, so that somebody who does not ask for a backend expects the GPU.
    """

    reason: str
    surprising: bool


def why_unavailable() -> str | None:
    """Say why the CUDA backend cannot run on this machine, and what to do; None when it can."""
    found = unavailability()
    return None if found is None else found.reason


@functools.cache
def unavailability() -> Unavailability | None:
    """Find out, once in a process, why the CUDA backend cannot run; None when it can.

    Asked lazily, never at import: a CUDA context made before a fork breaks the child processes.
    """
    if importlib.util.find_spec("cupy") is None:
        return Unavailability(f"CuPy is not installed; with an NVIDIA GPU, {how_to_install(13)}", False)
    try:
        ctypes.CDLL(_DRIVER)
    except OSError:
        reason = f"there is no NVIDIA driver on this machine ({_DRIVER} was not found); use --backend numpy"
        return Unavailability(reason, False)
    if said := _refusal(lambda: __import__("cupy")):
        return Unavailability(f"CuPy cannot be imported ({said}); {how_to_install(13)}", True)
    import cupy

    return _of_device(cupy) or _of_installation(cupy)


def how_to_install(cuda: int, package: str = "it") -> str:
    """Say how to install CuPy for a version of CUDA, with all that it needs: compiler, headers, libraries."""
    return f"install {package} with: {installing(f'cuda{cuda}')}"


def _of_device(cupy: Any) -> Unavailability | None:
    """Look for a device that our kernels run on."""
    runtime = cupy.cuda.runtime
    try:
        devices = runtime.getDeviceCount()
        capability = int(cupy.cuda.Device().compute_capability) if devices else 0
    except Exception as error:  # a broken driver, too, has many ways to say so
        pass_on_interruption(error)
        status = getattr(error, "status", None)
        if status == DRIVER_TOO_OLD:
            return Unavailability(_driver_too_old(runtime), True)
        reason = f"CUDA finds no usable GPU ({_one_line(error)}); use --backend numpy"
        return Unavailability(reason, status != NO_DEVICE)
    if devices == 0:
        return Unavailability("CUDA finds no GPU; use --backend numpy", False)
    if capability < LEAST_CAPABILITY:
        reason = f"this GPU has compute capability {capability / 10}, and 7.5 is needed; use --backend numpy"
        return Unavailability(reason, True)
    return None


def _driver_too_old(runtime: Any) -> str:
    known, wanted = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if known == 0:  # of a library without a driver behind it
        return f"the NVIDIA driver does not answer; CuPy is for CUDA {_version(wanted)}; use --backend numpy"
    older = f", or {how_to_install(12, 'CuPy for CUDA 12')}" if known // 1000 == 12 < wanted // 1000 else ""
    return (
        f"the NVIDIA driver is too old: it knows CUDA {_version(known)}, CuPy is for {_version(wanted)}; "
        f"install a newer driver{older}"
    )


def _of_installation(cupy: Any) -> Unavailability | None:
    """Look at what CuPy needs besides a GPU: what it cannot find it asks for in the middle of the work."""
    install = how_to_install(cupy.cuda.runtime.runtimeGetVersion() // 1000, "CuPy and what it needs")
    version = tuple(map(int, re.findall(r"\d+", cupy.__version__)[:2]))
    if version < LEAST_CUPY:
        reason = f"CuPy {cupy.__version__} is installed, and {'.'.join(map(str, LEAST_CUPY))} is needed"
        return Unavailability(f"{reason}; {install}", True)
    for what, look in (
        ("the compiler of kernels, NVRTC", lambda: cupy.cuda.nvrtc.getVersion()),
        ("the headers of CUDA", lambda: cupy.RawModule(code=_PROBE).get_function("ckn_probe")),
        ("the library cuBLAS", lambda: cupy.cuda.cublas),
        ("the library cuSOLVER", lambda: cupy.cuda.cusolver),
    ):
        if said := _refusal(look):
            return Unavailability(f"CuPy does not find {what} ({said}); {install}", True)
    return None


def _refusal(look: Callable[[], object]) -> str | None:
    """Return how something fails, or None: it does not."""
    try:
        look()
    except Exception as error:  # a CuPy of which parts are missing has many ways to say so
        pass_on_interruption(error)
        return _one_line(error)
    return None


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}{'…' * (len(text) > 200)}"


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
