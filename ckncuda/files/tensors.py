"""Reading the container of a model file: safetensors, a header of JSON and then numbers, nothing else.

Everything is read from the file, nothing is mapped into memory: a mapped file that shrinks ends the process.
The header is checked to the last offset before anything of the numbers is read, and before memory is taken.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ckncuda.errors import InvalidModelFile
from ckncuda.files import strict_json
from ckncuda.files.foreign import BEGIN, kind_where_a_model_belongs
from ckncuda.files.regular_file import read_into

LONGEST = 8 << 20  # bytes of a header: that of a model takes thousands
SPARSE = 64 << 20  # bytes from which on a file is looked at for holes
MOST_AXES = 8
_METADATA = "__metadata__"
_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",  # the upper half of a float32, which is what it is read as
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "<u1",
    "BOOL": "<?",
}


@dataclass(frozen=True)
class Tensor:
    """An array in a file: its type and shape, and the offset at which it begins."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    halved: bool = False  # BF16

    @property
    def end(self) -> int:
        """The offset at which it ends."""
        return self.begin + self.dtype.itemsize * math.prod(self.shape)


@dataclass(frozen=True)
class Container:
    """A file's metadata and its arrays, which are yet to be read."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, Tensor]


MODEL = "a model file", "a file that ckn fit wrote"


def read_container(file: BinaryIO, path: Path, expected: tuple[str, str] = MODEL) -> Container:
    """Read and check the header of a file; messages say what it should be, and what to give.

    Raises
    ------
    InvalidModelFile
        It is no safetensors file, truncated, or damaged.
    OSError
        It cannot be read.
    """
    size = os.fstat(file.fileno()).st_size
    head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    if not head:
        raise _no_model(path, "it is empty", expected)
    if len(head) < 9 or head[8:] != b"{":
        if (kind := kind_where_a_model_belongs(head + file.read(BEGIN))) is not None:
            raise InvalidModelFile(f"{path} {kind}")
        raise _no_model(path, "it has no header", expected)
    if length > LONGEST:
        raise _no_model(path, f"a header of {length:,} bytes", expected)
    if size < 8 + length:
        raise _truncated(path)
    text = b"{" + file.read(length - 1)
    try:
        found = strict_json.loads(text)
        metadata = found.pop(_METADATA, {})
        tensors = {name: _tensor(described, 8 + length) for name, described in found.items()}
        texts = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
        if not texts:
            raise ValueError("its metadata are no texts")
        end = _check_contiguous(tensors, 8 + length)
    except ValueError as error:
        raise _no_model(path, f"{error!s:.200}", expected) from error
    if size < end:
        raise _truncated(path)
    if size > end:
        raise InvalidModelFile(f"{path} is damaged: {size - end:,} bytes follow what its header announces")
    _check_holes(os.fstat(file.fileno()), path)
    return Container(metadata, tensors)


def read_tensors(file: BinaryIO, tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Read the arrays; raise `InvalidData` if the file has become shorter."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, tensor in tensors.items():
        array = np.empty(tensor.shape, tensor.dtype)
        read_into(file, array, tensor.begin)
        arrays[name] = _widened(array) if tensor.halved else array
    return arrays


def _widened(halves: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the float32 numbers of which these are the upper halves."""
    wide: NDArray[np.float32] = np.left_shift(halves.reshape(-1), 16, dtype=np.uint32).view(np.float32)
    return wide.reshape(halves.shape)


def _tensor(described: Any, begin: int) -> Tensor:
    """Return what a header says of an array; raise `ValueError` if it cannot be."""
    if not isinstance(described, dict) or set(described) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("an array is not described by its dtype, shape and data_offsets")
    name, shape, offsets = described["dtype"], described["shape"], described["data_offsets"]
    if not isinstance(name, str) or name not in _TYPES:
        raise ValueError(f"there are no arrays of the type {name!r:.80}")
    if not _are_counts(shape) or len(shape) > MOST_AXES:
        raise ValueError(f"an array cannot have the shape {shape!r:.80}")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"an array cannot be at {offsets!r:.80}")
    tensor = Tensor(np.dtype(_TYPES[name]), tuple(shape), begin + offsets[0], name == "BF16")
    if tensor.end != begin + offsets[1]:
        raise ValueError(f"{name} of shape {shape!r:.80} does not take the bytes {offsets!r:.80}")
    return tensor


def _are_counts(found: Any) -> bool:
    return isinstance(found, list) and all(type(each) is int and 0 <= each < 1 << 48 for each in found)


def _check_contiguous(tensors: Mapping[str, Tensor], begin: int) -> int:
    """Return where the arrays end; raise `ValueError` if they overlap or leave something out."""
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.begin, tensor.end)):
        if tensor.begin != begin:
            raise ValueError("its arrays overlap, or something is between them")
        begin = tensor.end
    return begin


def _check_holes(found: os.stat_result, path: Path) -> None:
    """Raise if most of a large file was never written: it takes memory, and holds nothing."""
    blocks = getattr(found, "st_blocks", None)  # not on Windows
    if blocks is not None and found.st_size > SPARSE and blocks * 512 < found.st_size // 8:
        raise InvalidModelFile(
            f"{path} is damaged: of {found.st_size:,} bytes, {blocks * 512:,} were written; copy it again"
        )


def _no_model(path: Path, reason: str, expected: tuple[str, str]) -> InvalidModelFile:
    what, give = expected
    return InvalidModelFile(f"{path} is not {what}, or is damaged ({reason}): give {give}, or copy it again")


def _truncated(path: Path) -> InvalidModelFile:
    return InvalidModelFile(f"{path} is truncated: it is shorter than its header says; copy it again")
