import json
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from ckncuda import (
    CKN,
    ArcCosine,
    EncoderSpec,
    Exponential,
    LayerSpec,
    Linear,
    Model,
    Polynomial,
    Ridge,
    Series,
    Softmax,
    Symmetries,
    load,
)
from ckncuda.errors import InvalidData, InvalidModelFile, InvalidSpec
from ckncuda.images.preprocess import ZCA, LocalWhitening, Standardize

SPECS = [LayerSpec(filters=12, patch=3, subsampling=3, kernel=Exponential(sigma=0.6))]


@pytest.fixture(scope="module")
def digits():
    """Stripes along and across, of any phase: a linear classifier on pixels cannot tell them apart."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    phase = rng.uniform(0, 2 * np.pi, size=(120, 1, 1))
    y, x = np.mgrid[:9, :9]
    waves = np.where(labels[:, None, None], np.sin(1.5 * y + phase), np.sin(1.5 * x + phase))
    images = 120 + 60 * waves + rng.normal(scale=10, size=waves.shape)
    return images.round().clip(0, 255).astype(np.uint8)[..., None], labels


@pytest.fixture(scope="module")
def model(digits):
    images, labels = digits
    return Model.fit(
        images,
        labels,
        [EncoderSpec(SPECS, [Standardize(), ZCA(epsilon=0.5)])],
        classifier=Ridge(),
        patches=3000,
    )


def test_it_learns_what_pixels_do_not_tell(digits, model):
    images, labels = digits
    unseen = Model.fit(
        images[:80], labels[:80], [EncoderSpec(SPECS)], classifier=Ridge(), patches=3000
    ).predict(images[80:])
    assert np.mean(unseen == labels[80:]) > 0.95
    assert model.report["validation_accuracy"] > 0.95
    assert model.report["validation"].startswith("leave-one-out over 120 images")
    assert model.report["n_features"] == model.n_features == 3 * 3 * 12


def test_round_trip_through_a_file(digits, model, tmp_path):
    images, _ = digits
    model.save(tmp_path / "model.ckn")
    again = load(tmp_path / "model.ckn")
    assert np.array_equal(again.scores(images), model.scores(images))
    assert again.report == model.report
    assert again.image_shape == (9, 9, 1)
    assert again.image_type == "uint8"
    assert again.encoders[0].preprocessing[0] == Standardize()
    assert again.n_parameters == model.n_parameters == 12 * 9 + 108 * 2 + 2


def test_equal_models_are_equal_files(digits, tmp_path):
    images, labels = digits
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        Model.fit(images, labels, [EncoderSpec(SPECS)], classifier=Softmax(), patches=2000, seed=seed).save(
            tmp_path / name
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_every_preprocessing_is_stored(digits, tmp_path):
    images, _ = digits
    for preprocessing in ([LocalWhitening(power=0.5)], [ZCA(epsilon=0.2)], [Standardize(), LocalWhitening()]):
        fitted = Model.fit(images, None, [EncoderSpec(SPECS, preprocessing)], patches=500)
        fitted.save(tmp_path / "m")
        again = load(tmp_path / "m")
        assert np.array_equal(again.features(images), fitted.features(images))
        assert [p.to_dict() for p in again.encoders[0].preprocessing] == [p.to_dict() for p in preprocessing]


def test_a_stored_projection_is_not_computed_again(model, tmp_path, monkeypatch):
    """For thousands of filters that would take long, every time a model is read."""
    model.save(tmp_path / "m")

    def eigh(matrix):
        raise AssertionError("an eigendecomposition while reading")

    monkeypatch.setattr(np.linalg, "eigh", eigh)
    load(tmp_path / "m")


def test_bytes_mean_the_same_to_a_network_and_a_model(digits):
    images, _ = digits
    fitted = Model.fit(images, None, [EncoderSpec(SPECS)], patches=500)
    assert np.array_equal(fitted.network.transform(images), fitted.transform(images))


def test_images_of_another_kind_are_refused(digits, model):
    images, _ = digits
    with pytest.raises(InvalidData, match="images are of 9x8x1; the model was fitted on 9x9x1"):
        model.predict(images[:, :, :8])
    with pytest.raises(InvalidData, match="images are of type float32; the model was fitted on uint8 images"):
        model.predict(images / 255.0)


def test_labels_that_do_not_fit(digits):
    images, labels = digits
    with pytest.raises(InvalidData, match="120 images, 119 labels"):
        Model.fit(images, labels[1:], [EncoderSpec(SPECS)], classifier=Ridge())
    with pytest.raises(InvalidData, match="120 images, no labels"):
        Model.fit(images, None, [EncoderSpec(SPECS)], classifier=Ridge())
    with pytest.raises(InvalidData, match="all 120 labels are 1; a classifier needs images of two classes"):
        Model.fit(images, np.ones(120, int), [EncoderSpec(SPECS)], classifier=Ridge())


def test_options_are_checked_before_the_long_work(digits):
    images, labels = digits

    def no_work(stage, done, total):
        raise AssertionError(f"{stage} began")

    for classifier in (Ridge(regularization=0.0), Softmax(validation=2), Softmax(optimizer="adam")):
        with pytest.raises(InvalidSpec):
            Model.fit(images, labels, [EncoderSpec(SPECS)], classifier=classifier, progress=no_work)


def test_without_a_classifier_there_are_features_only(digits):
    images, _ = digits
    fitted = Model.fit(images, None, [EncoderSpec(SPECS)], patches=500)
    assert fitted.features(images).shape == (120, 108)
    with pytest.raises(InvalidSpec, match="no classifier"):
        fitted.predict(images)


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "model.ckn"
    model.save(path)
    return path


def rewrite(path, change_metadata=lambda m: None, change_tensors=lambda t: None):
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    change_metadata(metadata)
    change_tensors(tensors)
    safetensors.numpy.save_file(tensors, path, metadata)


@pytest.mark.parametrize("kept", [0.001, 0.01, 0.3, 0.9, 0.9999])
def test_truncated_files(saved, kept):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InvalidModelFile, match="is truncated|is not a model file"):
        load(saved)
    if kept > 0.3:
        with pytest.raises(InvalidModelFile, match="is truncated: .* copy it again"):
            load(saved)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x89PNG\r\n" + bytes(1000), bytes(5000)])
def test_files_that_are_no_models(tmp_path, content):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(InvalidModelFile, match="is not a model file"):
        load(tmp_path / "m")


def test_other_safetensors_files(tmp_path):
    safetensors.numpy.save_file({"weight": np.ones(3)}, tmp_path / "m")
    with pytest.raises(InvalidModelFile, match="not a model of ckncuda"):
        load(tmp_path / "m")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InvalidModelFile, match="there is no model file .*ckn fit"):
        load(tmp_path / "m")
    with pytest.raises(InvalidModelFile, match="is a folder"):
        load(tmp_path)


def test_a_file_of_version_1_predicts_what_it_did_then():
    folder = Path(__file__).parents[1] / "model_files"
    model, kept = load(folder / "version_1.ckn"), np.load(folder / "version_1.npz")
    assert model.encoders[0].symmetries == Symmetries()
    assert model.classifier.classes_.tolist() == [3, 4]
    np.testing.assert_allclose(model.scores(kept["images"]), kept["scores"], atol=1e-4)


def test_a_file_of_version_2_predicts_what_it_did_then():
    folder = Path(__file__).parents[1] / "model_files"
    model, kept = load(folder / "version_2.ckn"), np.load(folder / "version_2.npz")
    assert [encoder.symmetries for encoder in model.encoders] == [Symmetries(flip=True), Symmetries()]
    assert [len(encoder.preprocessing) for encoder in model.encoders] == [1, 0]
    assert model.classifier.classes_.tolist() == [5, 6]
    np.testing.assert_allclose(model.scores(kept["images"]), kept["scores"], atol=1e-4)


def test_newer_versions(saved):
    rewrite(saved, damage(lambda s: s.update(version=4)))
    with pytest.raises(InvalidModelFile, match="install a newer ckncuda"):
        load(saved)


def damage(change):
    def apply(metadata):
        specification = json.loads(metadata["ckncuda"])
        change(specification)
        metadata["ckncuda"] = json.dumps(specification)

    return apply


@pytest.mark.parametrize(
    ("metadata", "tensors"),
    [
        (lambda m: m.update(ckncuda="{"), lambda t: None),
        (damage(lambda s: s.pop("version")), lambda t: None),
        (damage(lambda s: s.pop("encoders")), lambda t: None),
        (damage(lambda s: s["encoders"][0]["layers"][0].update(filters=13)), lambda t: None),
        (damage(lambda s: s["encoders"][0]["layers"][0].update(kernel="gauss")), lambda t: None),
        (damage(lambda s: s["encoders"][0].update(layers=[])), lambda t: None),
        (damage(lambda s: s.update(encoders=[])), lambda t: None),
        (damage(lambda s: s["encoders"][0]["symmetries"].update(flip=3)), lambda t: None),
        (damage(lambda s: s["classifier"].update(name="magic")), lambda t: None),
        (damage(lambda s: s.update(image_shape=5)), lambda t: None),
        (damage(lambda s: s.update(image_shape=(18, 18, 1))), lambda t: None),
        (lambda m: None, lambda t: t.pop("encoders.0.layers.0.anchors")),
        (lambda m: None, lambda t: t.update({"encoders.0.layers.0.projection": np.eye(3)})),
        (lambda m: None, lambda t: t.update({"encoders.0.layers.0.projection": np.full((12, 12), np.nan)})),
        (lambda m: None, lambda t: t.update({"classifier.weights": np.ones((5, 3), np.float32)})),
        (lambda m: None, lambda t: t.pop("encoders.0.preprocessing.1.mean")),
    ],
)
def test_specifications_and_arrays_that_do_not_fit(saved, metadata, tensors):
    rewrite(saved, metadata, tensors)
    with pytest.raises(InvalidModelFile, match="is damaged"):
        load(saved)


def test_no_pickle_is_ever_read(saved):
    head = saved.read_bytes()
    (length,) = struct.unpack("<Q", head[:8])
    assert head[8:9] == b"{"
    assert "ckncuda" in json.loads(head[8 : 8 + length])["__metadata__"]


@pytest.mark.parametrize("kernel", [Linear(), Polynomial(2, 0.5), ArcCosine(0), Series([0.5, 0.5])], ids=repr)
def test_networks_of_any_kernel_are_stored(tmp_path, rng, kernel):
    anchors = rng.normal(size=(4, 1, 1, 3))
    anchors /= np.linalg.norm(anchors, axis=-1, keepdims=True)
    network = CKN.from_anchors([LayerSpec(filters=4, patch=1, subsampling=1, kernel=kernel)], [anchors])
    network.save(tmp_path / "n")
    again = load(tmp_path / "n").network
    assert again.specs == network.specs
    assert again.layers[0].anchors.dtype == np.float64
