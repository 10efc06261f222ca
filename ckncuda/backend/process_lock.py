"""A lock between the threads of one process."""

import os
import threading


class ProcessLock:
    """A lock that a forked child finds open: whoever held it there does not exist here.

    Examples
    --------
    >>> lock = ProcessLock()
    >>> with lock:
    ...     held = True
    """

    def __init__(self) -> None:
        self._of_process: dict[int, threading.Lock] = {}

    def __enter__(self) -> None:
        self._of_process.setdefault(os.getpid(), threading.Lock()).acquire()

    def __exit__(self, *error: object) -> None:
        self._of_process[os.getpid()].release()
