"""NVRTC through ctypes: compiles kernels for any architecture without a GPU or a driver."""

import contextlib
import ctypes
import dataclasses
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cuda_on_cpu.compiler import cache_folder

_OPTIONS = ["--std=c++17", "-ftz=true", "--ptxas-options=-v"]


@dataclass(frozen=True)
class Resources:
    """Resources that one kernel takes, as the assembler reports them."""

    registers: int
    spilled_bytes: int
    static_shared_bytes: int
    stack_bytes: int


def library() -> ctypes.CDLL | None:
    """Return the library of the package nvidia-cuda-nvrtc, or None where it is not installed."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or [] if spec else []:
        for path in sorted(Path(folder).glob("*/lib/libnvrtc.so.*")):
            for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(builtins))  # NVRTC opens it by its name, which finds what is loaded already
            return ctypes.CDLL(str(path))
    return None


def resources_of(
    nvrtc: ctypes.CDLL, source: str, names: list[str], architecture: str
) -> dict[str, Resources]:
    """Return what `compile_for` finds; kept in a file, since the compiler and what it is given decide it."""
    compiler = Path(nvrtc._name)
    what = [str(compiler), compiler.stat().st_size, source, names, architecture, _OPTIONS]
    digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]
    kept = cache_folder() / f"nvrtc-{digest}.json"
    if not kept.exists():
        found = compile_for(nvrtc, source, names, architecture)
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_suffix(f".{os.getpid()}.part")
        temporary.write_text(json.dumps({name: dataclasses.asdict(r) for name, r in found.items()}))
        temporary.rename(kept)
    return {name: Resources(**r) for name, r in json.loads(kept.read_text()).items()}


def compile_for(nvrtc: ctypes.CDLL, source: str, names: list[str], architecture: str) -> dict[str, Resources]:
    """Compile the instantiations ``names`` for an architecture such as ``"sm_90a"``; return what they take.

    Raises
    ------
    RuntimeError
        The compiler refuses the source; the message is its log.
    """
    with _compiled(nvrtc, source, names, architecture) as (program, log):
        return {name: _resources(log, _lowered(nvrtc, program, name)) for name in names}


def binary_of(nvrtc: ctypes.CDLL, source: str, name: str, architecture: str) -> bytes:
    """Compile one instantiation; return its program, as a disassembler takes it."""
    with _compiled(nvrtc, source, [name], architecture) as (program, _):
        return _bytes(nvrtc, "CUBIN", program)


@contextlib.contextmanager
def _compiled(
    nvrtc: ctypes.CDLL, source: str, names: list[str], architecture: str
) -> Iterator[tuple[ctypes.c_void_p, str]]:
    """Compile for as long as the block lasts; yield the program and what the compiler said."""
    program = ctypes.c_void_p()
    _check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None))
    try:
        for name in names:
            _check(nvrtc.nvrtcAddNameExpression(program, name.encode()))
        options = [f"--gpu-architecture={architecture}", *_OPTIONS]
        array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        status = nvrtc.nvrtcCompileProgram(program, len(options), array)
        log = _bytes(nvrtc, "ProgramLog", program).decode()
        if status:
            raise RuntimeError(log)
        if not _bytes(nvrtc, "CUBIN", program).startswith(b"\x7fELF"):
            raise RuntimeError("what NVRTC has made is no program")
        yield program, log
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _lowered(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, name: str) -> str:
    lowered = ctypes.c_char_p()
    _check(nvrtc.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(lowered)))
    assert lowered.value is not None
    return lowered.value.decode()


def _check(status: int) -> None:
    if status:
        raise RuntimeError(f"NVRTC answers {status}")


def _bytes(nvrtc: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _check(getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(nvrtc, f"nvrtcGet{what}")(program, buffer))
    return buffer.raw[: size.value].rstrip(b"\0") if what == "ProgramLog" else buffer.raw


def _resources(log: str, kernel: str) -> Resources:
    """Read ptxas's lines on one kernel."""
    entry = rf"Compiling entry function '{re.escape(kernel)}'.*?(?=Compiling entry|\Z)"
    match = re.search(entry, log, re.DOTALL)
    if match is None:
        raise RuntimeError(f"the log does not speak of {kernel}:\n{log}")
    part = match[0]

    def number(pattern: str) -> int:
        found = re.search(pattern, part)
        return int(found[1]) if found else 0

    return Resources(
        registers=number(r"Used (\d+) registers"),
        spilled_bytes=number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
        static_shared_bytes=number(r"(\d+) bytes smem"),
        stack_bytes=number(r"(\d+) bytes stack frame"),
    )
