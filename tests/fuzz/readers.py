"""Every reader of the library: what it is given, and what is a valid result of it."""

import contextlib
import fnmatch
import io
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fuzz import corpus, formats, texts
from fuzz.corpus import Seed
from fuzz.formats import Format

from ckncuda import Exponential, System, import_chen, load
from ckncuda.backend.numpy import NumpyBackend
from ckncuda.data import open_images, read_labels

AT_ONCE = 3  # images of a block
ENOUGH = 64 << 20  # bytes of images that are read
MOST_PIXELS = 100_000  # of an image that a damaged model is given


def _words(text: bytes) -> tuple[bytes, ...]:
    return tuple(text.split(b" "))


WORDS_OF_ARRAYS = _words(b"images labels x y \x93NUMPY\1\0 PK\3\4 PK\1\2 PK\5\6 |O")
WORDS_OF_TABLES = (*_words(b', ,, \n \r " id Id,Prediction\n nan NA NULL 1e400'), b" ")
WORDS_OF_IDX = _words(b"\0\0\x08\1 \0\0\x08\3 \x1f\x8b\x08 \0\0\0\0")
WORDS_OF_PICTURES = _words(b"IDAT IEND II*\0 MM\0* \xff\xd8 \xff\xda RIFF GIF89a P6 BM")
WORDS_OF_PICKLES = _words(b"cbuiltins\nexec\n cos\nsystem\n ( t R b labels data u1 O8 .")
WORDS_OF_GRAM_FOLDERS = _words(
    b"shape chunk_shape endian big little float64 int32 fill_value codecs name transpose crc32c "
    b"bytes ckncuda_gram default v2 separator ."
)
WORDS_OF_MODELS = _words(
    b"encoders layers anchors projection classifier weights intercept kind exact image_shape image_type "
    b"report version name points network uint8 float32"
)
WORDS_OF_STATES = _words(
    b"features.ckn_layers.0. module. weight ones pooling_filter lintrans ckn_bias kernel_args.0 "
    b"classifier. bias"
)
WORDS_OF_SEARCHES = _words(
    b"op_code trial_id user_attr system values state seconds n_features preset worker_id study_id "
    b"distribution param_value_internal failure layers"
)


class Wrong(Exception):
    """A result that is none: of another shape, out of range, or not what was stored."""


def expect(held: bool, words: str) -> None:
    """Raise `Wrong` unless something holds."""
    if not held:
        raise Wrong(words)


@dataclass(frozen=True)
class Reader:
    """A reader, its seeds, and the formats of their files by pattern of names."""

    seeds: Callable[[Path], Sequence[Seed]]
    check: Callable[[Path, Mapping[str, Any]], None]
    knows: Mapping[str, Format]
    words: tuple[bytes, ...] = ()
    may_lack: bool = False  # files may be missing
    quick: int = 1000  # mutations that take a few seconds

    def mutation(self, rng: random.Random, seeds: Sequence[Seed]) -> Seed:
        """Return one of the seeds, in which a file is another, or missing."""
        seed = rng.choice(seeds)
        name = rng.choice(sorted(seed.files))
        files = dict(seed.files)
        if self.may_lack and rng.random() < 0.03:
            del files[name]
            return seed._replace(files=files)
        others = [content for other in seeds for content in other.files.values()]
        known = next((f for pattern, f in self.knows.items() if fnmatch.fnmatch(name, pattern)), formats.raw)
        mutate = known if rng.random() < 0.6 else formats.raw
        files[name] = mutate(rng, files[name], others, self.words)
        return seed._replace(files=files)


def _images(path: Path, how: Mapping[str, Any]) -> None:
    with open_images(path, **how) as source:
        n, *shape = source.shape
        expect(
            min(source.shape) >= 1 and source.dtype in (np.uint8, np.float32),
            f"{source.shape} {source.dtype}",
        )
        if source.labels is not None:
            _expect_labels(source.labels, n)
        first, seen, read = None, 0, 0
        for block in source.blocks(AT_ONCE):
            expect(block.shape == (min(AT_ONCE, n - seen), *shape), f"a block of shape {block.shape}")
            expect(block.dtype == source.dtype, f"a block of {block.dtype}")
            expect(bool(np.isfinite(block).all()), "pixels are not finite")
            first = block[:1].copy() if first is None else first
            seen, read = seen + len(block), read + block.nbytes
            if read > ENOUGH:
                break
        expect(np.array_equal(source.read(0, 1), first), "the first image is another when it is read again")


