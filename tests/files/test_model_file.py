"""Model files: those of every version, and those that are damaged or no models."""

import json
import struct
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
from ckncuda.errors import InvalidModelFile
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
    "zip": b"PK\x03\x04",
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
