"""Small files of every format, made by code: what mutations begin with."""

import functools
import gzip
import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from factories import TWO_LAYERS, make_spec
from numpy.lib import format as npy_format
from PIL import Image, ImageDraw

from ckncuda import EncoderSpec, KernelRidge, Model, NystromRidge, Ridge, Softmax, SquaredHinge
from ckncuda.backend.numpy import NumpyBackend
from ckncuda.images.preprocess import preprocessor_from_dict
from ckncuda.images.symmetries import Symmetries


class Seed(NamedTuple):
    """Good input: files by name, which of them is opened ("." is their folder), and how."""

    files: Mapping[str, bytes]
    opened: str = "."
    how: Mapping[str, Any] = {}


IMAGES = np.random.default_rng(1).integers(0, 256, (5, 4, 4, 3), np.uint8)
LABELS = np.array([2, 0, 1, 1, 0])
FLOATS = np.random.default_rng(2).normal(size=(5, 4, 4, 3)).astype(np.float32)
GRAM = np.random.default_rng(3).normal(size=(10, 10)).astype(np.float32)
GRAM = GRAM + GRAM.T


def one(name: str, content: bytes, **how: Any) -> Seed:
    """Return a seed of one file."""
    return Seed({name: content}, name, how)


def npy_of(array: Any, version: tuple[int, int] | None = None) -> bytes:
    """Return an array in NumPy's format."""
    out = io.BytesIO()
    npy_format.write_array(out, np.asanyarray(array), version)
    return out.getvalue()


