"""Which lines of the kernels have been executed, from gcov.

Run something with the variables of `variables(folder)`, in this process (before the first kernel is
compiled) or in others; then `lines(folder)` tells of each file that the source's ``#line`` directives name.
"""

import ctypes
import gzip
import json
import shutil
import subprocess
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from . import compiler

_libraries: list[ctypes.CDLL] = []


@dataclass(frozen=True)
class Lines:
    """Lines of a file that hold code, and those of them that ran in any module, process or instantiation."""

    covered: int
    executable: int
    missed: list[int]


def variables(folder: Path) -> dict[str, str]:
    """The variables under which kernels are compiled anew, into this folder, to count their lines."""
    return {"CKNCUDA_CPU_CACHE": str(folder), "CKNCUDA_CPU_FLAGS": "--coverage -O0 -fno-inline"}


def remember(library: ctypes.CDLL) -> None:
    """Note a module of this process: its counts are in memory until `lines` is called, or the end."""
    if hasattr(library, "ckn_write_coverage"):
        _libraries.append(library)


def lines(folder: Path) -> dict[str, Lines]:
    """Of each file of kernels: what has been covered by all that ran with `variables(folder)`."""
    for library in _libraries:
        library.ckn_write_coverage()
    counts: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for data in sorted(folder.glob("*/module.gcda")):
        for file in _gcov(data)["files"]:
            if _is_kernels(file["file"]):
                for line in file["lines"]:
                    counts[file["file"]][line["line_number"]] += line["count"]
    return {name: _summary(of_line) for name, of_line in sorted(counts.items())}


def _summary(counts: dict[int, int]) -> Lines:
    missed = sorted(line for line, count in counts.items() if not count)
    return Lines(len(counts) - len(missed), len(counts), missed)


def _is_kernels(name: str) -> bool:
    """Not the harness, not the system's headers, not the table at the end of a module."""
    inside = Path(name).is_absolute() and Path(name).is_relative_to(compiler.HERE)
    generated = Path(name).name in ("kernels_asked_for", "module.cpp")
    return not inside and not generated and not name.startswith("/usr")


def _gcov(data: Path) -> "dict[str, list[dict[str, object]]]":
    program = shutil.which("gcov")
    if program is None:
        raise RuntimeError("gcov, which comes with g++, is not installed")
    with tempfile.TemporaryDirectory() as temporary:
        subprocess.run([program, "--json-format", str(data)], cwd=temporary, check=True, capture_output=True)
        (report,) = Path(temporary).glob("*.gcov.json.gz")
        return json.loads(gzip.decompress(report.read_bytes()))  # type: ignore[no-any-return]


def why_unavailable() -> str | None:
    """Why lines cannot be counted on this machine; None where they can."""
    return None if shutil.which("gcov") else "gcov, which comes with g++, is not installed"