def _expect_labels(labels: Any, n: int) -> None:
    expect(labels.dtype == np.int64 and labels.shape == (n,), f"labels {labels.dtype} {labels.shape} of {n}")
    expect(bool((labels >= 0).all()), "labels below 0")


def _labels(path: Path, how: Mapping[str, Any]) -> None:
    _expect_labels(read_labels(path, len(corpus.LABELS)), len(corpus.LABELS))


def _gram_npy(path: Path, how: Mapping[str, Any]) -> None:
    from ckncuda.exact.on_disk.reading import open_gram

    gram = open_gram(path)
    expect(len(gram.shape) == 2 and gram.dtype.kind == "f", f"{gram.dtype} {gram.shape}")
    rows = gram[0 : min(5, gram.shape[0])]
    expect(rows.shape == (min(5, gram.shape[0]), gram.shape[1]), f"rows of shape {rows.shape}")


def _gram_folder(path: Path, how: Mapping[str, Any]) -> None:
    from gram_files import read, write

    from ckncuda.exact.on_disk.reading import open_gram

    output = path / how["output"]
    if how["resumed"]:
        write(output, corpus.GRAM)
        expect(np.array_equal(read(output), corpus.GRAM), "a finished matrix is another")
    gram = open_gram(output)
    expect(gram.shape == (10, 10), f"a matrix of shape {gram.shape}")
    parts = [gram[3:7], gram[0:10]]
    expect(np.array_equal(parts[0], corpus.GRAM[3:7]), "rows of another matrix")
    expect(np.array_equal(parts[1], corpus.GRAM), "another matrix")


def _gram_folders(folder: Path) -> list[Seed]:
    from gram_files import write

    seeds = []
    for name, tiles, resumed in [
        ("K.zarr", None, False),
        ("K.zarr", None, True),
        ("K.zarr", 3, True),
        ("K.npy", 3, True),
    ]:
        place = folder / str(len(seeds))
        place.mkdir()
        write(place / name, corpus.GRAM, tiles=tiles)
        found = {str(p.relative_to(place)): p.read_bytes() for p in sorted(place.rglob("*")) if p.is_file()}
        seeds.append(Seed(found, ".", {"output": name, "resumed": resumed}))
    return seeds


def _model(path: Path, how: Mapping[str, Any]) -> None:
    from ckncuda.cli.info import info

    model = load(path)
    assert info.callback is not None
    for as_json in (False, True):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            info.callback(model=str(path), as_json=as_json)
    json.loads(printed.getvalue())
    shape = model.image_shape or (12, 12, 3)
    expect(len(shape) == 3 and all(type(side) is int and side > 0 for side in shape), f"images of {shape}")
    if math.prod(shape) > MOST_PIXELS:
        return
    kind = np.uint8 if model.image_type == "uint8" else np.float32
    images = np.random.default_rng(0).integers(0, 256, (2, *shape)).astype(kind)
    backend = NumpyBackend(threads=1, compiled=False)
    if model.classifier is None:
        features = model.features(images, backend=backend)
        expect(features.shape == (2, model.features_of(shape)), f"features of shape {features.shape}")
        return
    predicted = model.predict(images, backend=backend)
    expect(
        predicted.shape == (2,) and bool(np.isin(predicted, model.classifier.classes_).all()), f"{predicted}"
    )


def _state(path: Path, how: Mapping[str, Any]) -> None:
    model = import_chen(path, kernel=Exponential(sigma=0.5))
    channels, sides = model.network.layers[0].anchors.shape[3], (8, 8)
    if (
        math.prod(layer.anchors.size for layer in model.network.layers) > MOST_PIXELS
        or model.classifier is None
    ):
        return
    images = np.random.default_rng(0).normal(size=(2, *sides, channels)).astype(np.float32)
    features = model.features(images, backend=NumpyBackend(threads=1, compiled=False))
    expect(bool(np.isfinite(features).all()), "features are not finite")
    expect(len(model.classifier.classes_) >= 2, f"{model.classifier.classes_}")


