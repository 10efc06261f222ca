"""How Numba compiles the inner loops, and keeps what it has compiled."""

import functools
import hashlib
import logging
from pathlib import Path
from typing import Any

INTRINSICS = ("llvm/emitter", "llvm/product", "llvm/maxima", "llvm/winograd", "../winograd")


@functools.cache
def digest_of_inlined(*further: str) -> str:
    """Digest of the files whose intrinsics compiled functions inline, and of further ones they call."""
    digest = hashlib.sha256()
    for name in INTRINSICS + further:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:16]


def options(inlined: str, *further: str) -> dict[str, Any]:
    """Arguments of ``numba.njit`` for the functions of a file, which holds this digest.

    Numba keeps what it compiled for as long as the function's own file stays as it is, and knows nothing
    of the files whose intrinsics it inlined.  So each such file holds the digest of those: when they
    change, it must too.  While it does not, nothing is kept.

    Multiply-add may be fused, the order of sums stays: results do not depend on the length of vectors.
    """
    return {"nogil": True, "cache": inlined == digest_of_inlined(*further), "fastmath": {"contract", "nsz"}}


@functools.cache
def announce(function: Any) -> None:
    """Say that something will take longer, once, if Numba is about to compile this function."""
    folder, python = function.stats.cache_path, function.py_func
    kept = f"{python.__module__.rpartition('.')[2]}.{python.__name__}-*.nbi"
    if folder is None or not any(Path(folder).glob(kept)):
        _announce_compilation()


@functools.cache
def _announce_compilation() -> None:
    logging.getLogger("ckncuda").info(
        "Compiling the inner loops with Numba: up to half a minute, at the first use after an installation"
    )
