"""Detection of a usable GPU.  The CUDA kernels themselves are not part of this version."""

import ctypes
import functools
import importlib.util


@functools.cache
def why_unavailable() -> str | None:
    """Why the CUDA backend cannot run on this machine, and what to do; None when it can.

    Asked lazily, never at import: a CUDA context made before a fork breaks the child processes.
    """
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed; with an NVIDIA GPU, install it with: pip install 'ckncuda[cuda13]'"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver on this machine (libcuda.so.1 was not found); use --backend numpy"
    import cupy

    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"CUDA finds no usable GPU ({error}); use --backend numpy"
    if devices == 0:
        return "CUDA finds no GPU; use --backend numpy"
    return "this version of ckncuda has no CUDA kernels yet; use --backend numpy"
