"""Memory of the device: what is free, work in halves where it is short, blocks through pinned host memory.

Of blocks, while one is computed the next is copied there and the last one back.  Each of two slots has a
stream of its own and memory of the host that does not move (pinned), which the device reads and writes by
itself.  A slot's memory is used again only once its stream has come to an end.  Blocks that are on the device
already, and results that stay there, are not copied.

Both streams multiply through one handle of cuBLAS, which promises the same bits in every run only to one
stream at a time, or with a workspace fixed by the environment variable ``CUBLAS_WORKSPACE_CONFIG=:4096:8``.
"""

import collections
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from ckncuda.errors import OutOfMemory

SLOTS = 2


class DeviceFull(OutOfMemory):
    """Not even a single item fits the device's memory."""


def free_bytes(cupy: Any) -> int:
    """Count the bytes of the device that can be had: free ones, and those that CuPy keeps for later."""
    pool = cupy.get_default_memory_pool()
    return int(cupy.cuda.Device().mem_info[0] + pool.free_bytes())


class Halves:
    """Parts of a number of items, in their order, halved until each fits the device's memory.

    Whoever iterates tries each part: ``for part in halves: with halves.attempt(part): …``.  One for which
    there is no memory comes again in halves; nothing of the failed attempt may be kept.

    Parameters
    ----------
    cupy : module
    items : int
    refusal : callable
        From the error to what is said where a single item does not fit.
    most : int, optional
        Items of a part, since of more it is known that they do not fit.

    Attributes
    ----------
    most : int or None
        What has been learned.
    """

    def __init__(
        self, cupy: Any, items: int, refusal: Callable[[Exception], str], most: int | None = None
    ) -> None:
        self.most = most
        self._cupy, self._refusal = cupy, refusal
        self._waiting = [slice(0, items)]
        self._failed = False

    def __iter__(self) -> Iterator[slice]:
        while self._waiting:
            if self._failed:  # here, since while the error is handled, it keeps alive what did not fit
                self._cupy.get_default_memory_pool().free_all_blocks()
                self._failed = False
            part = self._waiting.pop()
            if self.most is not None and part.stop - part.start > self.most:
                self._halve(part)
            else:
                yield part

    @contextlib.contextmanager
    def attempt(self, part: slice, *, again: bool = False) -> Iterator[None]:
        """Try a part; ``again``: others will give memory back, so that it is tried whole once more.

        Raises
        ------
        DeviceFull
            It is a single item, and does not fit.
        """
        try:
            yield
        except (self._cupy.cuda.memory.OutOfMemoryError, DeviceFull) as error:
            self._failed = True
            size = part.stop - part.start
            if again:
                self._waiting.append(part)
            elif size <= 1:
                raise DeviceFull(self._refusal(error)) from error
            else:
                self.most = size // 2
                self._halve(part)

    def _halve(self, part: slice) -> None:
        middle = part.start - (part.start - part.stop) // 2
        self._waiting += [slice(middle, part.stop), slice(part.start, middle)]


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


class _Pipeline:
    """Blocks under way, and where their results go."""

    def __init__(self, cupy: Any, function: Callable[[Any], Any], out: Any) -> None:
        self._cupy, self._function, self._out = cupy, function, out
        self._stays = out is not None and not isinstance(out, np.ndarray)  # on the device
        self._slots = [_Slot(cupy) for _ in range(SLOTS)]
        self._under_way: collections.deque[_Slot] = collections.deque()
        self._begun = self._done = 0

    def add(self, block: Any) -> Iterator[NDArray[Any]]:
        """Begin a block, in halves where the device has no memory for it; yield what is finished by then."""
        halves = Halves(
            self._cupy,
            len(block),
            lambda _: (
                f"one image of {'x'.join(map(str, block.shape[1:]))} does not fit the GPU's memory: "
                "use smaller images, fewer filters or --backend numpy"
            ),
        )
        for part in halves:
            if len(self._under_way) == SLOTS:
                yield self._finished()
            slot = next(slot for slot in self._slots if slot not in self._under_way)
            stop = self._begun + part.stop - part.start
            into = self._out[self._begun : stop] if self._stays else None
            with halves.attempt(part, again=bool(self._under_way)):
                slot.begin(block[part], self._function, into)
                self._begun = stop
                self._under_way.append(slot)
                continue
            yield from self.rest()  # what is done gives memory back
            slot.end()

    def rest(self) -> Iterator[NDArray[Any]]:
        """Yield the results of all that is under way."""
        while self._under_way:
            yield self._finished()

    def _finished(self) -> NDArray[Any]:
        result = self._under_way.popleft().end()
        if self._stays:
            return result
        if self._out is None:
            return result.copy()
        part: NDArray[Any] = self._out[self._done : self._done + len(result)]
        part[...] = result
        self._done += len(result)
        return part

    def close(self) -> None:
        """Wait for all: nothing may be written to memory that is given back."""
        with contextlib.ExitStack() as stack:
            for slot in self._slots:
                stack.callback(slot.end)


def map_blocks(
    cupy: Any,
    function: Callable[[Any], Any],
    blocks: Iterable[NDArray[Any]],
    out: Any = None,
) -> Iterator[NDArray[Any]]:
    """Yield a function of block after block, in host memory unless ``out`` is on the device.

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
    pipeline = _Pipeline(cupy, function, out)
    try:
        for block in blocks:
            yield from pipeline.add(block)
        yield from pipeline.rest()
    finally:  # after an exception too
        pipeline.close()
