"""Progress bars on standard error: what is done, at which rate, and how long it will take."""

import sys
import time
from typing import Never, Self

import tqdm

from ckncuda.errors import printable
from ckncuda.progress import shown_duration

from .output import Unescaped, say

DELAY = 1.0  # seconds after which a bar appears


class _Shown:
    """A progress callback that ends with a ``with`` block, and lines for people beside it."""

    def say(self, line: str) -> None:
        """Write a line to standard error, where no bar is then."""
        self.close()
        say(line)

    def close(self) -> None:
        """Take away what is shown of a stage."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class ProgressBars(_Shown):
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
                desc=printable(stage),
                total=total,
                initial=done,  # what was there before the stage began took it no time
                delay=DELAY,
                leave=False,
                file=Unescaped(),
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


class ProgressLines(_Shown):
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
            self.say(f"{stage}: {done:,} of {total:,}, {shown_duration(left)} left")
