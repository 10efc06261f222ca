"""Inputs that change while they are read: by a hook between opening and reading, in a child."""

import builtins
import gzip
import io
import os
import pickle
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fuzz.corpus import npy_of, npz_of
from PIL import Image

from ckncuda import System, load
from ckncuda.data import open_images, read_labels
from ckncuda.errors import CknError, InvalidData
from ckncuda.types import Array

N = 12
PIXELS = np.random.default_rng(12).integers(0, 256, (N, 32, 32, 3), np.uint8)
LABELS = np.arange(N) % 4
GRAM = np.random.default_rng(13).normal(size=(300, 300)).astype(np.float32)
GRAM = GRAM + GRAM.T


def _halved(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _emptied(path: Path) -> None:
    os.truncate(path, 0)


def _overwritten(path: Path) -> None:
    content = path.read_bytes()
    with open(path, "wb") as file:  # as cp does
        file.write(content[: len(content) * 3 // 4])


def _replaced(path: Path) -> None:
    part = path.with_name(".new")
    part.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    os.replace(part, path)


SHRINKS = {f.__name__.strip("_"): f for f in (_halved, _emptied, _overwritten, _replaced)}


def _rewritten(path: Path, other: Path) -> None:
    """Write another input into the file, as `cp` does; the system's clock for files ticks every few ms."""
    time.sleep(0.02)
    shutil.copyfile(other, path)


def _exchanged(path: Path, other: Path) -> None:
    shutil.copyfile(other, path.with_name(".new"))
    os.replace(path.with_name(".new"), path)


def _grown(path: Path, other: Path) -> None:
    time.sleep(0.02)
    with open(path, "ab") as file:
        file.write(other.read_bytes())


CHANGES = {f.__name__.strip("_"): f for f in (_rewritten, _exchanged, _grown)}

TOML = (
    "[[layers]]\nfilters = 8\npatch = 3\nsubsampling = 2\nkernel = 'exp'\nsigma = 0.6\n" + "# more\n" * 3000
)


def make(kind: str, folder: Path, pixels: Array = PIXELS) -> tuple[Path, Path]:
    """Write an input; returns what is opened, and the file that changes."""
    rows = pixels.transpose(0, 3, 1, 2).reshape(N, -1)
    batches = {f"data_batch_{i}": (rows[i::2], LABELS[i::2]) for i in (0, 1)}
    idx = struct.pack(">5I", 0x804, N, 32, 32, 3) + pixels.tobytes()
    table = "".join(f"{i},{label}\n" for i, label in enumerate(LABELS, 1)).encode()
    files: dict[str, dict[str, bytes]] = {
        "npy": {"x.npy": npy_of(pixels)},
        "npz": {"x.npz": npz_of(images=pixels)},
        "npz stored": {"x.npz": npz_of(0, images=pixels)},
        "csv": {"x.csv": "".join(",".join(map(str, row)) + "\n" for row in rows).encode()},
        "idx": {"images-idx4": idx},
        "idx gzipped": {"images-idx4.gz": gzip.compress(idx)},
        "cifar binary": {
            f"{name}.bin": np.concatenate([labels[:, None].astype(np.uint8), data], axis=1).tobytes()
            for name, (data, labels) in batches.items()
        },
        "cifar pickled": {
            name: pickle.dumps({"labels": labels.tolist(), "data": data})
            for name, (data, labels) in batches.items()
        },
        "pictures png": {f"{i:02}.png": _picture(pixels[i], "png") for i in range(N)},
        "pictures tiff": {f"{i:02}.tif": _picture(pixels[i], "tiff") for i in range(N)},
        "labels csv": {"Y.csv": b"Id,Prediction\n" + table},
        "labels npy": {"Y.npy": npy_of(LABELS)},
        "labels npz": {"Y.npz": npz_of(labels=LABELS)},
        "labels idx": {"Y": struct.pack(">2I", 0x801, N) + LABELS.astype(np.uint8).tobytes()},
        "gram npy": {"K.npy": npy_of(GRAM if pixels is PIXELS else GRAM + 1)},
        "toml": {"net.toml": TOML.encode()},
        "model": {"m.ckn": (Path(__file__).parents[1] / "model_files" / "version_3.ckn").read_bytes()},
    }
    if kind == "gram zarr":
        _write_gram(folder / "K.zarr")
        return folder / "K.zarr", folder / "K.zarr" / "c" / "2" / "2"
    for name, content in files[kind].items():
        (folder / name).write_bytes(content)
    last = folder / sorted(files[kind])[-1]
    return (folder if len(files[kind]) > 1 else last), last


def _write_gram(path: Path) -> None:
    from gram_files import IDENTITY, cut

    from ckncuda.exact.on_disk.writing import GramStore
    from ckncuda.exact.tiles import Tiling

    tiling = Tiling(len(GRAM), tile=100)
    with GramStore(path, tiling, IDENTITY | {"shape": list(GRAM.shape), "tile": 100}) as store:
        store.fill(cut(GRAM, store.unfinished()))
        store.finish()


def _picture(pixels: Array, suffix: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, suffix)
    return out.getvalue()


KINDS = (
    *("npy", "npz", "npz stored", "csv", "idx", "idx gzipped", "cifar binary", "cifar pickled"),
    *("pictures png", "pictures tiff", "labels csv", "labels npy", "labels npz", "labels idx"),
    *("gram npy", "gram zarr", "toml", "model"),
)


def read(kind: str, path: Path, between: Callable[[], None] = lambda: None) -> Any:
    """Read an input as a command does; what can be read in parts calls ``between`` after the first."""
    if kind.startswith("labels"):
        return read_labels(path, N).tolist()
    if kind.startswith("gram"):
        from ckncuda.exact.on_disk.reading import open_gram

        gram = open_gram(path)
        first = np.array(gram[0:100])
        between()
        return np.concatenate([first, gram[100:300]]).tobytes()
    if kind == "toml":
        return System.from_toml(path).to_dict()
    if kind == "model":
        model = load(path)
        between()
        return [{name: a.tobytes() for name, a in each.arrays().items()} for each in model.encoders]
    with open_images(path) as source:
        if len(source) != N:  # cut between two images before it was opened: who has labels will see
            raise InvalidData("there are fewer images")
        first = source.read(0, 2)
        between()
        return np.concatenate([first, source.read(2, 7), source.read(7, N)]).tobytes()


def outcome(action: Callable[[], Any], whole: Any) -> str:
    """Return "refused", "whole", or what else came of it."""
    try:
        result = action()
    except CknError as error:
        return "refused" if str(error) else "refused without a word"
    except Exception as error:  # whatever it is: that is what is looked for
        return f"{type(error).__name__}: {error}"
    return "whole" if result == whole else "another result"


def after_a_part(kind: str, shrink: str, folder: str) -> str:
    """Read a part, shrink the file, read the rest."""
    opened, file = make(kind, Path(folder))
    whole = read(kind, opened)
    return outcome(lambda: read(kind, opened, lambda: SHRINKS[shrink](file)), whole)


def after_another_came(kind: str, change: str, folder: str) -> str:
    """Read a part, have the file be another that is as good, read the rest."""
    opened, file = make(kind, Path(folder))
    elsewhere = Path(tempfile.mkdtemp(dir=Path(folder).parent))
    other = make(kind, elsewhere, PIXELS[:, ::-1])[1]
    whole = read(kind, opened)
    return outcome(lambda: read(kind, opened, lambda: CHANGES[change](file, other)), whole)


def after_opening(kind: str, shrink: str, opening: int, folder: str) -> str:
    """Shrink the file when it has just been opened for the so-manieth time, before anything is read."""
    opened, file = make(kind, Path(folder))
    whole = read(kind, opened)
    functions, count = {(m, m.open) for m in (builtins, io, os)}, 0

    def wrapped(function: Any) -> Any:
        def opens(path: Any, *arguments: Any, **options: Any) -> Any:
            nonlocal count
            result = function(path, *arguments, **options)
            if isinstance(path, str | os.PathLike) and Path(path) == file:
                count += 1
                if count == opening:
                    restore()
                    SHRINKS[shrink](file)
            return result

        return opens

    def restore() -> None:
        for module, function in functions:
            module.open = function  # type: ignore[attr-defined]

    for module, function in functions:
        module.open = wrapped(function)  # type: ignore[attr-defined]
    try:
        return outcome(lambda: read(kind, opened), whole)
    finally:
        restore()


def meanwhile(kind: str, shrink: str, rounds: int, folder: str) -> list[str]:
    """Shrink the file from another thread, a moment after reading has begun, again and again."""
    place = Path(folder)
    opened, file = make(kind, place)
    kept = place / "kept.copy"
    if kind.startswith(("cifar", "pictures")):
        kept = place.with_name(place.name + ".copy")
    shutil.copyfile(file, kept)
    whole, found = read(kind, opened), []
    began = time.perf_counter()
    read(kind, opened)
    seconds = time.perf_counter() - began
    for number in range(rounds):
        shutil.copyfile(kept, file)
        timer = threading.Timer(seconds * number / rounds, SHRINKS[shrink], (file,))
        timer.start()
        found.append(outcome(lambda: read(kind, opened), whole))
        timer.join()
    return found


def command_at_work(shrink: str, folder: str, *arguments: str) -> None:
    """Run `ckn`; the images shrink when their second block is about to be read."""
    from nursery import call_ckn

    from ckncuda.data.source import ImageSource

    reads, read_block = 0, ImageSource.read

    def hooked(self: ImageSource, start: int, stop: int) -> Any:
        nonlocal reads
        reads += 1
        if reads == 2:
            SHRINKS[shrink](Path(folder) / "many.npy")
        return read_block(self, start, stop)

    ImageSource.read = hooked  # type: ignore[method-assign]
    call_ckn(*arguments)
