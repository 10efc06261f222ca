"""Python threads that take tiles in turn, each with BLAS held to itself and arrays of its own."""

import collections
import concurrent.futures
import contextlib
import itertools
import math
import os
import re
import threading
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from ckncuda.backend.numpy.tiles import aligned

Views = TypeVar("Views")
VIEWS = 64  # kept of a thread's arrays: more than a network has layers and bands of its images


def available_threads() -> int:
    """Count the threads to start where nobody says how many: `usable_cores`, or fewer by ``OMP_NUM_THREADS``.

    Clusters, and libraries that start several processes, set that variable to what each shall take.
    """
    told = re.match(r"\s*(\d{1,9})\s*(,|$)", os.environ.get("OMP_NUM_THREADS", ""))
    wanted = int(told[1]) if told else 0  # which means nothing
    return min(wanted, usable_cores()) if wanted else usable_cores()


def usable_cores() -> int:
    """Count the CPUs this process may run on, and no more than its quota of their time amounts to."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(affinity, cpu_quota())))


def cpu_quota(root: Path = Path("/")) -> float:
    """Return how many CPUs' time the control groups of this process allow, as containers have it; ∞ for any.

    A quota of a group holds for the groups in it too.  Elsewhere than on Linux there is none.  ``root`` is
    that of the file system.
    """
    quota = math.inf
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            number, controllers, path = (*line.split(":", 2), "", "")[:3]
            if number == "0":  # version 2
                mounts, read = ["sys/fs/cgroup", "sys/fs/cgroup/unified"], _quota_of_version_2
            elif "cpu" in controllers.split(","):
                mounts, read = ["sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct"], _quota_of_version_1
            else:
                continue
            place = Path(path.strip("/"))
            for mount, inside in itertools.product(mounts, (place, *place.parents)):
                with contextlib.suppress(OSError, ValueError, IndexError):
                    quota = min(quota, read(root / mount / inside))
    return quota


def _quota_of_version_2(folder: Path) -> float:
    allowed, period = (folder / "cpu.max").read_text().split()
    return _quotient(allowed, period)


def _quota_of_version_1(folder: Path) -> float:
    return _quotient(*((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")))


def _quotient(allowed: str, period: str) -> float:
    """Return the share, where one is set: not "max", nor −1."""
    return int(allowed) / int(period) if allowed.strip().isdecimal() and int(period) > 0 else math.inf


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


def single_threaded_blas() -> contextlib.AbstractContextManager[None]:
    """Return what holds BLAS to one thread while any caller is inside."""
    return _SINGLE_THREADED_BLAS


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
                while True:
                    try:
                        of_tile = todo.popleft()
                    except IndexError:  # none is left
                        return
                    function(*of_tile)

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
