"""Tiles of a Gram matrix over a Dask cluster that somebody has started, of several machines perhaps.

A task carries its images with it, a few megabytes beside a minute of work, so that nothing is lost with
the worker that dies: Dask gives its tasks to others.  The results are those of one process, bit for bit,
where the workers have the same CPU and the same installation.
"""

import contextlib
import functools
import itertools
import logging
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from ckncuda.backend import Backend, get_backend
from ckncuda.errors import CknError, InvalidSpec, require
from ckncuda.exact.job import GramJob
from ckncuda.exact.kernel import ExactKernel
from ckncuda.exact.tiles import Tile
from ckncuda.types import Array
from ckncuda.version import __version__

if TYPE_CHECKING:
    from distributed import Client

CONNECT = 10.0  # seconds to wait for a scheduler, and for its first worker
NOBODY = 60.0  # seconds without a result after which to look whether anybody is at work
AHEAD = 2  # tiles of each thread of each worker that are on their way or being computed


class ClusterUnavailable(CknError, RuntimeError):
    """Workers that cannot be reached, die one after the other, or have other software than ours."""


def check_installed() -> None:
    """Raise `NotInstalled` unless Dask is there."""
    require("distributed", purpose="a cluster needs Dask", extra="distributed")


@contextlib.contextmanager
def remote_cluster(address: str) -> Iterator["Client"]:
    """Connect to the workers of a running scheduler, such as ``tls://host:8786``.

    Credentials are those of Dask's configuration (``distributed.comm.tls``).  One of the same process,
    ``inproc://…``, has no port.

    Raises
    ------
    ClusterUnavailable
        Nothing answers there; there is no worker; one has another version of ckncuda.
    """
    check_installed()
    from distributed import Client

    if re.fullmatch(r"(tcp|tls|ws|wss)://\S+:\d+|inproc://\S+", address) is None:
        raise InvalidSpec(f"{address!r} is not the address of a Dask scheduler, such as tcp://host:8786")
    with _quiet():
        try:
            client = Client(address, timeout=CONNECT)
        except OSError as error:
            raise ClusterUnavailable(
                f"no Dask scheduler answers at {address} within {CONNECT:g} s: start one with "
                "`dask scheduler`, and give the address that it prints"
            ) from error
        with client:
            try:
                client.wait_for_workers(1, timeout=CONNECT)
            except TimeoutError as error:
                raise ClusterUnavailable(
                    f"the scheduler at {address} has no workers; start some with: dask worker {address}"
                ) from error
            _check_versions(client)
            yield client


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Dask's own words on workers that come and go, and on tasks that carry their images."""
    import distributed  # noqa: F401  (sets levels of its own when it is imported)

    noisy = ("distributed", "tornado", "asyncio")
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in noisy]
    with contextlib.ExitStack() as stack:
        for logger in map(logging.getLogger, names):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="Sending large graph")
        yield


def _version() -> str:
    return __version__


def _check_versions(client: "Client") -> None:
    try:
        found = client.run(_version, on_error="return")
    except ImportError as error:  # the scheduler itself need not have ckncuda
        raise ClusterUnavailable(f"the workers cannot import ckncuda ({error}): install it there") from error
    for address, version in found.items():
        if version != __version__:
            what = f"ckncuda {version}" if isinstance(version, str) else f"no ckncuda ({version})"
            raise ClusterUnavailable(
                f"the worker {address} has {what}, this process {__version__}: install the same version"
            )


def distributed_blocks(
    client: "Client",
    job: GramJob,
    tiles: Iterable[Tile],
    options: Mapping[str, Any],
    tell: Callable[[str], None] = lambda line: None,
) -> Iterator[tuple[Tile, Array]]:
    """Yield tiles, each with its part of the matrix, as the workers finish them.

    Parameters
    ----------
    client : distributed.Client
    job : GramJob
        Its images are read here, when a worker is about to need them.
    tiles : iterable of Tile
    options : mapping
        The `Backend.options` of the backend that each worker makes for itself, once.
    tell : callable, optional
        Told, in a line for people, when there is nobody left to work.

    Raises
    ------
    ClusterUnavailable
        The connection to the scheduler is lost, or a tile has ended several workers.
    """
    from distributed import wait

    waiting = iter(tiles)
    running: dict[Any, Tile] = {}
    how = tuple(options.items())
    try:
        while True:
            free = AHEAD * max(1, sum(client.nthreads().values())) - len(running)
            for tile in itertools.islice(waiting, max(0, free)):
                # Not pure: nothing is gained from digests of all images.
                future = client.submit(_compute, job.kernel, *job.read(tile), how, __version__, pure=False)
                running[future] = tile
            if not running:
                return
            try:
                finished = wait(list(running), timeout=NOBODY, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                if not client.nthreads():
                    tell("No worker is left; waiting for one.")
                continue
            for future in finished:
                block = _result(future)
                yield running.pop(future), block
    except (CancelledError, OSError) as error:
        raise ClusterUnavailable(f"the connection to the scheduler is lost ({error})") from error
    finally:
        for future in running:
            future.release()


def _result(future: Any) -> Any:
    """Return what a worker has computed, or say what to do where it has failed."""
    from distributed.scheduler import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        raise ClusterUnavailable(
            f"a tile has ended {error.allowed_failures + 1} workers, one after the other, probably for lack "
            "of memory: give a smaller --tile, fewer --workers or more memory to each"
        ) from error
    except ImportError as error:
        raise ClusterUnavailable(
            f"a worker cannot import what it needs ({error}): install it there"
        ) from error


_making = threading.Lock()


@functools.cache
def _backend(options: tuple[tuple[str, Any], ...]) -> Backend:
    return get_backend(**dict(options))


def _compute(
    kernel: ExactKernel,
    maps: Array,
    others: Array | None,
    backend: tuple[tuple[str, Any], ...],
    version: str,
) -> Array:
    """Compute a tile on a worker, which may have come after the others were asked for their version."""
    if version != __version__:
        raise ClusterUnavailable(
            f"a worker has ckncuda {__version__}, the process that sends it tiles {version}: "
            "install the same version"
        )
    with _making:  # a worker of several threads makes one backend, too
        engine = _backend(backend)
    return kernel.block(maps, others, engine)
