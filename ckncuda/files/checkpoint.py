"""Files from which an unfinished training goes on: plain data and arrays, whole or not at all."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from ckncuda.errors import InvalidData, InvalidModelFile
from ckncuda.files import strict_json
from ckncuda.files.atomic_file import atomic_file
from ckncuda.files.regular_file import check_unchanged, open_regular, version_of
from ckncuda.files.tensors import read_container, read_tensors
from ckncuda.types import StrPath

ENTRY = "ckncuda training"

EXPECTED = "a checkpoint of a training", "the file that the training wrote"
_AGAIN = "copy it again, or start anew without it"


def save(path: StrPath, plain: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a checkpoint in place of the one before; see `ckncuda.files.atomic_file` for errors."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json.dumps(plain, allow_nan=False)
    with atomic_file(path) as file:
        entry = f"{_digest_of(text, contiguous)}\n{text}"  # one: of several, the order changes each time
        file.write(safetensors.numpy.save(contiguous, {ENTRY: entry}))


def load(path: StrPath) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read what `save` wrote, or raise `InvalidData`: it is not there, no checkpoint, or damaged."""
    path = Path(path)
    what, give = EXPECTED
    try:
        with open_regular(path) as file:
            version = version_of(file)
            container = read_container(file, path, EXPECTED)
            if ENTRY not in container.metadata:
                raise InvalidData(f"{path} is not {what}: give {give}, or start anew without it")
            arrays = read_tensors(file, container.tensors)
            check_unchanged(file, version, path)
    except OSError as error:
        raise InvalidData(f"cannot read the checkpoint {path}: {error.strerror}") from error
    except InvalidModelFile as error:
        raise InvalidData(str(error)) from error
    expected, _, text = container.metadata[ENTRY].partition("\n")
    if expected != _digest_of(text, arrays):
        raise InvalidData(f"{path} is damaged: not all that was written is there; {_AGAIN}")
    try:
        plain = strict_json.loads(text)
    except ValueError as error:
        raise InvalidData(f"{path} is damaged: {error!s:.200}; {_AGAIN}") from error
    if not isinstance(plain, dict):
        raise InvalidData(f"{path} is damaged: it says nothing of the training; {_AGAIN}")
    return plain, arrays


def digest(arrays: Iterable[NDArray[Any]]) -> str:
    """Return what no other arrays, in this order, have: of their types, shapes and numbers."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str} {list(array.shape)}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def _digest_of(text: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    names = sorted(arrays)
    said = np.frombuffer("\n".join([text, *names]).encode(), np.uint8)
    return digest([said, *(arrays[name] for name in names)])
