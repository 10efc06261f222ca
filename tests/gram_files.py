"""Gram matrices on disk for tests: what they hold is known, nothing is computed."""

import time

import numpy as np
import zarr

from ckncuda.exact.on_disk.writing import GramStore
from ckncuda.exact.tiles import Tiling

IDENTITY = {
    "images": "a",
    "images2": None,
    "preprocessing": [],
    "kernel": {"tangent": False},
    "shape": [10, 10],
    "dtype": "float32",
    "tile": 4,
    "backend": "numpy",
}
OTHER = IDENTITY | {"images": "b"}
SQUARE = Tiling(10, tile=4)


def cut(matrix, tiles):
    """Yield these tiles of a matrix, as if they were computed."""
    return ((tile, matrix[tile.rows, tile.columns]) for tile in tiles)


def write(path, matrix, *, tiles=None, identity=IDENTITY):
    """Compute so many of the tiles that are missing, all by default; return which were missing."""
    with GramStore(path, SQUARE, identity) as opened:
        left = opened.unfinished()
        opened.fill(cut(matrix, left[:tiles]))
        if tiles is None:
            opened.finish()
    return left


def chunks(part):
    """Count the chunks in a folder where a matrix grows."""
    return sum(1 for path in part.glob("c/*/*") if path.suffix == "")


def wait_for_chunks(process, part, more):
    """Wait until so many more chunks are there; the process must still be at work then."""
    wanted, deadline = chunks(part) + more, time.monotonic() + 60
    while chunks(part) < wanted and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert process.poll() is None, process.communicate()


def read(path):
    """Return the matrix of a file or folder, whatever its name."""
    return zarr.open_array(str(path), mode="r")[:] if path.suffix == ".zarr" else np.load(path)
