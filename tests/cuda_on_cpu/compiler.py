"""Compile a module of CUDA kernels for the CPU, with g++ and the headers beside this file.

What is compiled is kept in a folder named by a digest of all that it depends on: source, headers,
compiler, flags.  Builds of one module by several processes wait for one another, and its library
appears under its final name only once complete.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent

# No fused multiply-add behind the kernel's back; kernels look at memory through pointers of several types.
_FLAGS = ["-std=c++17", "-ffp-contract=off", "-fno-strict-aliasing", "-pthread", "-w"]
# Compiling takes longer than running.  But a float4 must be one access, as on a GPU, and functions of
# libraries must not be called with the upper halves of registers in use: that would be slow.
_OPTIMISED = ["-O1", "-ftree-slp-vectorize", "-fexpensive-optimizations"]


class CompilationFailed(Exception):
    """The compiler's own words on a source it did not take."""


def cache_folder() -> Path:
    """Return where compiled modules are kept: `CKNCUDA_CPU_CACHE`, or the user's cache."""
    if "CKNCUDA_CPU_CACHE" in os.environ:
        return Path(os.environ["CKNCUDA_CPU_CACHE"]).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "ckncuda-tests" / "cuda_on_cpu"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.gettempdir()) / f"ckncuda-cuda_on_cpu-{os.getuid()}"
    return folder


def compiler() -> str | None:
    """Return the C++ compiler: `CXX`, or g++; None where there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


def extra_flags() -> list[str]:
    """Return flags that the environment adds (`CKNCUDA_CPU_FLAGS`): for coverage, say."""
    return shlex.split(os.environ.get("CKNCUDA_CPU_FLAGS", ""))


@functools.cache
def _version(program: str) -> str:
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout


@functools.cache
def _headers() -> bytes:
    files = [HERE / "cuda_on_cpu.h", *sorted((HERE / "headers").glob("*.h"))]
    return b"\0".join(file.name.encode() + b"\0" + file.read_bytes() for file in files)


@functools.cache
def _machine_flags() -> tuple[str, ...]:
    """Return flags for AVX2, FMA and F16C where the processor has them: without, fmaf is a slow function."""
    try:
        known = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ()
    wanted = ("avx2", "fma", "f16c")
    fast = platform.machine() == "x86_64" and all(f" {name} " in known for name in wanted)
    return tuple(f"-m{name}" for name in wanted) if fast else ()


def source_with_table(source: str, names: Sequence[str]) -> str:
    """Return the module as the compiler sees it: harness, kernels, the table of those to be launched."""
    entries = ",\n    ".join(f'CKN_KERNEL("{name}", {name})' for name in names)
    return (
        f'#include "cuda_on_cpu.h"\n#line 1 "module.cu"\n{source}\n'
        f'#line 1 "kernels_asked_for"\nCKN_KERNELS(\n    {entries})\n'
    )


def build(
    source: str, names: Sequence[str], options: Sequence[str] = (), *, extra: Sequence[str] = ()
) -> Path:
    """Compile a module to a shared library, or to a program that replays launches with `-DCKN_REPLAY`.

    Parameters
    ----------
    source : str
        CUDA C++ with its headers inlined; CKN_ON_CPU is defined for it.
    names : sequence of str
        Expressions that name kernels, such as ``encode<16, Exp>``, in the order of the module's table.
    options : sequence of str
        NVRTC's; definitions are kept, the rest has no meaning here.
    extra : sequence of str
        Flags for g++, after those of the environment.
    """
    program = compiler()
    if program is None:
        raise CompilationFailed("there is no C++ compiler (g++, or what the variable CXX names)")
    flags = [*_FLAGS, *_OPTIMISED, *_machine_flags(), "-DCKN_ON_CPU", *_definitions(options)]
    flags += [*extra_flags(), *extra]
    if "--coverage" in flags:
        flags.append("-DCKN_COVERAGE")
    text = source_with_table(source, names)
    parts = [text.encode(), _headers(), _version(program).encode(), "\0".join(flags).encode()]
    digest = hashlib.sha256(b"\0\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:24]
    replay = "-DCKN_REPLAY" in flags
    built = cache_folder() / digest / ("replay" if replay else "module.so")
    if not built.exists():
        kind = [] if replay else ["-shared", "-fPIC", "-Wl,-Bsymbolic"]  # its own names first
        usual = flags == [*_FLAGS, *_OPTIMISED, *_machine_flags(), "-DCKN_ON_CPU"]
        folders = [*([_precompiled_header(program, flags)] if usual else []), HERE]
        with _locked(built.parent):
            if not built.exists():
                _compile([program, *flags, *kind, *(f"-I{folder}" for folder in folders)], text, built)
    return built


def _precompiled_header(program: str, flags: Sequence[str]) -> Path:
    """Return the folder of the harness's header, parsed once for all modules with these flags."""
    key = b"\0".join([_headers(), _version(program).encode(), *(flag.encode() for flag in flags)])
    folder = cache_folder() / f"header-{hashlib.sha256(key).hexdigest()[:24]}"
    built = folder / "cuda_on_cpu.h.gch"
    if not built.exists():
        with _locked(folder):
            if not built.exists():
                temporary = built.with_suffix(".part")
                header = ["-fPIC", "-x", "c++-header", str(HERE / "cuda_on_cpu.h"), "-o", str(temporary)]
                if subprocess.run([program, *flags, *header], capture_output=True).returncode == 0:
                    temporary.rename(built)  # where there is none, the header itself is read
    return folder


def _definitions(options: Sequence[str]) -> list[str]:
    """Return those of NVRTC's options that a C++ compiler must know, too."""
    kept: list[str] = []
    for i, option in enumerate(options):
        if option.startswith(("-D", "-U", "-I")):
            kept.append(option if len(option) > 2 else option + options[i + 1])
        elif option.startswith("--define-macro="):
            kept.append("-D" + option.partition("=")[2])
    return kept


def _compile(command: Sequence[str], text: str, built: Path) -> None:
    """Make the object, then the library: coverage's notes have the object's name, which stays."""
    source, target = built.parent / "module.cpp", built.parent / "module.o"
    temporary = built.with_suffix(".part")
    source.write_text(text)
    # What sanitizers link against is named by the same flags, so the two steps share them.
    for step in (["-c", str(source), "-o", str(target)], [str(target), "-o", str(temporary)]):
        done = subprocess.run([*command, *step], capture_output=True, text=True)
        if done.returncode:
            raise CompilationFailed(f"g++ did not compile the module ({source}):\n{done.stderr.strip()}")
    target.unlink()
    temporary.rename(built)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let others who want to build in this folder wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def stub_driver() -> Path:
    """Return an empty library under the name of NVIDIA's driver: what a look for a GPU finds."""
    program = compiler()
    if program is None:
        raise CompilationFailed("there is no C++ compiler (g++, or what the variable CXX names)")
    built = cache_folder() / "driver" / "libcuda.so.1"
    if not built.exists():
        with _locked(built.parent):
            temporary = built.with_suffix(".part")
            command = [program, "-shared", "-fPIC", "-x", "c++", "/dev/null", "-Wl,-soname,libcuda.so.1"]
            subprocess.run([*command, "-o", str(temporary)], check=True, capture_output=True)
            temporary.rename(built)
    return built
