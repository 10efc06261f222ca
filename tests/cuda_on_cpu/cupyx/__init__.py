"""A stand-in for CuPy's `cupyx`: pinned arrays, and a little of SciPy."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from cupy.cuda import alloc_pinned_memory
from numpy.typing import NDArray


def empty_pinned(shape: Any, dtype: Any = float, order: str = "C") -> NDArray[Any]:
    """An array of the host in pinned memory."""
    shape = tuple(shape) if np.iterable(shape) else (shape,)
    count = int(np.prod(shape, dtype=np.int64))
    memory = alloc_pinned_memory(count * np.dtype(dtype).itemsize)
    return np.frombuffer(memory, dtype, count).reshape(shape, order="F" if order == "F" else "C")


@contextlib.contextmanager
def errstate(**_: Any) -> Iterator[None]:
    """CuPy's choice of what to raise, which is not looked at here."""
    yield
