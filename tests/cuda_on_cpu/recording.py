"""Launches written down as files, to be replayed by a program of their own: see `sanitize`.

A recording is a folder: modules by the digest of their source, and one file for each launch with the
contents of its arrays as they were before.  Several processes may write to one folder.
"""

import ctypes
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_number = itertools.count()


def wanted() -> bool:
    """Whether launches are to be recorded: the variable `CKNCUDA_CPU_RECORD` names a folder."""
    return bool(os.environ.get("CKNCUDA_CPU_RECORD"))


def record(
    source: str,
    options: Sequence[str],
    names: Sequence[str],
    name: str,
    sizes: tuple[tuple[int, ...], tuple[int, ...], int],
    arguments: Sequence[NDArray[Any] | bytes | None],
) -> None:
    """Write one launch down.

    Parameters
    ----------
    source, options, names : of the module
    name : the kernel's expression
    sizes : grid, block and bytes of shared memory
    arguments : arrays that the kernel may read and write, or the bytes of a scalar, or None: a null pointer
    """
    folder = Path(os.environ["CKNCUDA_CPU_RECORD"])
    module = json.dumps({"source": source, "options": list(options), "names": list(names)})
    digest = hashlib.sha256(module.encode()).hexdigest()[:16]
    (folder / "modules").mkdir(parents=True, exist_ok=True)
    _write(folder / "modules" / f"{digest}.json", module.encode())

    buffers, lines = [], []
    pieces = _pieces(a for a in arguments if isinstance(a, np.ndarray))
    stem = f"{os.getpid():08d}-{next(_number):06d}"
    for i, (start, stop) in enumerate(pieces):
        path = folder / f"{stem}-{i}.bin"
        _write(path, ctypes.string_at(start, stop - start))
        buffers.append(f"buffer {stop - start} {path.absolute()}")
    for argument in arguments:
        if argument is None:
            lines.append("null")
        elif isinstance(argument, bytes):
            lines.append(f"bytes {argument.hex()}")
        else:
            address = int(argument.ctypes.data)
            i = next(i for i, (start, stop) in enumerate(pieces) if start <= address <= stop)
            lines.append(f"pointer {i} {address - pieces[i][0]}")
    launch = {"module": digest, "kernel": name, "sizes": sizes, "buffers": buffers, "arguments": lines}
    _write(folder / f"{stem}.json", json.dumps(launch).encode())


def _pieces(arrays: Iterable[NDArray[Any]]) -> list[tuple[int, int]]:
    """The memory of these arrays, from address to address; those that overlap make one piece."""
    spans = sorted((int(a.ctypes.data), int(a.ctypes.data) + a.nbytes) for a in arrays)
    pieces: list[tuple[int, int]] = []
    for start, stop in spans:
        if pieces and (start < pieces[-1][1] or start == pieces[-1][0]):
            pieces[-1] = pieces[-1][0], max(stop, pieces[-1][1])
        else:
            pieces.append((start, stop))
    return pieces


def _write(path: Path, contents: bytes) -> None:
    """Whole or not at all."""
    temporary = path.with_suffix(f".{os.getpid()}.part")
    temporary.write_bytes(contents)
    temporary.rename(path)