def npz_of(method: int = zipfile.ZIP_DEFLATED, **arrays: Any) -> bytes:
    """Return an archive of arrays."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, array in arrays.items():
            archive.writestr(zipfile.ZipInfo(name + ".npy"), npy_of(array), method)
    return out.getvalue()


def idx_of(array: Any) -> bytes:
    """Return an array of bytes in the format of MNIST."""
    array = np.asarray(array, np.uint8)
    return struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def csv() -> list[Seed]:
    """Return images as lines of numbers: with a header, an index, spaces, CRLF."""
    rows = IMAGES.transpose(0, 3, 1, 2).reshape(5, -1)
    plain = "".join(",".join(map(str, row)) + ",\n" for row in rows)
    floats = "".join(",".join(f"{x:.4g}" for x in row) + "\n" for row in FLOATS.reshape(5, -1))
    header = ",".join(f"p{i}" for i in range(48)) + "\n"
    index = ",".join(["id", *map(str, range(48))]) + "\n"
    indexed = index + "".join(f"{i}," + ",".join(map(str, row)) + "\n" for i, row in enumerate(rows))
    how = {"image_shape": (4, 4, 3)}
    return [
        one("x.csv", each.encode("utf-8"), **how)
        for each in (
            plain,
            floats,
            header + floats,
            indexed,
            "\ufeff" + plain.replace("\n", "\r\n"),
            plain[:-2],
        )
    ]


def npy() -> list[Seed]:
    """Return arrays of images of several types and orders."""
    arrays = [IMAGES, FLOATS, np.asfortranarray(IMAGES), IMAGES.astype(">i4"), IMAGES[..., 0] > 99]
    arrays += [FLOATS.astype(np.float64), FLOATS[..., 0].astype(np.float16)]
    return [one("x.npy", npy_of(a)) for a in arrays] + [one("x.npy", npy_of(IMAGES, (2, 0)))]


def npz() -> list[Seed]:
    """Return archives of images and labels."""
    both = {"images": IMAGES, "labels": LABELS}
    split = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:2], "y_test": LABELS[:2, None]}
    return [
        *(one("x.npz", npz_of(m, **both)) for m in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)),
        one("x.npz", npz_of(zipfile.ZIP_DEFLATED, X=np.asfortranarray(FLOATS), y=LABELS.astype(np.uint8))),
        one("x.npz", npz_of(**split), split="train"),
        one("x.npz", npz_of(anything=IMAGES[..., 0])),
    ]


def labels() -> list[Seed]:
    """Return labels of five images, of every format."""
    table = "".join(f"{i},{label}\n" for i, label in enumerate(LABELS, 1))
    zero = "".join(f"{i},{label},\r\n" for i, label in reversed(list(enumerate(LABELS))))
    return [
        one("Y.csv", b"Id,Prediction\n" + table.encode()),
        one("Y.csv", zero.encode()),
        one("Y.npy", npy_of(LABELS)),
        one("Y.npy", npy_of(LABELS.astype(">u2")[:, None])),
        one("Y.npz", npz_of(labels=LABELS)),
        one("Y.npz", npz_of(zipfile.ZIP_STORED, y=LABELS.astype(np.uint8), x=IMAGES)),
        one("Y", idx_of(LABELS)),
        one("Y.gz", gzip.compress(idx_of(LABELS), mtime=0)),
    ]


def idx() -> list[Seed]:
    """Return images like those of MNIST, their labels beside them."""
    images, labels = idx_of(IMAGES[..., 0]), idx_of(LABELS)
    names = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
    plain = dict(zip(names, (images, labels), strict=True))
    packed = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in plain.items()}
    alone = {"images": idx_of(IMAGES)}
    return [Seed(plain), Seed(packed), Seed(packed, f"{names[0]}.gz"), Seed(alone, "images")]


def _cifar_rows() -> Any:
    return np.random.default_rng(4).integers(0, 256, (3, 3072), np.uint8)


def cifar_binary() -> list[Seed]:
    """Return batches of CIFAR-10 and CIFAR-100."""
    rows = _cifar_rows()
    ten = np.concatenate([LABELS[:3, None].astype(np.uint8), rows], axis=1).tobytes()
    hundred = np.concatenate([np.uint8([[3, 77], [1, 0], [19, 99]]), rows], axis=1).tobytes()
    return [
        one("data_batch_1.bin", ten),
        one("train.bin", hundred),
        Seed(
            {"data_batch_1.bin": ten, "data_batch_2.bin": ten, "test_batch.bin": ten}, ".", {"split": "train"}
        ),
    ]


def _python2(rows: Any, labels: Any) -> bytes:
    """Return the opcodes that Python 2 and NumPy 1 wrote."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\0K\1\x87R(K\3" + text(b"|")
    dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    data = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text(b"b") + b"\x87R(K\1"
    data += b"J" + struct.pack("<i", len(rows)) + b"M\0\x0c\x86" + dtype + b"\x89"
    data += b"T" + struct.pack("<i", rows.nbytes) + rows.tobytes() + b"tb"
    items = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\2}(" + text(b"data") + data + text(b"labels") + items + b"u."


def cifar_pickled() -> list[Seed]:
    """Return pickled batches of protocols 2 to 5, of Python 2 and of NumPy 1 and 2."""
    rows, labels = _cifar_rows(), [int(label) for label in LABELS[:3]]
    contents = [_python2(rows, labels)]
    read_only = np.frombuffer(rows.tobytes(), np.uint8).reshape(rows.shape)
    for protocol in (2, 3, 4, 5):
        for data in (rows, read_only, np.asfortranarray(rows)):
            batch = {b"batch_label": b"one", b"labels": labels, b"data": data, b"filenames": [b"a.png"] * 3}
            contents.append(pickle.dumps(batch, protocol))
        contents.append(pickle.dumps({"fine_labels": np.array(labels), "data": rows}, protocol))
        old = contents[-4].replace(b"numpy._core.", b"numpy.core.")  # text in protocols 2 and 3
        contents += [old] if protocol < 4 else []
    return [one("data_batch_1", content) for content in contents]


def pictures() -> list[Seed]:
    """Return folders of two pictures: of every format, mode and compression that a user's programs write."""
    rng = np.random.default_rng(5)
    picture = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    ImageDraw.Draw(picture).line((0, 0, 7, 5), (255, 0, 0))
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        *(("png", mode, {}) for mode in ("RGB", "L", "LA", "RGBA", "P", "1")),
        ("png", "RGB", {"compress_level": 0}),
        *(("jpg", mode, {}) for mode in ("RGB", "L", "CMYK")),
        ("jpg", "RGB", {"progressive": True, "exif": _turned()}),
        *(("gif", mode, {}) for mode in ("P", "L")),
        *(("bmp", mode, {}) for mode in ("RGB", "L", "1", "P")),
        *(
            ("tif", "RGB", {"compression": how})
            for how in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits")
        ),
        ("tif", "L", {}),
        *(("webp", mode, {"lossless": lossless}) for mode in ("RGB", "RGBA") for lossless in (False, True)),
        *(("ppm", mode, {}) for mode in ("RGB", "L")),
    ]
    seeds = []
    for suffix, mode, how in kinds:
        out = io.BytesIO()
        name = {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix)
        picture.convert(mode).save(out, name, **how)
        seeds.append(Seed({f"1.{suffix}": out.getvalue(), f"2.{suffix}": out.getvalue()}))
    out = io.BytesIO()
    picture.save(out, "gif", save_all=True, append_images=[picture.rotate(180)])
    return [*seeds, Seed({"cat/1.gif": out.getvalue(), "dog/1.gif": seeds[11].files["1.gif"]})]


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down: of the same size
    return exif


