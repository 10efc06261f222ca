"""Put the stand-in for CuPy, and a stub of NVIDIA's driver, where the project looks for them.

`install` does it for this process, `installed` for a while, `environment` for a process to be started.
"""

import _ctypes
import contextlib
import ctypes
import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from . import compiler

HERE = Path(__file__).resolve().parent

WAYS = "-fsanitize-coverage=trace-pc -DCKN_WAYS"
"""Flags (`CKNCUDA_CPU_FLAGS`) with which a warp's product fails where a branch has parted its lanes."""


def why_unavailable() -> str | None:
    """Why kernels cannot run on this machine's CPU; None where they can."""
    return None if compiler.compiler() else "there is no C++ compiler (g++) to compile the kernels with"


@functools.cache
def why_no_ways() -> str | None:
    """Why the compiler cannot follow the branches of threads; None where it can."""
    program = compiler.compiler()
    if program is None:
        return "there is no C++ compiler"
    code = 'extern "C" [[gnu::no_sanitize_coverage]] void __sanitizer_cov_trace_pc() {} int main() {}'
    flags = [*WAYS.split(), "-Werror=attributes", "-x", "c++", "-", "-o", os.devnull]
    done = subprocess.run([program, *flags], input=code, capture_output=True, text=True)
    return f"the compiler follows no branches: {done.stderr.strip()[:200]}" if done.returncode else None


def environment() -> dict[str, str]:
    """The variables of this process and those with which a child finds CuPy's stand-in and a driver."""
    driver = str(compiler.stub_driver().parent)
    joined = dict(os.environ)
    for name, value in {"PYTHONPATH": str(HERE), "LD_LIBRARY_PATH": driver}.items():
        joined[name] = os.pathsep.join(filter(None, [value, os.environ.get(name)]))
    return joined


def install() -> ctypes.CDLL:
    """Let this process import the stand-in as ``cupy``, and find a driver, which is returned.

    The stub is loaded under its own name; whoever asks for ``libcuda.so.1`` after that gets it.
    """
    if "cupy" in sys.modules and Path(str(sys.modules["cupy"].__file__)).parents[1] != HERE:
        raise RuntimeError("another CuPy is imported already")
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    importlib.invalidate_caches()
    return ctypes.CDLL(str(compiler.stub_driver()), mode=ctypes.RTLD_GLOBAL)


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """The same for a while: after it, this process has no CuPy and no driver again."""
    driver = install()
    try:
        yield
    finally:
        _ctypes.dlclose(driver._handle)
        sys.path.remove(str(HERE))
        for name in [name for name in sys.modules if name.partition(".")[0] in ("cupy", "cupyx")]:
            del sys.modules[name]
