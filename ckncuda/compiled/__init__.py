"""Functions that Numba compiles where it works (the extra ``fast``), and where their machine code is kept.

Folders named ``compiled`` elsewhere hold the functions; they, and this room, are the only ones that import
Numba.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import logging
import os
from types import ModuleType

from ckncuda.errors import import_failure, installing, pass_on_interruption

OLDEST = (0, 60)  # of Numba, as the extra ``fast`` says
_said: list[str] = []


@functools.cache
def why_not_compiled() -> str | None:
    """Return why Numba compiles nothing here, and what to do; None where it does.

    Examples
    --------
    >>> why_not_compiled() is None or "Numba" in why_not_compiled()
    True
    """
    failure = import_failure("numba", "Numba", "fast")
    if failure is not None:
        told = [
            name for name in sorted(os.environ) if name.startswith("NUMBA_") and "does not import" in failure
        ]
        return f"{failure}; or unset {', '.join(told)}" if told else failure
    import numba

    # A stray folder called numba, or half an installation, imports and is nothing.
    version, config = getattr(numba, "__version__", None), getattr(numba, "config", None)
    if version is None or config is None:
        return "Numba is installed in part only: pip install --force-reinstall numba"
    if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return f"Numba {version} is older than {oldest}; renew it with: {installing('fast')}"
    if config.DISABLE_JIT:
        return "Numba is told to compile nothing: unset NUMBA_DISABLE_JIT"
    return None


def is_installed() -> bool:
    """Tell whether Numba is there at all, be it broken: then somebody wants what it does."""
    try:
        return importlib.util.find_spec("numba") is not None
    except (ImportError, ValueError):  # a module of that name that is no installation
        return False


@functools.cache
def why_not_importable(*modules: str) -> str | None:
    """Return why some compiled modules of ours cannot be used here; None where they can.

    They take parts of Numba that a release may move: then, too, the plain forms compute.
    """
    reason = why_not_compiled()
    for module in modules if reason is None else ():
        try:
            importlib.import_module(module)
        except Exception as error:  # what Numba and LLVM raise at definitions is not listed anywhere
            pass_on_interruption(error)
            version = importlib.metadata.version("numba")
            return (
                f"Numba {version} does not compile {module.rpartition('.')[2]} ({type(error).__name__}: "
                f"{error}); install another with: {installing('fast')}"
            )
    return reason or _why_not_kept()


def _why_not_kept() -> str | None:
    """Return why compiling costs more than it saves, where each start would have to compile anew.

    That takes 10 s, as long as the plain forms take more for 10,000 images of 256 and 1,024 filters, and for
    80,000 of 64, 64 and 128 (bench/results/extract.md).
    """
    from ckncuda.compiled import functions, store

    if store.is_kept(functions.version()):
        return None
    problem = store.problem()
    if problem is None:
        return None
    return (
        f"what Numba compiles cannot be kept, and to compile at each start takes longer ({problem}): set the "
        f"environment variable {store.VARIABLE} to a folder of yours"
    )


def imported(module: str) -> ModuleType | None:
    """Return a compiled module of ours, or None where its plain form is to be used; why is said once.

    Nothing is said where Numba is not installed: then nobody expects it.
    """
    reason = why_not_importable(module)
    if reason is None:
        return importlib.import_module(module)
    if is_installed():
        say_why_plain(reason)
    return None


def say_why_plain(reason: str) -> None:
    """Warn, once, that plain forms compute although Numba is there."""
    if _said:
        return
    _said.append(reason)
    logging.getLogger("ckncuda").warning("Computing with plain inner loops, which takes longer: %s", reason)
