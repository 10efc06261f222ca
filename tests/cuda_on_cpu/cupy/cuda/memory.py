"""CuPy's `cupy.cuda.memory`."""

from .._memory import MemoryPointer, MemoryPool, OutOfMemoryError

__all__ = ["MemoryPointer", "MemoryPool", "OutOfMemoryError"]
