"""Progress bars on standard error: what is done, at which rate, and how long it will take."""

import sys
from types import TracebackType
from typing import Never, Self

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
