"""The device, its streams, its memory: CuPy's `cupy.cuda`."""

from types import ModuleType

from .._memory import MemoryPointer, MemoryPool, alloc_pinned_memory
from .._streams import Event, Stream, get_current_stream, get_elapsed_time
from . import compiler, driver, memory, nvrtc, runtime
from .device import Device

__all__ = [
    "Device", "Event", "MemoryPointer", "Stream", "alloc_pinned_memory", "compiler", "driver",
    "get_current_stream", "get_elapsed_time", "memory", "nvrtc", "runtime",
]  # fmt: skip

memory_pool = MemoryPool()


def __getattr__(name: str) -> ModuleType:
    """CuPy looks for libraries when somebody asks for them."""
    if name not in ("cublas", "cusolver"):
        raise AttributeError(f"module 'cupy.cuda' has no attribute {name!r}")
    if name in runtime.lacking():
        raise ImportError(f'Failure finding "lib{name}.so.13": No such file: lib{name}.so.13')
    return ModuleType(f"cupy.cuda.{name}")
