"""Streams and events: work that waits until something needs it done.

What a program puts on a stream is done as late as CUDA would allow: when the host waits for the stream or
for an event in it, or when work that must come later is done.  So a forgotten wait is a wrong result.
"""

import collections
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

lock = threading.RLock()
_local = threading.local()


class Stream:
    """A queue of work.

    As in CUDA, the null stream and the others wait for one another, unless `non_blocking`.
    """

    null: "Stream"
    _all: ClassVar["weakref.WeakSet[Stream]"] = weakref.WeakSet()

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self.non_blocking = non_blocking
        self.is_null = null
        self._queue: collections.deque[Callable[[], None]] = collections.deque()
        self._submitted = self._done = 0
        with lock:
            Stream._all.add(self)

    def submit(self, work: Callable[[], None]) -> None:
        """Put work at the end of the queue."""
        with lock:
            self._wait_as_cuda_does()
            self._put(work)

    def _put(self, work: Callable[[], None]) -> None:
        self._queue.append(work)
        self._submitted += 1

    def _wait_as_cuda_does(self) -> None:
        """What comes after all there is on other streams: work on the null stream, and work after it."""
        if self.non_blocking:
            return
        others = Stream._all if self.is_null else (Stream.null,)
        for other in list(others):
            if other is not self and not other.non_blocking and other._queue:
                self._put(lambda other=other, ticket=other._submitted: other.run(ticket))  # type: ignore[misc]

    def run(self, ticket: int | None = None) -> None:
        """Do the work that was put here, up to so many pieces ever since, or all."""
        with lock:
            while self._queue and (ticket is None or self._done < ticket):
                work = self._queue.popleft()
                self._done += 1
                work()

    def synchronize(self) -> None:
        with lock:
            self._wait_as_cuda_does()
            self.run()

    def record(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: "Event") -> None:
        with lock:
            target, ticket = event.place
            if target is not None:
                self.submit(lambda: target.run(ticket))

    def use(self) -> "Stream":
        _local.current = self
        return self

    def __enter__(self) -> "Stream":
        _stack().append(get_current_stream())
        return self.use()

    def __exit__(self, *_: Any) -> None:
        _stack().pop().use()


Stream.null = Stream(null=True)


class Event:
    """A place in a stream."""

    def __init__(self) -> None:
        self.place: tuple[Stream | None, int] = None, 0
        self.time: float | None = None

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or get_current_stream()
        self.time = None

        def reached() -> None:
            self.time = time.perf_counter()

        with lock:
            stream.submit(reached)
            self.place = stream, stream._submitted

    def synchronize(self) -> None:
        stream, ticket = self.place
        if stream is not None:
            stream.run(ticket)


def get_elapsed_time(start: Event, end: Event) -> float:
    """Milliseconds between two events that have been reached."""
    if start.time is None or end.time is None:
        raise RuntimeError("cudaErrorNotReady: device not ready")
    return 1e3 * (end.time - start.time)


def _stack() -> list[Stream]:
    if not hasattr(_local, "stack"):
        _local.stack = []
    return _local.stack  # type: ignore[no-any-return]


def get_current_stream(device_id: int | None = None) -> Stream:
    return getattr(_local, "current", Stream.null)


def synchronize_all() -> None:
    """Do all work of all streams."""
    with lock:
        for stream in list(Stream._all):
            stream.run()
