"""Readers with a fault each: the campaign must find it."""

import ctypes
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fuzz.corpus import Seed, one
from fuzz.readers import Reader, Wrong

from ckncuda.errors import InvalidData

HELD: list[bytearray] = []


def _raises(data: bytes) -> None:
    raise KeyError(data[:4])


def _crashes(data: bytes) -> None:
    ctypes.string_at(0)


def _sleeps(data: bytes) -> None:
    time.sleep(60)


def _guards_all(data: bytes) -> None:
    try:
        time.sleep(60)
    except Exception as error:  # the fault: it would take the alarm for an error of the file
        raise InvalidData("damaged") from error


def _holds_memory(data: bytes) -> None:
    HELD[:] = [bytearray(b"\1") * (150 << 20)]


def _hangs(data: bytes) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])  # as code that is not Python's may
    time.sleep(60)


def _is_wrong(data: bytes) -> None:
    raise Wrong("not what was stored")


def _exits(data: bytes) -> None:
    raise SystemExit(0)


def _is_right(data: bytes) -> None:
    if len(data) % 2:
        raise InvalidData("an odd number of bytes")


def _planted(fault: Callable[[bytes], None]) -> Reader:
    """Return a reader of one file whose fault shows in every second mutation."""

    def check(path: Path, how: Mapping[str, Any]) -> None:
        data = path.read_bytes()
        if fault is _is_right or sum(data) % 2:
            fault(data)

    def seeds(folder: Path) -> list[Seed]:
        return [one("file", b"some bytes, of which the sum is even.")]

    return Reader(seeds, check, {})


PLANTED: Mapping[str, Reader] = {
    f"planted: {fault.__name__}": _planted(fault)
    for fault in (
        _raises,
        _crashes,
        _sleeps,
        _guards_all,
        _holds_memory,
        _hangs,
        _is_wrong,
        _exits,
        _is_right,
    )
}
