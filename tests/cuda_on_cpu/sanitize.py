"""Repeat recorded launches under the compilers' sanitizers.

Record with the variable `CKNCUDA_CPU_RECORD` (or `recorded_to`), then `replay` the folder with

- ``address``: writing and reading beyond arrays and shared memory, to the byte; undefined behaviour, such
  as a misaligned ``float4``, an overflow of a signed number or a shift too far;
- ``thread``: races.  Each CUDA thread is a thread to the sanitizer; what orders them is `__syncthreads`,
  `__syncwarp`, the beginning and the end of a launch, and nothing else.  Blocks are not ordered at all.

The sanitizers' runtimes do not live well inside of Python, so each module becomes a program.
"""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from . import compiler

Sanitizer = Literal["address", "thread"]

_FLAGS: dict[str, list[str]] = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    # Loops of the harness must not become calls that the sanitizer watches.
    "thread": ["-fsanitize=thread", "-fno-tree-loop-distribute-patterns"],
}
_ALWAYS = ["-O0", "-g1", "-fno-omit-frame-pointer", "-DCKN_REPLAY"]
_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=66",
    "UBSAN_OPTIONS": "print_stacktrace=1:exitcode=66",
    "TSAN_OPTIONS": "exitcode=66:halt_on_error=0:report_signal_unsafe=0:history_size=1",
}


@dataclass(frozen=True)
class Replay:
    """How it ended: 0 when nothing was found, and all that was said."""

    returncode: int
    report: str
    launches: int


@contextlib.contextmanager
def recorded_to(folder: Path) -> Iterator[Path]:
    """While every launch of this process, and of its children, is recorded."""
    before = os.environ.get("CKNCUDA_CPU_RECORD")
    os.environ["CKNCUDA_CPU_RECORD"] = str(folder)
    try:
        yield folder
    finally:
        if before is None:
            del os.environ["CKNCUDA_CPU_RECORD"]
        else:
            os.environ["CKNCUDA_CPU_RECORD"] = before


def replay(folder: Path, sanitizer: Sanitizer, *, timeout: float = 600) -> Replay:
    """Repeat all launches of a recording; the return code is not 0 where a sanitizer found something."""
    modules = {path.stem: json.loads(path.read_text()) for path in (folder / "modules").glob("*.json")}
    launches: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    names: dict[tuple[str, ...], set[str]] = {}
    for path in sorted(folder.glob("*.json")):
        launch = json.loads(path.read_text())
        module = modules[launch["module"]]
        # Modules of one source become one program: what they have in common is compiled once.
        key = module["source"], *module["options"]
        launches.setdefault(key, []).append(launch)
        names.setdefault(key, set()).update(module["names"])
    code, reports = 0, []
    for key, of_source in launches.items():
        source, *options = key
        ordered = sorted(names[key])
        program = compiler.build(source, ordered, options, extra=[*_ALWAYS, *_FLAGS[sanitizer]])
        with tempfile.TemporaryDirectory() as temporary:
            script = Path(temporary) / "script"
            script.write_text("".join(_script(launch, ordered) for launch in of_source))
            done = _run([str(program), str(script)], sanitizer, timeout)
        code = code or done.returncode
        reports.append(done.stdout + done.stderr)
    return Replay(code, "".join(reports), sum(map(len, launches.values())))


def _script(launch: dict[str, Any], names: list[str]) -> str:
    grid, block, shared = launch["sizes"]
    buffers, arguments = launch["buffers"], launch["arguments"]
    numbers = [names.index(launch["kernel"]), *grid, *block, shared, len(buffers), len(arguments)]
    return "\n".join(["launch " + " ".join(map(str, numbers)), *buffers, *arguments, ""])


def _run(command: list[str], sanitizer: Sanitizer, timeout: float) -> "subprocess.CompletedProcess[str]":
    prefix = without_randomisation() if sanitizer == "thread" else []
    command, environment = [*prefix, *command], {**os.environ, **_OPTIONS}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout)


@functools.cache
def without_randomisation() -> list[str]:
    """A prefix to commands: the thread sanitizer wants memory where it expects it."""
    program = shutil.which("setarch")
    if program is None:
        return []
    prefix = [program, os.uname().machine, "-R"]
    works = subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    return prefix if works else []


@functools.cache
def why_unavailable(sanitizer: Sanitizer) -> str | None:
    """Why this sanitizer cannot be used here; None where it can, as a program of one line tells."""
    program = compiler.compiler()
    if program is None:
        return "there is no C++ compiler"
    with tempfile.TemporaryDirectory() as temporary:
        built = Path(temporary) / "nothing"
        flags = [*_FLAGS[sanitizer], "-x", "c++", "-", "-o", str(built)]
        done = subprocess.run([program, *flags], input="int main() {}", capture_output=True, text=True)
        if done.returncode:
            return f"the compiler has no {sanitizer} sanitizer: {done.stderr.strip()[:200]}"
        done = _run([str(built)], sanitizer, 60)
        said = f"the {sanitizer} sanitizer does not run here: {done.stderr[:200]}"
        return said if done.returncode else None
