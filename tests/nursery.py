"""Children that fork from one process in which the library is imported: quick to start, measured one by one.

What may crash, hang or be killed runs in a child: a function by its name, with standard streams, a folder and
variables of its own.  The process that they fork from has no threads, so that no lock is held by nobody.
"""

import importlib
import importlib.util
import os
import pickle
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

LONG = 60.0  # seconds that nothing should take which has no limit of its own
UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
PRELOAD = (
    *("ckncuda.cli.main", "ckncuda.data", "PIL.ImageFile", "scipy.linalg", "scipy.sparse"),
    *("zarr", "optuna", "matplotlib.figure"),  # where they are installed
)


def patience(seconds: float) -> float:
    """Return how long to wait for what takes so many seconds at most: longer on a machine that is busy."""
    busy = os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 1.0
    return 2 * seconds * min(max(1.0, busy), 4.0)


class Ended(NamedTuple):
    """The end of a child.

    ``status`` is minus the number of the signal that ended it, ``peak`` the most bytes that it held above
    those of its start, ``value`` what its function returned.
    """

    status: int
    seconds: float
    peak: int
    value: Any
    stdout: str
    stderr: str


class Child:
    """A child at work; `wait` for it, or send its ``pid`` a signal."""

    def __init__(self, nursery: "Nursery", pid: int, folder: Path) -> None:
        self._nursery, self._folder, self.pid = nursery, folder, pid
        self._started = time.perf_counter()
        self._awaited = False

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; it is not reaped before `wait`, so that its number is that of no other."""
        os.kill(self.pid, number)

    def wait(self, limit: float = LONG, *, memory: int | None = None, kill: bool = True) -> Ended:
        """Wait for its end; one that takes longer is killed, and ends with -9, or TimeoutError is raised.

        With ``memory`` the same becomes of one that holds so many bytes more than at its start.
        """
        if not self._awaited:
            self._awaited = True
            self._nursery.tell("wait", self.pid)
        end = time.monotonic() + limit
        while True:
            left = end - time.monotonic()
            try:
                status, peak = self._nursery.answer(max(0, left if memory is None else min(left, 0.01)))
                break
            except TimeoutError:
                if left > 0 and (memory is None or self.holds() <= memory):
                    continue
                if not kill:
                    raise
                self.kill()
                status, peak = self._nursery.answer(LONG)
                break
        seconds = time.perf_counter() - self._started
        result = self._folder / "result"
        value = pickle.loads(result.read_bytes()) if result.exists() else None
        told = [self._folder / name for name in ("stdout", "stderr")]
        texts = [file.read_text("utf-8", "replace") if file.exists() else "" for file in told]
        begun = self._folder / "start"
        start = int(begun.read_text()) if begun.exists() else peak  # it may be killed before it says so
        return Ended(status, seconds, peak - start, value, *texts)

    def holds(self) -> int:
        """Return the bytes that it holds now above those of its start; 0 where the system does not tell."""
        try:
            pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
            start = int((self._folder / "start").read_text())
        except (
            OSError,
            IndexError,
            ValueError,
        ):  # it has not begun, or has ended; or there is no such folder
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE") - start


class Nursery:
    """The process that children fork from.

    Parameters
    ----------
    without : sequence of str
        Packages to be as if they were not installed.
    preload : sequence of str
        Modules that children find imported.
    """

    def __init__(self, without: Sequence[str] = (), preload: Sequence[str] = PRELOAD) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="nursery-")
        self._children = 0
        variables = {k: v for k, v in os.environ.items() if not k.startswith("CKNCUDA_")}
        variables |= {"OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        command = [sys.executable, "-u", __file__]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=variables, bufsize=0)
        here = Path(__file__).parent
        path = [str(here), str(here.parent), *sys.path]
        self.ask("begin", path, tuple(without), tuple(preload))

    def tell(self, *request: Any) -> None:
        """Send a request."""
        assert self._process.stdin is not None
        self._process.stdin.write(pickle.dumps(request))

    def ask(self, *request: Any, within: float = LONG) -> Any:
        """Send a request, and return what is answered."""
        self.tell(*request)
        return self.answer(within)

    def answer(self, within: float) -> Any:
        """Return what is answered, or raise TimeoutError."""
        stdout = self._process.stdout
        assert stdout is not None
        if not select.select([stdout], [], [], within)[0]:
            raise TimeoutError
        return pickle.load(stdout)

    def start(
        self,
        function: str,
        *arguments: Any,
        cwd: str | os.PathLike[str] = ".",
        env: Mapping[str, str] | None = None,
    ) -> Child:
        """Start a child that calls a function, ``module:name``; what it prints is told at its end."""
        self._children += 1
        folder = Path(self._scratch.name) / str(self._children)
        folder.mkdir()
        request = (function, arguments, os.fspath(cwd), dict(env or {}), str(folder))
        return Child(self, self.ask("start", *request), folder)

    def run(self, function: str, *arguments: Any, limit: float = LONG, **how: Any) -> Ended:
        """Run a child to its end."""
        return self.start(function, *arguments, **how).wait(limit)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._scratch.cleanup()


def call_ckn(*arguments: str) -> None:
    """Run the command line, as a process of its own would."""
    from ckncuda.cli.main import main

    sys.argv = ["ckn", *arguments]
    main()


def _serve() -> None:
    """Answer requests until nobody is left to ask."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what is printed on the way is no answer
    while True:
        try:
            kind, *rest = pickle.load(requests)
        except EOFError:
            return
        answer: Any = None
        if kind == "begin":
            sys.path[:], without, preload = rest
            sys.modules |= dict.fromkeys(without)  # type: ignore[arg-type]
            for name in preload:
                if importlib.util.find_spec(name.partition(".")[0]):
                    importlib.import_module(name)
        elif kind == "start":
            if (answer := os.fork()) == 0:
                _live(*rest)
        elif kind == "wait":
            _, status, usage = os.wait4(rest[0], 0)
            answer = os.waitstatus_to_exitcode(status), usage.ru_maxrss * UNIT
        answers.write(pickle.dumps(answer))


def _live(function: str, arguments: tuple[Any, ...], cwd: str, env: dict[str, str], folder: str) -> None:
    """Be a child: call the function and end, as a process of its own would end."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        for number, name, flags in [
            (0, os.devnull, os.O_RDONLY),
            (1, f"{folder}/stdout", os.O_WRONLY | os.O_CREAT),
            (2, f"{folder}/stderr", os.O_WRONLY | os.O_CREAT),
        ]:
            os.dup2(os.open(name, flags), number)
        os.environ.update(env)
        tempfile.tempdir = None
        os.chdir(cwd)
        start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT
        Path(folder, "start.part").write_text(str(start))
        Path(folder, "start.part").rename(Path(folder, "start"))  # whole or not at all
        module, _, name = function.partition(":")
        called = getattr(importlib.import_module(module), name)
        value: Any = None
        try:
            value = called(*arguments)
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        partial = Path(folder) / "result.part"
        partial.write_bytes(pickle.dumps(value))
        partial.rename(Path(folder) / "result")
    except BaseException:  # nothing may return into the process that it forked from
        traceback.print_exc()
    finally:
        with open(os.devnull, "w") as nowhere:
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except (OSError, ValueError):
                    print("cannot flush", file=nowhere)
        os._exit(status)


if __name__ == "__main__":
    _serve()
