"""The device, its streams, its memory: CuPy's `cupy.cuda`."""

from typing import Any

from .._memory import MemoryPointer, MemoryPool, PinnedMemoryPointer, PinnedMemoryPool, alloc_pinned_memory
from .._streams import Event, Stream, get_current_stream, get_elapsed_time, synchronize_all
from . import compiler, driver, memory, nvrtc, runtime, stream
from .device import Device

__all__ = [
    "Device",
    "Event",
    "MemoryPointer",
    "MemoryPool",
    "PinnedMemoryPointer",
    "PinnedMemoryPool",
    "Stream",
    "alloc",
    "alloc_pinned_memory",
    "compiler",
    "driver",
    "get_current_stream",
    "get_elapsed_time",
    "is_available",
    "memory",
    "nvrtc",
    "runtime",
    "set_allocator",
    "stream",
    "synchronize_all",
]

memory_pool = MemoryPool()
pinned_memory_pool = PinnedMemoryPool()


def alloc(size: int) -> MemoryPointer:
    return memory_pool.malloc(size)


def set_allocator(allocator: Any = None) -> None: ...


def set_pinned_memory_allocator(allocator: Any = None) -> None: ...


def is_available() -> bool:
    return True


def get_device_id() -> int:
    return 0
