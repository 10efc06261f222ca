"""Numba compiles functions at their first call; what it has compiled is kept for other processes."""

# Numba is not typed.
# mypy: disable-error-code="misc,no-untyped-call"

import functools
import hashlib
import logging
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba import njit
from numba.core import caching, serialize
from numba.core.compiler import CompileResult

from ckncuda.compiled import store
from ckncuda.errors import pass_on_interruption

PACKAGE = Path(__file__).parents[1]
SOURCES = (
    *("compiled", "data/compiled", "backend/numpy/compiled"),
    *("backend/numpy/sketch.py", "backend/numpy/winograd.py"),
)
"""Files, and folders of files, of which a function or a number may become a part of a compiled function."""


def compiled(
    function: Callable[..., Any] | None = None,
    *,
    inline: bool = False,
    reordered: bool = False,
    exact: bool = False,
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
    exact : bool
        Whether each operation is rounded as it is written: no multiply-add is fused.
    """
    if function is None:
        return functools.partial(compiled, inline=inline, reordered=reordered, exact=exact)
    allowed = set() if exact else {"contract", "nsz"} | ({"reassoc"} if reordered else set())
    made: Any = njit(nogil=True, fastmath=allowed, inline="always" if inline else "never")(function)
    made._cache = _Kept(function)
    return made


class _Kept(caching._Cache):  # type: ignore[name-defined,unused-ignore]
    """A file for each signature of a compiled function, as Numba's dispatchers ask for it.

    Numba's own cache looks for changes in the function's own file alone, fails where nothing can be written
    or a file is cut off, and trusts whatever lies in its folder.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._on = True
        self.start = f"ckncuda-{function.__module__.rpartition('.')[2]}.{function.__name__}-{version()}-"

    @property
    def cache_path(self) -> str:
        """The folder of the first choice, for people."""
        return str(store.folders()[0].path)

    def enable(self) -> None:
        """Keep what is compiled from now on."""
        self._on = True

    def disable(self) -> None:
        """Keep nothing more, and look for nothing."""
        self._on = False

    def flush(self) -> None:
        """Do nothing: what is compiled anew replaces what is kept of it."""

    def load_overload(self, signature: Any, target: Any) -> Any:
        """Return what is kept of this signature, ready to be called, or None."""
        target.refresh()
        content = store.load(self._name(signature, target.codegen())) if self._on else None
        if content is None:
            return None
        # It is what we wrote, of this very version of everything; should it still not fit, it is made anew.
        try:
            return CompileResult._rebuild(target, *pickle.loads(content))
        except Exception as error:
            pass_on_interruption(error)
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep what was compiled for this signature, unless it holds addresses of this process."""
        if self._on and not result.library.has_dynamic_globals and not any(result.lifted):
            content = serialize.dumps(result._reduce())
            store.save(self._name(signature, result.codegen), content, version())

    def _name(self, signature: Any, codegen: Any) -> str:
        """Return the file's name: of the signature, the machine, and constants that the function encloses."""
        cells = tuple(cell.cell_contents for cell in self._function.__closure__ or ())
        known = f"{signature!r} {codegen.magic_tuple()!r}".encode() + self._function.__code__.co_code
        digest = hashlib.sha256(known + (serialize.dumps(cells) if cells else b"")).hexdigest()
        return f"{self.start}{digest[:24]}{store.ENDING}"


@functools.cache
def version() -> str:
    """Return a digest of sources, compilers and Python: with one that changed, all is compiled anew."""
    parts = (numba.__version__, llvmlite.__version__, np.__version__, sys.version, digest_of_sources())
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


@functools.cache
def digest_of_sources() -> str:
    """Return a digest of all files of which something may be inlined in a compiled function."""
    digest = hashlib.sha256()
    for name in SOURCES:
        path = PACKAGE / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


_announcing = threading.Lock()


@functools.cache
def announce(function: Any) -> None:
    """Say that something will take longer, once, if Numba is about to compile this function."""
    with _announcing:  # threads that meet their first functions at once say it once
        if not store.is_kept(function._cache.start):
            _announce_compilation()


@functools.cache
def _announce_compilation() -> None:
    logging.getLogger("ckncuda").info(
        "Compiling the inner loops with Numba: up to half a minute, at the first use after an installation"
    )
