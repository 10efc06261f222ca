"""Model files: those of every version, and those that are damaged or no models."""

import json
import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from factories import make_images, make_spec, rewrite_model

from ckncuda import (
    CKN,
    Encoder,
    EncoderSpec,
    ExactKernel,
    Exponential,
    KernelLayer,
    Model,
    Ridge,
    Symmetries,
    fit_exact,
    load,
)
from ckncuda.errors import CknError, InvalidData, InvalidModelFile
from ckncuda.files import model_file
from ckncuda.files.tensors import read_tensors
from ckncuda.images.preprocess import ZCA, Standardize

KEPT = Path(__file__).parents[1] / "model_files"


@pytest.mark.parametrize(
    ("name", "symmetries", "steps", "classes"),
    [
        ("version_1", [Symmetries()], [1], [3, 4]),
        ("version_2", [Symmetries(flip=True), Symmetries()], [1, 0], [5, 6]),
        ("version_3", [Symmetries(flip=True)], [1], [7, 8]),
    ],
)
def test_a_file_predicts_what_it_did_when_it_was_written(name, symmetries, steps, classes):
    model, kept = load(KEPT / f"{name}.ckn"), np.load(KEPT / f"{name}.npz")
    assert [encoder.symmetries for encoder in model.encoders] == symmetries
    assert [len(encoder.preprocessing) for encoder in model.encoders] == steps
    assert model.classifier.classes_.tolist() == classes
    np.testing.assert_allclose(model.scores(kept["images"]), kept["scores"], atol=1e-4)
    if "features" in kept:
        np.testing.assert_allclose(model.features(kept["images"]), kept["features"], atol=1e-5)


