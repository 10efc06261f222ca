"""Entry point of the `ckn` command: signals and streams first, then all that takes long to import."""

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130  # as shells report a process that Ctrl-C ended
PATIENCE = 5.0  # seconds to tidy up in, after which another Ctrl-C ends the process at once
DEAF = 0.7  # seconds after which a computation that hears no signal is ended with the process
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


def main() -> NoReturn:
    """Run the command line; print failures that a user can mend as one message, and exit with 2."""
    interruption = Interruption()
    open_streams()
    from ckncuda.cli.commands import run

    status = run(interruption.raise_it, INTERRUPTED)
    interruption.leave_at_once()  # nothing is left to be tidied up
    # `python -m` ends as if by the signal, whatever the status, where Ctrl-C once came in a text that was
    # being executed, as libraries do to make classes: Python remembers the last text only.
    exec("")
    sys.exit(status)


class Interruption:
    """Requests to end: Ctrl-C, SIGTERM, SIGHUP.

    Before there is anything to tidy up, and after it has been, they end the process at once. In between the
    first unwinds the stack, so that temporary files are removed. A computation of some library that does not
    come back to Python meanwhile would hold it up: then a thread ends the process.
    """

    def __init__(self) -> None:
        self._heard = threading.Event()
        self._since = 0.0
        self._written_to: int | None = None
        self.leave_at_once()

    def leave_at_once(self) -> None:
        """Have signals end the process without a word."""
        if self._written_to is not None:
            signal.set_wakeup_fd(-1)
            os.close(self._written_to)  # so that the thread ends
            self._written_to = None
        _handle(lambda number, frame: os._exit(INTERRUPTED))

    def raise_it(self) -> None:
        """Have the first signal raise KeyboardInterrupt, and not another while that unwinds."""
        _handle(self._raise)
        reading, self._written_to = os.pipe()
        os.set_blocking(self._written_to, False)
        signal.set_wakeup_fd(self._written_to, warn_on_full_buffer=False)  # as soon as a signal arrives
        threading.Thread(target=self._watch, args=(reading,), name="signals", daemon=True).start()

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if not self._heard.is_set():
            self._heard.set()
            self._since = time.monotonic()
            raise KeyboardInterrupt
        if time.monotonic() - self._since > PATIENCE:
            os._exit(INTERRUPTED)

    def _watch(self, signals: int) -> None:
        handled = {int(getattr(signal, name)) for name in SIGNALS if hasattr(signal, name)}
        with open(signals, "rb", buffering=0) as pipe:
            while number := pipe.read(1):
                if number[0] not in handled or self._heard.wait(DEAF):
                    continue
                from ckncuda.cli.output import say

                say("")
                say("Interrupted; what was not finished is lost.")
                os._exit(INTERRUPTED)


def _handle(handler: "signal._HANDLER") -> None:
    """Set the handler of all requests to end, but of those that we were started to ignore, as by nohup."""
    for name in SIGNALS:
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:
            signal.signal(getattr(signal, name), handler)


def open_streams() -> None:
    """Open what is closed of the standard streams onto nothing: else the next file would take its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
