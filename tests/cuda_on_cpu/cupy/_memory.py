"""The device's memory: what is taken, how much there is, and whether a kernel wrote beyond its arrays.

Every array of the device stands in an allocation that is counted until it dies.  What is allocated
without contents is NaN (all bits set), and so are the bytes before and after, which a kernel must leave
as they are: reading beyond an array gives NaN, writing there is found after the launch.
"""

import os
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

GUARD = 256
ALIGNMENT = 256
POISON = 0xFF


class OutOfMemoryError(MemoryError):
    """As CuPy's: the device has less memory than is asked for."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        super().__init__(
            f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes, "
            f"limit set to: {limit:,} bytes)."
        )


_allocations: dict[int, tuple[int, bool]] = {}  # bytes, and whether guards stand around them
_used = 0


def capacity() -> int:
    """Bytes of the device: `CKNCUDA_CPU_DEVICE_MEMORY`, or 8 GiB."""
    return int(os.environ.get("CKNCUDA_CPU_DEVICE_MEMORY", 8 << 30))


def used() -> int:
    """Bytes taken."""
    return _used


def allocate(size: int) -> NDArray[np.uint8]:
    """So many bytes of the device, all bits set, with guards around them."""
    _check(size)
    root = np.full(size + 2 * GUARD + ALIGNMENT, POISON, np.uint8)
    _count(root, size, True)
    start = GUARD + -(root.ctypes.data + GUARD) % ALIGNMENT
    return root[start : start + size]


def adopt(array: NDArray[Any]) -> None:
    """Count an array that NumPy made as the device's, unless it is a view of one that is."""
    root = root_of(array)
    if id(root) not in _allocations:
        _check(root.nbytes)
        _count(root, root.nbytes, False)


def root_of(array: NDArray[Any]) -> NDArray[Any]:
    """The array that holds the memory of this one."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def guards_hold(array: NDArray[Any]) -> bool:
    """Whether the bytes around the allocation of this array are as they were."""
    root = root_of(array)
    size, guarded = _allocations.get(id(root), (0, False))
    if not guarded:
        return True
    start = GUARD + -(root.ctypes.data + GUARD) % ALIGNMENT
    return bool((root[:start] == POISON).all() and (root[start + size :] == POISON).all())


def _check(size: int) -> None:
    if _used + size > capacity():
        raise OutOfMemoryError(size, _used, capacity())


def _count(root: NDArray[Any], size: int, guarded: bool) -> None:
    global _used
    _allocations[id(root)] = size, guarded
    _used += size
    weakref.finalize(root, _release, id(root)).atexit = False


def _release(key: int) -> None:
    global _used
    _used -= _allocations.pop(key)[0]


class MemoryPointer:
    """A place in the device's memory."""

    def __init__(self, memory: NDArray[np.uint8], offset: int = 0) -> None:
        self.mem, self.offset = memory, offset

    @property
    def ptr(self) -> int:
        return int(self.mem.ctypes.data) + self.offset


class MemoryPool:
    """CuPy's pool, of which nothing is kept here."""

    def used_bytes(self) -> int:
        return _used

    def free_bytes(self) -> int:
        return 0

    def free_all_blocks(self, stream: Any = None) -> None: ...


class PinnedMemoryPointer(bytearray):
    """Pinned memory of the host: copies to and from it go on while the host does other things."""

    @property
    def ptr(self) -> int:
        return int(np.frombuffer(self, np.uint8).ctypes.data)


_pinned: "weakref.WeakValueDictionary[int, PinnedMemoryPointer]" = weakref.WeakValueDictionary()


def alloc_pinned_memory(size: int) -> PinnedMemoryPointer:
    """At least so many bytes; like CuPy's pool, it gives more than it was asked for."""
    memory = PinnedMemoryPointer(b"\xff" * max(512, 1 << (size - 1).bit_length() if size > 1 else 1))
    _pinned[memory.ptr] = memory
    return memory


def is_pinned(array: NDArray[Any]) -> bool:
    """Whether an array of the host lies in pinned memory."""
    address = array.ctypes.data
    return any(start <= address < start + len(memory) for start, memory in list(_pinned.items()))
