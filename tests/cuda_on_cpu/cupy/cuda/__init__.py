"""The device, its streams, its memory: CuPy's `cupy.cuda`."""

from .._memory import MemoryPointer, MemoryPool, alloc_pinned_memory
from .._streams import Event, Stream, get_current_stream, get_elapsed_time
from . import compiler, driver, memory, nvrtc, runtime
from .device import Device

__all__ = [
    "Device", "Event", "MemoryPointer", "Stream", "alloc_pinned_memory", "compiler", "driver",
    "get_current_stream", "get_elapsed_time", "memory", "nvrtc", "runtime",
]  # fmt: skip

memory_pool = MemoryPool()
