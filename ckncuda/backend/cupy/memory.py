"""Blocks of images through the GPU: while one is computed, the next is copied there and the last one back.

Each of two slots has a stream of its own and memory of the host that does not move (pinned), which the
device reads and writes by itself.  A slot's memory is used again only once its stream has come to an end.
Blocks that are on the device already, and results that stay there, are not copied.
"""

import collections
import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from ckncuda.errors import OutOfMemory

SLOTS = 2


class _Slot:
    """One block under way."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._pinned: dict[str, NDArray[np.uint8]] = {}
        self._device: tuple[Any, ...] = ()
        self._result: NDArray[Any] = np.empty(0, np.float32)

    def begin(self, block: Any, function: Callable[[Any], Any], part: Any = None) -> None:
        """Queue the copy there, the computation and the copy back, or that into a part of a larger array."""
        # What is queued on the current stream may compute the block, or may still use the part's memory.
        before = self._cupy.cuda.get_current_stream().record()
        if isinstance(block, np.ndarray):
            dtype = np.uint8 if block.dtype == np.uint8 else np.float32  # bytes travel as bytes
            images = self._host_memory("images", block.shape, dtype)
            images[...] = block
        with self._stream:
            self._stream.wait_event(before)
            if isinstance(block, np.ndarray):
                block = self._cupy.empty(images.shape, images.dtype)
                block.set(images, stream=self._stream)
            result = function(block)
            if part is None:
                self._result = self._host_memory("result", result.shape, np.float32)
                result.get(out=self._result, stream=self._stream, blocking=False)
            else:
                part[...] = result
                self._result = part
        self._device = block, result

    def end(self) -> NDArray[Any]:
        """Wait, and return the part, or the result in memory that the next `begin` uses again."""
        self._stream.synchronize()
        self._device = ()
        return self._result

    def _host_memory(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> NDArray[Any]:
        count = int(np.prod(shape))
        size = max(1, count * np.dtype(dtype).itemsize)
        if name not in self._pinned or self._pinned[name].size < size:
            try:
                memory = self._cupy.cuda.alloc_pinned_memory(size)
            except self._cupy.cuda.runtime.CUDARuntimeError as error:
                raise OutOfMemory(
                    f"the host gives the GPU no {size >> 20} MiB that stay in their place: {error}; "
                    "use a smaller --memory"
                ) from error
            self._pinned[name] = np.frombuffer(memory, np.uint8, size)
        return self._pinned[name][: count * np.dtype(dtype).itemsize].view(dtype).reshape(shape)


def map_blocks(
    cupy: Any,
    function: Callable[[Any], Any],
    blocks: Iterable[NDArray[Any]],
    out: Any = None,
) -> Iterator[NDArray[Any]]:
    """A function of block after block, its results in host memory unless ``out`` is on the device.

    A block for which the device has no memory comes in halves.

    Parameters
    ----------
    cupy : module
    function : callable
        From a block to its result, both on the device, on the current stream.
    blocks : iterable of arrays [b, h, w, c]
        In host memory, or on the device, computed on the current stream.
    out : array [n, …], optional
        In host memory or on the device: where the results go, one after the other; what is yielded are
        its parts.
    """
    slots = [_Slot(cupy) for _ in range(SLOTS)]
    under_way: collections.deque[_Slot] = collections.deque()
    begun = done = 0

    def finished() -> NDArray[Any]:
        nonlocal done
        result = under_way.popleft().end()
        if out is None:
            return result.copy()
        if not isinstance(out, np.ndarray):
            return result
        part = out[done : done + len(result)]
        part[...] = result
        done += len(result)
        return part

    source, waiting = iter(blocks), collections.deque[Any]()
    try:
        while True:
            if not waiting:
                waiting.extend(itertools.islice(source, 1))
            if not waiting:
                break
            block = waiting.popleft()
            if len(under_way) == SLOTS:
                yield finished()
            slot = next(slot for slot in slots if slot not in under_way)
            stays = out is not None and not isinstance(out, np.ndarray)
            part = out[begun : begun + len(block)] if stays else None
            if _has_room(cupy, functools.partial(slot.begin, block, function, part)):
                begun += len(block)
                under_way.append(slot)
                continue
            alone = not under_way
            while under_way:  # what is done gives memory back
                yield finished()
            slot.end()
            cupy.get_default_memory_pool().free_all_blocks()
            if not alone:
                waiting.appendleft(block)
            elif len(block) > 1:
                half = -(-len(block) // 2)
                waiting.extendleft([block[half:], block[:half]])
            else:
                raise OutOfMemory(
                    f"one image of {'x'.join(map(str, block.shape[1:]))} does not fit the GPU's memory: "
                    "use smaller images, fewer filters or --backend numpy"
                )
        while under_way:
            yield finished()
    finally:  # after an exception too, nothing may be written to memory that is given back
        with contextlib.ExitStack() as stack:
            for slot in slots:
                stack.callback(slot.end)


def _has_room(cupy: Any, begin: Callable[[], None]) -> bool:
    """Do so, and say whether the device's memory was enough; what had been begun is forgotten if not."""
    try:
        begin()
    except cupy.cuda.memory.OutOfMemoryError:
        return False
    return True