def _toml(path: Path, how: Mapping[str, Any]) -> None:
    system = System.from_toml(path, **how)
    _system(system)


def _system(system: System) -> None:
    stored = json.dumps(system.to_dict())
    expect(
        json.dumps(System.from_dict(json.loads(stored)).to_dict()) == stored, "plain data of another system"
    )
    str(system)
    system.check((32, 32, 3))


def _option(path: Path, how: Mapping[str, Any]) -> None:
    from ckncuda import EncoderSpec
    from ckncuda.cli.system_options import parse_layer, parse_preprocessing

    text = path.read_bytes().decode("utf-8", "replace")
    if how["option"] == "layer":
        _system(System([EncoderSpec([parse_layer(text)], None)]))
    else:
        parse_preprocessing((text,))


def _search(path: Path, how: Mapping[str, Any]) -> None:
    from fuzz.searches import TRIALS, search

    found = search(path)
    expect(len(found.leaderboard) <= sum(found.counts.values()), f"{found.counts}")
    expect(sum(found.counts.values()) >= TRIALS, f"only {found.counts}")
    expect(
        all(0 <= row.accuracy <= 1 and math.isfinite(row.seconds) for row in found.leaderboard),
        "rows out of range",
    )
    expect(found.best == found.leaderboard[0], "the best is not the first")


def _searches(folder: Path) -> Sequence[Seed]:
    from fuzz.searches import seeds

    return seeds(folder)


def _made(seeds: Callable[[], list[Seed]]) -> Callable[[Path], Sequence[Seed]]:
    return lambda folder: seeds()


_ARRAYS: Mapping[str, Format] = {
    "*.npy": formats.npy,
    "*.npz": formats.zipped(formats.npy),
    "*.csv": formats.number_lines,
    "*.gz": formats.gzipped(formats.raw),
}

READERS: Mapping[str, Reader] = {
    "csv": Reader(_made(corpus.csv), _images, _ARRAYS, WORDS_OF_TABLES),
    "npy": Reader(_made(corpus.npy), _images, _ARRAYS, WORDS_OF_ARRAYS),
    "npz": Reader(_made(corpus.npz), _images, _ARRAYS, WORDS_OF_ARRAYS),
    "labels": Reader(_made(corpus.labels), _labels, _ARRAYS, WORDS_OF_ARRAYS + WORDS_OF_TABLES),
    "idx": Reader(
        _made(corpus.idx), _images, _ARRAYS, (b"\0\0\x08\1", b"\0\0\x08\3", b"\x1f\x8b\x08", b"\0" * 4)
    ),
    "cifar-binary": Reader(_made(corpus.cifar_binary), _images, {}),
    "cifar-pickled": Reader(
        _made(corpus.cifar_pickled),
        _images,
        {"*": formats.pickled},
        WORDS_OF_PICKLES,
    ),
    "pictures": Reader(_made(corpus.pictures), _images, {"*.png": formats.png}, WORDS_OF_PICTURES),
    "gram-npy": Reader(_made(corpus.gram_npy), _gram_npy, _ARRAYS, WORDS_OF_ARRAYS),
    "gram-folder": Reader(
        _gram_folders,
        _gram_folder,
        {"*zarr.json": formats.as_json},
        WORDS_OF_GRAM_FOLDERS,
        may_lack=True,
        quick=150,
    ),
    "model": Reader(
        corpus.models,
        _model,
        {"*": formats.safetensors},
        WORDS_OF_MODELS,
        quick=400,
    ),
    "state": Reader(
        _made(corpus.states),
        _state,
        {"*.npz": formats.zipped(formats.npy), "*": formats.safetensors},
        WORDS_OF_STATES,
    ),
    "toml": Reader(_made(texts.toml), _toml, {"*": formats.text}, texts.WORDS),
    "options": Reader(_made(texts.options), _option, {"*": formats.text}, texts.WORDS),
    "search": Reader(
        _searches,
        _search,
        {"journal.log": formats.lines_of_json, "search.json": formats.as_json},
        WORDS_OF_SEARCHES,
        may_lack=True,
        quick=150,
    ),
}
