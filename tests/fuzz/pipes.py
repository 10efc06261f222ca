"""Places where a file is expected and a pipe may stand, which would wait for ever."""

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path

from fuzz.bombs import EXACT, FIT, SEARCH, zarr_folder
from fuzz.corpus import gram_npy
from PIL import Image


def pipes(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield places where a file is expected, and the arguments that read it there."""
    (folder / "pictures" / "cat").mkdir(parents=True)
    (folder / "cifar").mkdir()
    (folder / "mnist").mkdir()
    (folder / "new.ckn.search").mkdir()
    Image.new("RGB", (8, 6)).save(folder / "pictures" / "cat" / "1.png")
    (folder / "mnist" / "train-images-idx3").write_bytes(struct.pack(">4I", 0x803, 5, 8, 8) + bytes(320))
    (folder / "K.npy").write_bytes(gram_npy()[0].files["K.npy"])
    zarr_folder(folder).write_bytes(gzip.compress(bytes(100)))
    fit = [*FIT]
    yield "pipe.npy", [*fit, "pipe.npy"]
    yield "pipe.csv", [*fit, "pipe.csv", "--format", "csv", "--image-shape", "8x8x1"]
    yield "pipe.npz", [*fit, "pipe.npz", "--format", "npz"]
    yield "pipe", [*fit, "pipe", "--format", "idx"]
    yield "data_batch_1.bin", [*fit, "data_batch_1.bin", "--format", "cifar"]
    yield "data_batch_1", [*fit, "data_batch_1"]
    yield "cifar/data_batch_1", [*fit, "cifar"]
    yield "mnist/train-labels-idx1", [*fit, "mnist", "--classifier", "ridge"]
    yield "pictures/cat/2.png", [*fit, "pictures"]
    yield "Y.pipe", [*fit, "x.npy", "--labels", "Y.pipe"]
    yield "pipe.ckn", ["info", "pipe.ckn"]
    yield "predict.ckn", ["predict", "predict.ckn", "x.npy", "-o", "p.csv"]
    yield "net.toml", ["fit", "x.npy", "-o", "new.ckn", "--config", "net.toml"]
    yield "pipe.K.npy", [*EXACT, "x.npy", "--gram", "pipe.K.npy"]
    yield "K.zarr/zarr.json", [*EXACT, "x.npy", "--gram", "K.zarr"]
    yield "K.zarr/c/0/0", [*EXACT, "x.npy", "--gram", "K.zarr"]
    yield "new.ckn.search/search.json", [*SEARCH]
    yield "new.ckn.search/journal.log", [*SEARCH]
    yield "new.ckn.search/lock", [*SEARCH]
    yield "new.ckn", [*fit, "x.npy"]
