"""The one exit of the command line: a terminal shows all that passes here, and obeys none of it."""

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterable
from typing import Any, TextIO

from ckncuda.errors import InvalidData, printable


class ShownStream:
    """A text stream that writes what a terminal would obey as escapes, but for ends of lines.

    Parameters
    ----------
    stream : text stream
    needed : bool
        Whether a failure to write is one of the command.  Messages that nobody can read lose no model.
    """

    def __init__(self, stream: TextIO, needed: bool) -> None:
        self.unescaped, self._needed = stream, needed

    def write(self, text: str) -> int:
        """Write the text, line by line."""
        with self._failures():
            self.unescaped.write("\n".join(map(printable, text.split("\n"))))
        return len(text)

    def flush(self) -> None:
        """Write what is held back."""
        with self._failures():
            self.unescaped.flush()

    def _failures(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self._needed else contextlib.suppress(OSError, ValueError)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unescaped, name)


class Unescaped:
    """Standard error as it is, for control sequences of our own: those of progress bars."""

    def write(self, text: str) -> int:
        """Write the text; where that fails, nobody sees bars."""
        with contextlib.suppress(OSError, ValueError):
            getattr(sys.stderr, "unescaped", sys.stderr).write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is held back."""
        with contextlib.suppress(OSError, ValueError):
            getattr(sys.stderr, "unescaped", sys.stderr).flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


class Gone(Exception):
    """Whoever read our standard output has closed it."""


def take_over() -> None:
    """Have standard streams, warnings and log records leave through this exit."""
    for name, needed in (("stdout", True), ("stderr", False)):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):  # \u03bb rather than a failure where the encoding has no λ
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, ShownStream(stream, needed))
    warnings.showwarning = _show_warning
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine())
    logging.getLogger().addHandler(handler)
    logging.getLogger("ckncuda").setLevel(logging.INFO)
    # When one of several reads of Zarr fails, asyncio complains of the others; the failure is reported.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


def say(line: str) -> None:
    """Write a line for people to standard error; what stands in it cannot begin another."""
    sys.stderr.write(f"{printable(line)}\n")
    sys.stderr.flush()


def show(lines: Iterable[str]) -> None:
    """Write lines, which are the result of a command, to standard output.

    Raises
    ------
    Gone
        Nobody reads it any more.
    InvalidData
        It cannot be written.
    """
    try:
        sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))
        sys.stdout.flush()
    except BrokenPipeError as error:
        _discard_stdout()
        raise Gone from error
    except OSError as error:
        _discard_stdout()
        raise InvalidData(
            f"cannot write to standard output: {error.strerror}; files that were asked for are complete"
        ) from error


def _discard_stdout() -> None:
    """Let go what Python still holds of standard output: at the end it would fail to write it once more."""
    with contextlib.suppress(OSError, ValueError):  # a stream that is no file's
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


class _OneLine(logging.Formatter):
    """A record as one line, followed by the lines of its traceback, if it has one."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable(super().formatMessage(record))


def _show_warning(message: Warning | str, category: type[Warning], *rest: object, **more: object) -> None:
    if not issubclass(category, DeprecationWarning | PendingDeprecationWarning):  # which are for programmers
        say(f"Warning: {message}")
