"""Tiles of a Gram matrix over processes of this machine, to which nobody but their parent can talk.

They are joined to it by pipes.  A port, even of this machine alone, would be open to its other users, and
what computes whatever it is sent runs their code as its owner's.  The results are those of one process, bit
for bit.

>>> from ckncuda import Exponential, LayerSpec
>>> from ckncuda.exact import ExactKernel
>>> from ckncuda.images.sources import ArrayImages
>>> images = ArrayImages(np.random.default_rng(0).normal(size=(5, 8, 8, 1)))
>>> layer = LayerSpec(filters=1, patch=3, subsampling=2, kernel=Exponential(sigma=0.6))
>>> job = GramJob(ExactKernel([layer]), images, tile=4)
>>> with LocalWorkers(1, job, {"name": "numpy"}) as workers:
...     sorted(block.shape for _, block in workers.blocks(job.tiling))
[(1, 1), (4, 1), (4, 4)]
"""

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Self

import numpy as np
import threadpoolctl

from ckncuda.backend import get_backend
from ckncuda.errors import InvalidSpec
from ckncuda.exact.cluster import ClusterUnavailable
from ckncuda.exact.job import GramJob
from ckncuda.exact.kernel import ExactKernel
from ckncuda.exact.tiles import Tile
from ckncuda.types import Array

FAILURES = 10  # workers that may die with the same tile before it is given up
SAFE_PATH = "PYTHONSAFEPATH"  # the variable that has Python's ``-P``
AHEAD = 2  # tiles of each worker that are on their way or being computed


@dataclass(eq=False)
class _Worker:
    """A process, the pipe to it, and the tiles that it has been sent, the one in work first."""

    process: SpawnProcess
    pipe: "Connection[Any, Any]"
    tiles: deque[Tile] = field(default_factory=deque)


class LocalWorkers:
    """Processes that compute a tile at a time each; as a context manager, they are ended with it.

    Parameters
    ----------
    workers : int
        How many.
    job : GramJob
        Its images are read here, when a worker is about to need them.
    options : mapping
        The `Backend.options` of the backend that each makes for itself.

    Raises
    ------
    InvalidSpec
        It is less than one worker.
    """

    def __init__(self, workers: int, job: GramJob, options: Mapping[str, Any]) -> None:
        if workers < 1:
            raise InvalidSpec(f"workers is {workers}; it must be at least 1")
        self._count, self._job, self._options = workers, job, dict(options)
        self._context = multiprocessing.get_context("spawn")  # a fork would copy threads in any state
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(self._end)
            for _ in range(self._count):
                self._workers.append(self._start())
            stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def _start(self) -> _Worker:
        here, there = self._context.Pipe()
        work = there, self._job.kernel, self._options
        process = self._context.Process(target=_work, args=work, daemon=True)
        with _without_interrupts(), _away_from_here():
            process.start()
        there.close()  # so that the pipe ends with the process
        return _Worker(process, here)

    def _end(self) -> None:
        for worker in self._workers:
            worker.process.kill()  # they hold nothing that could be lost
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self._workers.clear()

    def blocks(self, tiles: Iterable[Tile]) -> Iterator[tuple[Tile, Array]]:
        """Yield tiles, each with its part of the matrix, as the workers finish them.

        A worker that dies is replaced, and its tiles are given to others.

        Raises
        ------
        ClusterUnavailable
            A tile has ended one worker after the other.
        """
        waiting, again, deaths = iter(tiles), deque[Tile](), Counter[str]()
        while True:
            for worker in self._workers:
                while len(worker.tiles) < AHEAD:
                    tile = again.popleft() if again else next(waiting, None)
                    if tile is None:
                        break
                    self._send(worker, tile)
            busy = [worker for worker in self._workers if worker.tiles]
            if not busy:
                return
            answering = wait([worker.pipe for worker in busy])
            for worker in [worker for worker in busy if worker.pipe in answering]:
                try:
                    found = worker.pipe.recv()
                except (EOFError, OSError):  # it is dead, in the midst of an answer perhaps
                    again.extend(worker.tiles)
                    self._replace(worker, deaths)
                    continue
                if isinstance(found, Exception):
                    raise found
                yield worker.tiles.popleft(), found

    def _send(self, worker: _Worker, tile: Tile) -> None:
        worker.tiles.append(tile)
        images = self._job.read(tile)
        with contextlib.suppress(OSError):  # it is dead, which the next look at its pipe tells
            worker.pipe.send(images)

    def _replace(self, worker: _Worker, deaths: Counter[str]) -> None:
        """Start another in place of a worker that has died, unless what it computed has ended too many."""
        worker.process.join()
        tile, status = str(worker.tiles[0]), worker.process.exitcode
        deaths[tile] += 1
        if deaths[tile] > FAILURES:
            why = "it failed to start, or a library ended it"
            if status == -getattr(signal, "SIGKILL", 9):
                why = "probably for lack of memory: give a smaller --tile or fewer --workers"
            raise ClusterUnavailable(
                f"a tile has ended {deaths[tile]} workers, one after the other, the last with exit status "
                f"{status}: {why}"
            )
        worker.pipe.close()
        self._workers[self._workers.index(worker)] = self._start()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach, not even while they start: it is for who started them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _away_from_here() -> Iterator[None]:
    """Start processes of Python that import nothing from the current folder, which may be anybody's.

    Python starts them with a command (``-c``), and looks there first for what that imports.
    """
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SAFE_PATH]
        else:
            os.environ[SAFE_PATH] = before


def _work(pipe: "Connection[Any, Any]", kernel: ExactKernel, options: dict[str, Any]) -> None:
    """Compute the tiles that come through a pipe, one after the other, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tasks: queue.SimpleQueue[tuple[Array, Array | None]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, tasks.put), daemon=True).start()
    with threadpoolctl.threadpool_limits(1):
        try:
            engine = get_backend(**options)
        except Exception as error:  # whatever it is, it is raised where the work was ordered
            pipe.send(_sendable(error))
            return
        while True:
            maps, others = tasks.get()
            found: Array | Exception
            try:
                found = np.asarray(kernel.block(maps, others, engine))
            except Exception as error:  # as above
                found = _sendable(error)
            pipe.send(found)


def _receive(pipe: "Connection[Any, Any]", put: Callable[[Any], None]) -> None:
    """Take what comes at once, so that the parent never waits; end with the parent, however that ends."""
    while True:
        try:
            put(pipe.recv())
        except (EOFError, OSError):
            os._exit(0)


def _sendable(error: Exception) -> Exception:
    """Return an error that arrives as it is or, if it does not bear to be sent, its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error of any library may refuse in any way
        return RuntimeError(repr(error))
    return error
