"""CuPy's `cupy.cuda.memory`."""

from .._memory import OutOfMemoryError

__all__ = ["OutOfMemoryError"]
