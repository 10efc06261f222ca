"""A stand-in for CuPy 14 on a machine without a GPU: arrays of the "device" lie in the host's memory.

It has what the backend of this project uses, is as strict as CuPy or stricter, and runs kernels through
the harness of the folder above.  See README.md there.
"""

import os as _os
from typing import Any

import numpy as _numpy

from . import cuda
from ._array import ndarray
from ._functions import (
    array,
    asarray,
    ascontiguousarray,
    asfortranarray,
    asnumpy,
    empty,
    empty_like,
    from_dlpack,
    full,
    full_like,
    linalg,
    of_numpy,
    ones,
    ones_like,
    zeros,
    zeros_like,
)
from ._module import KernelFault, RawKernel, RawModule

__version__ = _os.environ.get("CKNCUDA_CPU_CUPY_VERSION", "14.2.0")

__all__ = [
    "KernelFault", "RawKernel", "RawModule", "array", "asarray", "ascontiguousarray", "asfortranarray",
    "asnumpy", "cuda", "empty", "empty_like", "from_dlpack", "full", "full_like",
    "get_default_memory_pool", "linalg", "ndarray", "ones", "ones_like", "zeros", "zeros_like",
]  # fmt: skip


def get_default_memory_pool() -> Any:
    return cuda.memory_pool


def __getattr__(name: str) -> Any:
    return of_numpy(_numpy, name)
