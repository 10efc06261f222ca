"""Python threads that take tiles in turn, each with BLAS held to itself and arrays of its own."""

import collections
import concurrent.futures
import contextlib
import math
import os
import threading
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from ckncuda.backend.numpy.tiles import aligned

Views = TypeVar("Views")
VIEWS = 64  # kept of a thread's arrays: more than a network has layers and bands of its images


def available_threads() -> int:
    """Count the CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _SingleThreadedBlas:
    """Hold BLAS to one thread while any caller is inside.

    The limit is the whole process's: of callers in several threads the first sets it, the last takes it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._limit: Any = None
        self._libraries: Any = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin_in_child)

    def _begin_in_child(self) -> None:
        """Forget the threads that were inside: a forked child has none of them."""
        self._lock = threading.Lock()
        if self._inside:
            self._inside = 0
            self._limit.restore_original_limits()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                if self._libraries is None:  # looked up once: it takes milliseconds
                    self._libraries = threadpoolctl.ThreadpoolController()
                self._limit = self._libraries.limit(limits=1, user_api="blas")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._limit.restore_original_limits()


_SINGLE_THREADED_BLAS = _SingleThreadedBlas()


class Threads:
    """Threads, as many as ``count``, started when there is something to do."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._local = threading.local()
        self._pools: dict[int, ThreadPoolExecutor] = {}  # by process: threads do not survive a fork

    def run(self, function: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> None:
        """Call the function with each tuple of arguments, on all threads, BLAS held to one thread each."""
        with _SINGLE_THREADED_BLAS:
            if self.count == 1:
                for a in arguments:
                    function(*a)
                return
            todo = collections.deque(arguments)

            def work() -> None:  # a future for each tile would cost as much as a small tile
                while todo:
                    with contextlib.suppress(IndexError):  # another thread may have taken the last one
                        function(*todo.popleft())

            if os.getpid() not in self._pools:
                self._pools = {os.getpid(): ThreadPoolExecutor(self.count, thread_name_prefix="ckncuda")}
            futures = [self._pools[os.getpid()].submit(work) for _ in range(self.count)]
            try:
                for future in futures:
                    future.result()
            finally:  # after an exception, Ctrl-C too, what has not begun is dropped
                todo.clear()
                concurrent.futures.wait(futures)

    @property
    def buffer(self) -> "ThreadBuffer":
        """Workspace of the thread that asks for it."""
        own: ThreadBuffer | None = getattr(self._local, "buffer", None)
        if own is None:
            own = self._local.buffer = ThreadBuffer()
        return own


class ThreadBuffer:
    """Arrays of one thread, by name, kept from tile to tile: fresh pages cost more than the sums.

    Of each name there is one, as large as was ever asked for.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[np.float32]] = {}
        self._views: dict[Hashable, Any] = {}

    def __call__(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the array of that name, of any content."""
        size = math.prod(shape)
        if name not in self._arrays or self._arrays[name].size < size:
            self._views.clear()  # of the array that is given up, of which they would keep the memory
            self._arrays[name] = aligned(size)
        return self._arrays[name][:size].reshape(shape)

    def kept(self, key: Hashable, make: Callable[[], Views]) -> Views:
        """Return what was made of these arrays for a key the last time, or make it."""
        if key not in self._views:
            made = make()  # which may give arrays up
            if len(self._views) >= VIEWS:
                self._views.clear()
            self._views[key] = made
        found: Views = self._views[key]
        return found
