"""Progress bars on standard error: what is done, at which rate, and how long it will take."""

import sys
import time
from types import TracebackType
from typing import Never, Self

import click
import tqdm


class ProgressBars:
    """A progress callback that shows one bar for each stage; silent unless on a terminal.

    A bar appears once its stage has taken a second.

    Examples
    --------
    >>> with ProgressBars() as progress:
    ...     for done in range(3):
    ...         progress("reading", done + 1, 3)
    """

    def __init__(self) -> None:
        self._stage: str | None = None
        self._bar: tqdm.tqdm[Never] | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` steps of the stage are done."""
        if stage != self._stage:
            self.close()
            self._stage = stage
            self._bar = tqdm.tqdm(
                desc=stage,
                total=total,
                initial=done,  # what was there before the stage began took it no time
                delay=1.0,
                leave=False,
                file=sys.stderr,
                disable=not sys.stderr.isatty(),
            )
        assert self._bar is not None
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Take away the bar."""
        if self._bar is not None:
            self._bar.close()
        self._stage, self._bar = None, None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ProgressLines:
    """A progress callback for who is not on a terminal: a line a minute, with the time left.

    Parameters
    ----------
    seconds : float
        Between two lines.

    Examples
    --------
    >>> progress = ProgressLines(seconds=0)
    >>> for done in range(3):
    ...     progress("Gram matrix", done, 3)
    """

    def __init__(self, seconds: float = 60) -> None:
        self._every = seconds
        self._stage: str | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` steps of the stage are done."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began, self._first, self._said = stage, now, done, now
        elif now - self._said >= self._every and self._first < done < total:
            self._said = now
            left = (now - self._began) / (done - self._first) * (total - done)
            click.echo(f"{stage}: {done:,} of {total:,}, {shown_duration(left)} left", err=True)

    def close(self) -> None:
        """Forget the stage."""
        self._stage = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def shown_duration(seconds: float) -> str:
    """A time as people say it.

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
