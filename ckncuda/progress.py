"""Reports of long work: how much is done, what takes which time, lines for people."""

import contextlib
import copy
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar, Union

from ckncuda.errors import InvalidSpec

Item = TypeVar("Item")

Progress = Union[Callable[[str, int, int], None], "Report"]
"""Called as ``progress(stage, done, total)``, with ``done`` 0 when a stage begins; or a `Report`."""


class _Clock:
    """Seconds by stage, shared by a report and those labelled from it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.started = self.switched = time.perf_counter()
        self.inside: list[str] = []

    def switch(self) -> None:
        """Count what has passed since the last switch as the innermost stage."""
        now = time.perf_counter()
        if self.inside:
            self.seconds[self.inside[-1]] += now - self.switched
        self.switched = now


class Report:
    """Seconds by stage, and what is done of each.

    Of stages inside one another only the innermost counts, so that seconds add up.

    Parameters
    ----------
    progress : callable, optional
        Called as ``progress(stage, done, total)``.
    tell : callable, optional
        Called with a line for people, such as what has been chosen for them.

    Attributes
    ----------
    seconds : dict
        By the name of the stage, in the order in which they first began.

    Examples
    --------
    >>> report = Report()
    >>> with report.stage("features"):
    ...     with report.stage("reading"):
    ...         time.sleep(0.01)
    >>> report.seconds["features"] < report.seconds["reading"] <= report.total
    True
    """

    def __init__(
        self,
        progress: Callable[[str, int, int], None] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._progress, self._tell = progress, tell
        self._clock = _Clock()
        self.seconds = self._clock.seconds

    @classmethod
    def of(cls, progress: Progress | None) -> "Report":
        """Return a report itself, or a new one that tells a callable, or nobody, what is done."""
        if progress is not None and not callable(progress):
            raise InvalidSpec(
                f"progress is {progress!r:.80}; expected a function of (stage, done, total), such as print"
            )
        return progress if isinstance(progress, Report) else cls(progress)

    def labelled(self, label: str) -> "Report":
        """Return this report, which says whose stages are under way; seconds are counted together."""
        labelled = copy.copy(self)
        labelled._progress = lambda stage, done, total: self(f"{label}: {stage}", done, total)
        return labelled

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` steps of the stage are done."""
        if self._progress is not None:
            self._progress(stage, done, total)

    @property
    def is_heard(self) -> bool:
        """True if anybody listens to what it tells."""
        return self._tell is not None

    def tell(self, line: str) -> None:
        """Say something to people, if anybody listens."""
        if self._tell is not None:
            self._tell(line)

    @property
    def total(self) -> float:
        """Seconds since this report was made."""
        return time.perf_counter() - self._clock.started

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens inside as this stage."""
        self._clock.switch()
        self.seconds.setdefault(name, 0.0)
        self._clock.inside.append(name)
        try:
            yield
        finally:
            self._clock.switch()
            self._clock.inside.pop()

    def each(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the same items; making each counts as this stage, using it does not."""
        iterator = iter(items)
        while True:
            with self.stage(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item
            del item  # while the next one is made, this one need not be there


def shown_duration(seconds: float) -> str:
    """Return a time as people say it.

    Examples
    --------
    >>> shown_duration(12.3), shown_duration(250), shown_duration(9000), shown_duration(200_000)
    ('12 s', '4 min', '2 h 30 min', '2 d 8 h')
    """
    if seconds < 1:
        return "less than a second"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def estimated_duration(seconds: float) -> str:
    """Return a time that is not known exactly, as people say it.

    Examples
    --------
    >>> estimated_duration(250), estimated_duration(0.2)
    ('about 4 min', 'less than a second')
    """
    return shown_duration(seconds) if seconds < 1 else f"about {shown_duration(seconds)}"


def shown_bytes(amount: float) -> str:
    """Return an amount of memory, or of space on a disk, as people say it.

    Examples
    --------
    >>> shown_bytes(640), shown_bytes(5_000), shown_bytes(3 << 29)
    ('640 bytes', '4.88 KiB', '1.5 GiB')
    """
    for unit in ("bytes", "KiB", "MiB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1024
    return f"{amount:.3g} GiB"
