"""The description of a Gram matrix on disk: zarr.json, written here, of which no byte may change.

Zarr believes whatever a description says: another order of bytes, another shape, and the tiles, whose
checksums are of their contents alone, are those of another matrix.  So everything but the identity of the
matrix follows from that identity, and is compared; the identity has a checksum.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckncuda.errors import InvalidData
from ckncuda.files import strict_json
from ckncuda.files.regular_file import read_within

DESCRIPTION = "zarr.json"
ATTRIBUTE = "ckncuda_gram"  # of the Zarr array: what it is, and of what
CHECKSUM = "ckncuda_sha256"  # of that, and a sign that the folder has checksums of its tiles' places
LONGEST = 1 << 20  # bytes
MOST_IMAGES = 1 << 31
_TYPES = {"float32": 4, "float64": 8}


@dataclass(frozen=True)
class Description:
    """The matrix that a folder says that it holds.

    Attributes
    ----------
    identity : dict
        Plain data that tells the matrix from others, such as `GramJob.identity`, with its shape, dtype and
        tile.
    checked : bool
        Whether the description has a checksum, and the tiles' places have; folders of the first ckncuda have
        not.
    """

    identity: Mapping[str, Any]
    checked: bool = True

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        n, m = self.identity["shape"]
        return n, m

    @property
    def chunk_shape(self) -> tuple[int, int]:
        """Rows and columns of a tile."""
        n, m = (min(size, self.identity["tile"]) for size in self.shape)
        return n, m

    @property
    def chunk_bytes(self) -> int:
        """Bytes of the numbers of a tile, which a checksum follows; the last tiles are as large."""
        return math.prod(self.chunk_shape) * _TYPES[self.identity["dtype"]]

    def to_bytes(self) -> bytes:
        """Return the file."""
        attributes: dict[str, Any] = {ATTRIBUTE: self.identity}
        if self.checked:
            attributes[CHECKSUM] = hashlib.sha256(_canonical(self.identity)).hexdigest()
        described = {
            "shape": list(self.shape),
            "data_type": self.identity["dtype"],
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.chunk_shape)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": "NaN",
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "attributes": attributes,
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }
        return json.dumps(described, indent=2).encode()


def read_description(folder: Path) -> Description:
    """Read the description of a matrix.

    Raises
    ------
    InvalidData
        It is none of ours, or any byte of it has changed.
    OSError
        There is none, or it may not be read.
    """
    content = read_within(folder / DESCRIPTION, LONGEST, follow=False)
    try:
        found = strict_json.loads(content)
        attributes = found["attributes"]
        description = Description(attributes[ATTRIBUTE], CHECKSUM in attributes)
        _check(description.identity)
        expected = description.to_bytes()
    except (ValueError, LookupError, TypeError) as error:
        raise _damaged(folder) from error
    # The first ckncuda left it to Zarr how the file is laid out.
    as_written = content == expected if description.checked else _same(found, json.loads(expected))
    if not as_written:
        raise _damaged(folder)
    return description


def _damaged(folder: Path) -> InvalidData:
    return InvalidData(f"{folder / DESCRIPTION} is damaged, or not of ckn gram")


def _check(identity: Any) -> None:
    """Raise `ValueError` unless an identity describes a matrix that can be."""
    shape, tile, dtype = (identity[name] for name in ("shape", "tile", "dtype"))
    counts = [*shape, tile] if isinstance(shape, list) else []
    counted = all(type(count) is int and 0 < count < MOST_IMAGES for count in counts)
    if not isinstance(identity, dict) or len(counts) != 3 or not counted or dtype not in _TYPES:
        raise ValueError


def _same(one: Any, other: Any) -> bool:
    return _canonical(one) == _canonical(other)  # for Python, 1 and 1.0 and True are the same


def _canonical(plain: Any) -> bytes:
    return json.dumps(plain, sort_keys=True).encode()
