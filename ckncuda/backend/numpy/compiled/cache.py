"""Numba compiles the inner loops at their first call, and keeps what it has compiled."""

import functools
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit


def compiled(
    function: Callable[..., Any] | None = None, *, inline: bool = False, reordered: bool = False
) -> Any:
    """Have Numba compile a function at its first call, and keep the result for other processes.

    Multiply-add may be fused, the order of sums stays: results do not depend on the length of vectors.

    Parameters
    ----------
    function : callable
        What is decorated.
    inline : bool
        Whether it becomes a part of its callers.
    reordered : bool
        Whether its sums may be taken in any order, where they have no other way to become vectors.
    """
    if function is None:
        return functools.partial(compiled, inline=inline, reordered=reordered)
    make = njit(
        nogil=True,
        fastmath={"contract", "nsz"} | ({"reassoc"} if reordered else set()),
        inline="always" if inline else "never",
    )
    kept = make(function)
    kept.enable_caching()
    record = _record(kept)
    if record is None:
        return make(function)
    # Numba looks for changes in the function's own file, and knows nothing of those whose functions and
    # intrinsics it inlined.  Of another version it reads no further: types may have moved since.
    record._version = f"{record._version} {digest_of_sources()}"
    return kept


@functools.cache
def digest_of_sources() -> str:
    """Return a digest of all files of which something may be inlined in a compiled function."""
    room, digest = Path(__file__).parent, hashlib.sha256()
    for path in (*sorted(room.rglob("*.py")), room.parent / "winograd.py"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _record(function: Any) -> Any:
    """Return Numba's record of what it keeps of a compiled function.

    It is None where the function is not kept, or where a release of Numba has no such record, or one that
    does not compare the version it holds with the one on disk: then it is safer to keep nothing.
    """
    record = getattr(getattr(function, "_cache", None), "_cache_file", None)
    names = getattr(getattr(getattr(record, "_load_index", None), "__code__", None), "co_names", ())
    return record if hasattr(record, "_version") and "_version" in names else None


@functools.cache
def announce(function: Any) -> None:
    """Say that something will take longer, once, if Numba is about to compile this function."""
    record = _record(function)
    if record is None or not record._load_index():
        _announce_compilation()


@functools.cache
def _announce_compilation() -> None:
    logging.getLogger("ckncuda").info(
        "Compiling the inner loops with Numba: up to half a minute, at the first use after an installation"
    )
