"""What takes which time."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


class Stopwatch:
    """Seconds by stage; of stages inside one another only the innermost counts, so that they add up.

    Attributes
    ----------
    seconds : dict
        By the name of the stage, in the order in which they first began.

    Examples
    --------
    >>> stopwatch = Stopwatch()
    >>> with stopwatch.stage("features"):
    ...     with stopwatch.stage("reading"):
    ...         time.sleep(0.01)
    >>> stopwatch.seconds["features"] < stopwatch.seconds["reading"] <= stopwatch.total
    True
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = self._switched = time.perf_counter()
        self._inside: list[str] = []

    @property
    def total(self) -> float:
        """Seconds since this stopwatch was made."""
        return time.perf_counter() - self._started

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What happens inside counts as this stage."""
        self._switch()
        self.seconds.setdefault(name, 0.0)
        self._inside.append(name)
        try:
            yield
        finally:
            self._switch()
            self._inside.pop()

    def each(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; what it takes to make each counts as this stage, what is done with it does not."""
        iterator = iter(items)
        while True:
            with self.stage(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item
            del item  # while the next one is made, this one need not be there

    def _switch(self) -> None:
        now = time.perf_counter()
        if self._inside:
            self.seconds[self._inside[-1]] += now - self._switched
        self._switched = now
