"""Files from which an unfinished training goes on: plain data and arrays, whole or not at all."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from ckncuda.errors import InvalidData, InvalidModelFile, printable
from ckncuda.files import strict_json
from ckncuda.files.atomic_file import atomic_file
from ckncuda.files.regular_file import check_unchanged, open_regular, version_of
from ckncuda.files.tensors import read_container, read_tensors

ENTRY = "ckncuda training"


def save(path: str | os.PathLike[str], plain: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a checkpoint in place of the one before; see `ckncuda.files.atomic_file` for errors."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with atomic_file(path) as file:
        file.write(safetensors.numpy.save(contiguous, {ENTRY: json.dumps(plain)}))


def load(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read what `save` wrote, or raise `InvalidData`: it is not there, no checkpoint, or damaged."""
    path = Path(path)
    again = "give the file that the training wrote, or start anew without it"
    try:
        with open_regular(path) as file:
            version = version_of(file)
            container = read_container(file, path)
            arrays = read_tensors(file, container.tensors)
            check_unchanged(file, version, path)
        plain = strict_json.loads(container.metadata[ENTRY])
    except OSError as error:
        raise InvalidData(f"cannot read the checkpoint {printable(path)}: {error.strerror}") from error
    except (KeyError, ValueError, InvalidModelFile) as error:
        raise InvalidData(
            f"{printable(path)} is no checkpoint of a training, or is damaged; {again}"
        ) from error
    if not isinstance(plain, dict):
        raise InvalidData(f"{printable(path)} is damaged; {again}")
    return plain, arrays