def test_a_file_of_exact_kernels_predicts_what_it_did_when_it_was_written():
    model, kept = load(KEPT / "version_3_exact.ckn"), np.load(KEPT / "version_3_exact.npz")
    assert [(e.kernel.tangent, e.kernel.flip) for e in model.encoders] == [(False, True), (True, False)]
    assert [encoder.preprocessing for encoder in model.encoders] == [(), (Standardize(),)]
    assert model.predict(kept["images"]).tolist() == [7, 8] * 8
    np.testing.assert_allclose(model.features(kept["images"]), kept["features"], rtol=1e-5)
    np.testing.assert_allclose(model.scores(kept["images"]), kept["scores"], atol=1e-4)


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The bytes of a model with preprocessing, one layer and a classifier."""
    path = tmp_path_factory.mktemp("model") / "model.ckn"
    images = np.random.default_rng(0).integers(0, 256, size=(24, 9, 9, 1), dtype=np.uint8)
    encoder = EncoderSpec([make_spec(subsampling=3)], [Standardize(), ZCA(epsilon=0.5)])
    Model.fit(images, np.arange(24) % 2, [encoder], classifier=Ridge(1e-2), patches=500).save(path)
    return path.read_bytes()


@pytest.fixture
def path(content, tmp_path):
    path = tmp_path / "model.ckn"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("length", [100, 0.3, 0.9, 0.9999, -1000, -1])
def test_truncated_files(path, content, length):
    path.write_bytes(content[: int(length * len(content)) if isinstance(length, float) else length])
    with pytest.raises(InvalidModelFile, match="is truncated: .* copy it again"):
        load(path)


def headed(head, content=b""):
    """Bytes as of a safetensors file, with this header."""
    head = json.dumps(head).encode()
    return struct.pack("<Q", len(head)) + head + content


NO_MODELS = {
    "nothing": b"",
    "less than a length": bytes(5),
    "a length alone": struct.pack("<Q", 3000),
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(1000),
    "zeros": bytes(5000),
    "noise": np.random.default_rng(0).bytes(3000),
    "text": b"filters = 64\n",
}
TENSORS = {  # that are safetensors, and no model; of some types NumPy has none
    name: headed({"w": {"dtype": name, "shape": [4], "data_offsets": [0, size]}}, bytes(size))
    for name, size in (("F32", 16), ("BF16", 8), ("F8_E4M3", 4))
}


@pytest.mark.parametrize("name", [*NO_MODELS, *TENSORS])
def test_files_that_are_no_models(path, name):
    path.write_bytes((NO_MODELS | TENSORS)[name])
    words = "safetensors.*not a model of ckncuda" if name == "F32" else "not a model"
    with pytest.raises(InvalidModelFile, match="is not a model file" if name in NO_MODELS else words):
        load(path)


def tensor(dtype="F32", shape=(4,), offsets=(0, 16)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "head",
    [
        {"w": tensor(shape=(5,))},  # takes more than its offsets say
        {"w": tensor(offsets=(4, 20))},  # something before it
        {"w": tensor(), "v": tensor()},  # both in one place
        {"w": tensor(), "v": tensor(offsets=(8, 24))},  # half in one place
        {"w": tensor(shape=(-4,))},
        {"w": tensor(shape=(True, 4))},
        {"w": tensor(shape=(4.0,))},
        {"w": tensor(shape=("4",))},
        {"w": tensor(shape=(1 << 40, 1 << 40), offsets=(0, 16))},
        {"w": tensor(shape=(1,) * 7 + (4,) + (1,) * 30)},
        {"w": tensor(dtype="PICKLE")},
        {"w": tensor(dtype=["F32"])},
        {"w": tensor() | {"more": 1}},
        {"w": {"dtype": "F32"}},
        {"w": [1, 2]},
        {"w": tensor(), "__metadata__": {"ckncuda": 5}},
        {"w": tensor(), "__metadata__": ["ckncuda"]},
    ],
)
def test_headers_that_cannot_be(path, head):
    path.write_bytes(headed(head, bytes(16)))
    with pytest.raises(InvalidModelFile, match="is not a model file, or is damaged"):
        load(path)


def test_numbers_behind_those_that_are_announced(path, content):
    path.write_bytes(content + b"more")
    with pytest.raises(InvalidModelFile, match="is damaged: 4 bytes follow what its header announces"):
        load(path)


@pytest.mark.parametrize(
    "bomb",
    [
        lambda: struct.pack("<Q", 90_000_000) + b"[" * 90_000_000,
        lambda: struct.pack("<Q", 90_000_000) + b'{"a":' * 18_000_000,
        lambda: struct.pack("<Q", 7_000_000) + b'{"a":' * 1_400_000,
        lambda: struct.pack("<Q", 1 << 62) + b"{",
        lambda: headed({"__metadata__": {"ckncuda": "[" * 5_000_000}}),
        lambda: headed({"__metadata__": {"ckncuda": "9" * 5_000_000}}),
        lambda: headed({"__metadata__": {"ckncuda": '{"version": ' + "9" * 290 + "}"}}),
    ],
    ids=range(7),
)
def test_bombs_are_refused_at_once_and_in_little_memory(path, bomb, peak_memory):
    path.write_bytes(bomb())
    moment = time.monotonic()
    with peak_memory() as peak, pytest.raises(InvalidModelFile):
        load(path)
    assert time.monotonic() - moment < 2
    assert peak() < 256 << 20


def test_a_file_of_holes(path, peak_memory):
    head = headed({"w": tensor("U8", (8 << 30,), (0, 8 << 30)), "__metadata__": {"ckncuda": "{}"}})
    path.write_bytes(head)
    os.truncate(path, len(head) + (8 << 30))
    with (
        peak_memory() as peak,
        pytest.raises(InvalidModelFile, match="bytes, .* were written; copy it again"),
    ):
        load(path)
    assert peak() < 1 << 20


def test_pipes_and_devices_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "m.ckn")
    moment = time.monotonic()
    for place, what in ((tmp_path / "m.ckn", "a pipe"), ("/dev/zero", "a device")):
        with pytest.raises(InvalidModelFile, match=f"is {what}, not a file"):
            load(place)
    assert time.monotonic() - moment < 1


@pytest.mark.parametrize("part", [0.3, 0.7, 0.99])
def test_a_file_that_shrinks_while_it_is_read(path, content, part, monkeypatch):
    """Mapped into memory, it would end the process."""

    def shrunk(file, tensors):
        os.truncate(path, int(part * len(content)))
        return read_tensors(file, tensors)

    monkeypatch.setattr(model_file, "read_tensors", shrunk)
    with pytest.raises(InvalidModelFile, match=r"model\.ckn has become shorter while it was read: is it"):
        load(path)


def test_memory_is_that_of_the_file(tmp_path, peak_memory):
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(1 << 20, 4)).astype(np.float32) for name in ("a", "b")}
    part = model_file.StoredPart(
        {"kind": "network", "layers": [], "preprocessing": [], "symmetries": {}}, arrays
    )
    model_file.save(model_file.Contents([part]), tmp_path / "m.ckn")
    with peak_memory() as peak:
        found = model_file.load(tmp_path / "m.ckn", lambda contents: contents.encoders[0].arrays())
    assert peak() < 1.1 * (tmp_path / "m.ckn").stat().st_size
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].flags.writeable


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InvalidModelFile, match="there is no model file .*ckn fit"):
        load(tmp_path / "m")
    with pytest.raises(InvalidModelFile, match="is a folder"):
        load(tmp_path)


def test_no_pickle_is_ever_read(content):
    (length,) = struct.unpack("<Q", content[:8])
    assert content[8:9] == b"{"
    assert "ckncuda" in json.loads(content[8 : 8 + length])["__metadata__"]


def test_newer_versions(path):
    rewrite_model(path, lambda s, t: s.update(version=4))
    with pytest.raises(InvalidModelFile, match="version 4.*up to 3.*install a newer ckncuda"):
        load(path)


def test_a_specification_that_is_cut(path, content):
    (length,) = struct.unpack("<Q", content[:8])
    head = json.loads(content[8 : 8 + length]) | {"__metadata__": {"ckncuda": "{"}}
    path.write_bytes(headed(head, content[8 + length :]))
    with pytest.raises(InvalidModelFile, match="is damaged"):
        load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda s, t: s.pop("version"),
        lambda s, t: s.pop("encoders"),
        lambda s, t: s["encoders"][0]["layers"][0].update(filters=13),
        lambda s, t: s["encoders"][0]["layers"][0].update(kernel="gauss"),
        lambda s, t: s["encoders"][0].update(layers=[]),
        lambda s, t: s.update(encoders=[]),
        lambda s, t: s["encoders"][0]["symmetries"].update(flip=3),
        lambda s, t: s["classifier"].update(name="magic"),
        lambda s, t: s.update(image_shape=5),
        lambda s, t: s.update(image_shape=(18, 18, 1)),
        lambda s, t: s.update(image_shape=(9, 9, -1)),
        lambda s, t: s.update(image_shape=(9, 9, 1.0)),
        lambda s, t: s.update(image_shape=(9, 9)),
        lambda s, t: s.update(image_shape=(9, 9, 1 << 60)),
        lambda s, t: s.update(image_shape="991"),
        lambda s, t: s.update(image_type="object"),
        lambda s, t: s.update(image_type=["uint8"]),
        lambda s, t: s.update(class_names="cats"),
        lambda s, t: s.update(class_names=[1, 2]),
        lambda s, t: s.update(class_names={"cat": 0}),
        lambda s, t: s.update(report=None),
        lambda s, t: s.update(report=[1]),
        lambda s, t: s.update(report={"accuracy": float("nan")}),
        lambda s, t: s.update(version=True),
        lambda s, t: s.update(version="3"),
        lambda s, t: s.update(version=-1),
        lambda s, t: s.update(version=2.5),
        lambda s, t: s.update(classifier=[]),
        lambda s, t: s.update(encoders={}),
        lambda s, t: s.update(encoders=[[]]),
        lambda s, t: s["encoders"][0]["layers"][0].update(sigma=10**400),
        lambda s, t: s["encoders"][0]["layers"][0].update(sigma=float("inf")),
        lambda s, t: s["encoders"][0]["layers"][0].update(patch=10**12),
        lambda s, t: s["encoders"][0].update(symmetries={"flip": True, "shift": 10**30}),
        lambda s, t: s["encoders"][0].update(preprocessing=[5]),
        lambda s, t: s["encoders"][0].update(preprocessing={"name": "zca"}),
        lambda s, t: s["encoders"][0].update(layers=[5]),
        lambda s, t: s["encoders"][0].update(kind=["network"]),
        lambda s, t: t.update({"classifier.weights": np.full_like(t["classifier.weights"], np.nan)}),
        lambda s, t: t.update({"encoders.0.preprocessing.1.mean": np.zeros(80, np.float32)}),
        lambda s, t: t.update({"encoders.0.preprocessing.1.mean": np.zeros(81, np.int64)}),
        lambda s, t: t.update(
            {"encoders.0.preprocessing.1.whitening": np.full((81, 81), np.inf, np.float32)}
        ),
        lambda s, t: t.pop("encoders.0.layers.0.anchors"),
        lambda s, t: t.update({"encoders.0.layers.0.projection": np.eye(3)}),
        lambda s, t: t.update({"encoders.0.layers.0.projection": np.full((12, 12), np.nan)}),
        lambda s, t: t.update({"classifier.weights": np.ones((5, 3), np.float32)}),
        lambda s, t: t.pop("classifier.classes"),
        lambda s, t: t.pop("encoders.0.preprocessing.1.mean"),
    ],
)
def test_specifications_and_arrays_that_do_not_fit(path, change):
    rewrite_model(path, change)
    with pytest.raises(InvalidModelFile, match="is damaged"):
        load(path)


def test_what_parts_of_a_model_share_is_there_for_each_of_them(tmp_path, rng):
    """Two exact kernels of the same preprocessing, one network twice, layers of the same arrays."""
    images, labels = make_images(rng, 30, 6, 6, 1), np.arange(30) % 2
    kernels = [ExactKernel([KernelLayer(2, s, Exponential(sigma=0.6))]) for s in (1, 2)]
    exact = fit_exact(images, labels, [(kernel, [ZCA()]) for kernel in kernels], backend="numpy")
    network = CKN([make_spec(filters=4)]).fit(images, patches=200, backend="numpy")
    twice = Model((Encoder(network), Encoder(network, symmetries=Symmetries(flip=True))))
    for model in (exact, twice):
        model.save(tmp_path / "m.ckn")
        again = load(tmp_path / "m.ckn")
        np.testing.assert_array_equal(
            again.features(images, backend="numpy"), model.features(images, backend="numpy")
        )
    seen = []
    exact.save(tmp_path / "m.ckn")
    rewrite_model(tmp_path / "m.ckn", lambda s, t: seen.extend(name for name in t if "points" in name))
    assert seen == ["encoders.0.points"]  # images are held once


@pytest.mark.parametrize(
    "change",
    [
        lambda s, t: s["encoders"][0].pop("kind"),
        lambda s, t: s["encoders"][0].update(kind="zebra"),
        lambda s, t: s["encoders"][0].update(layers=None),
        lambda s, t: s.update(encoders=None),
        lambda s, t: t.pop("encoders.0.layers.0.projection"),
    ],
)
def test_a_damaged_network_is_refused_with_its_file(tmp_path, rng, change):
    path = tmp_path / "network.ckn"
    CKN([make_spec(filters=4)]).fit(make_images(rng, 30, 6, 6, 1), patches=200, backend="numpy").save(path)
    rewrite_model(path, change)
    for read in (CKN.load, load):
        with pytest.raises(InvalidModelFile, match=r"network\.ckn is damaged"):
            read(path)


def test_what_only_images_tell(path, content):
    """A file that leaves open of which size images are: those that do not fit are refused when they come."""
    rewrite_model(path, lambda s, t: s.update(image_shape=None))
    loaded = load(path)
    small, large = (np.zeros((3, size, size, 1), np.uint8) for size in (9, 12))
    assert len(loaded.predict(small, backend="numpy")) == 3
    with pytest.raises(InvalidData, match="12x12x1 have 192 features; the classifier takes 108: give images"):
        loaded.predict(large, backend="numpy")
    with pytest.raises(InvalidData, match="zca has learned from images of 81 numbers; these are of 12x12x1"):
        loaded.features(large, backend="numpy")


@pytest.mark.parametrize("names", [[], ["cat"], ["cat", "dog"], ["cat", "dog", "owl"]])
def test_names_that_do_not_name_all_classes_are_left_aside(path, names):
    rewrite_model(path, lambda s, t: s.update(class_names=names))
    assert load(path).class_names == (tuple(names) if len(names) >= 2 else None)


def mutated(content, random):
    """Change a model file in one of many ways."""
    way = random.integers(5)
    place = int(random.integers(random.choice([100, 2000, len(content)])))
    changed = bytearray(content)
    if way == 0:
        changed[place] ^= 1 << int(random.integers(8))
    elif way == 1:
        changed[place:place] = random.bytes(3)
    elif way == 2:
        del changed[place : place + 7]
    else:
        (length,) = struct.unpack("<Q", content[:8])
        words = content[8 : 8 + length].split(b" ")
        words[int(random.integers(len(words)))] = random.choice(VALUES)
        changed = b" ".join(words)
        changed = struct.pack("<Q", len(changed)) + changed + content[8 + length :]
    return bytes(changed)


VALUES = [
    b"null,",
    b"true,",
    b"-1,",
    b"1e400,",
    b"NaN,",
    b"[],",
    b"{},",
    b"9999999999999999999999,",
    b'\\"x\\",',
    b"",
]


def test_mutations_are_refused_or_models(path, content):
    """Some hundred of those that a campaign tries: nothing is raised but the library's own errors."""
    random, kept = np.random.default_rng(0), [path.read_bytes() for path in sorted(KEPT.glob("*.ckn"))]
    images, models = np.zeros((2, 9, 9, 1), np.uint8), 0
    for number in range(300):
        path.write_bytes(mutated([content, *kept][number % 5], random))
        try:
            loaded = load(path)
            models += 1
            json.dumps([encoder.describe(loaded.image_shape) for encoder in loaded.encoders])
            loaded.predict(images, backend="reference")
        except CknError:
            pass
    assert 0 < models < 300