def gram_npy() -> list[Seed]:
    """Return Gram matrices as arrays."""
    return [one("K.npy", npy_of(GRAM)), one("K.npy", npy_of(np.asfortranarray(GRAM.astype(np.float64))))]


@functools.cache
def small_models() -> tuple[Model, ...]:
    """Return fitted models of every kind of classifier and preprocessing."""
    rng = np.random.default_rng(6)
    labels = np.arange(24) % 3
    images = rng.normal(size=(24, 8, 8, 1)).astype(np.float32) + labels[:, None, None, None]
    backend = NumpyBackend(threads=1, compiled=False)
    steps = [(), ({"name": "zca"},), ({"name": "standardize"},), ({"name": "local_whitening"},), ()]
    classifiers = [
        Softmax(), KernelRidge(), NystromRidge(landmarks=9), SquaredHinge(), Ridge(),
    ]  # fmt: skip
    models = []
    for step, classifier in zip(steps, classifiers, strict=True):
        preprocessing = tuple(preprocessor_from_dict(each) for each in step)
        layers = [make_spec(filters=3)] if step else [make_spec(filters=3), TWO_LAYERS[1]]
        symmetries = Symmetries(flip=True, shift=1) if classifier.name == "ridge" else Symmetries()
        encoder = EncoderSpec(layers, preprocessing, symmetries)
        encoders = [encoder] * (2 if classifier.name == "kernel-ridge" else 1)
        fit = functools.partial(Model.fit, images, labels, encoders, patches=60, backend=backend)
        models.append(fit(classifier=classifier))
    models[0].class_names = ("cat", "dog", "ant")
    return tuple(models)


def states() -> list[Seed]:
    """Return a network of Chen's PyTorch program, of two layers and three classes, in both formats."""
    state: dict[str, Any] = {}
    rng, channels = np.random.default_rng(4), 2
    for i, (filters, side, step) in enumerate([(3, 3, 2), (4, 2, 1)]):
        weight = rng.normal(size=(filters, channels, side, side))
        weight /= np.linalg.norm(weight.reshape(filters, -1), axis=1)[:, None, None, None]
        taps = np.exp(-(np.arange(-step, step + 1) ** 2) / step**2)
        taps = np.outer(taps, taps) / taps.sum() ** 2
        state[f"features.ckn_layers.{i}.weight"] = weight
        state[f"features.ckn_layers.{i}.pooling_filter"] = np.array([[taps]] * filters)
        channels = filters
    state["classifier.weight"] = rng.normal(size=(3, 4 * 5 * 5))
    state["classifier.bias"] = rng.normal(size=3)
    state = {name: array.astype(np.float32) for name, array in state.items()}
    return [one("network.npz", npz_of(**state)), one("network.safetensors", safetensors.numpy.save(state))]


def models(folder: Path) -> list[Seed]:
    """Return model files of versions 1, 2 and 3."""
    stored = Path(__file__).parents[1] / "model_files"
    seeds = [one("m.ckn", path.read_bytes()) for path in sorted(stored.glob("*.ckn"))]
    for model in small_models():
        model.save(folder / "m.ckn")
        seeds.append(one("m.ckn", (folder / "m.ckn").read_bytes()))
    return seeds
