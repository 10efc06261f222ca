import numpy as np
import pytest
from factories import make_layer, make_spec, stripes

from ckncuda import CKN, ArcCosine, EncoderSpec, Linear, Model, Polynomial, Ridge, Series, Softmax, load
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.images.preprocess import ZCA, LocalWhitening, Standardize

SPECS = [make_spec(subsampling=3)]


def fit(images, labels, preprocessing=(), **options):
    return Model.fit(images, labels, [EncoderSpec(SPECS, preprocessing)], **{"patches": 500} | options)


@pytest.fixture(scope="module")
def digits():
    return stripes(120, noise=10)


@pytest.fixture(scope="module")
def model(digits):
    return fit(*digits, [Standardize(), ZCA(epsilon=0.5)], classifier=Ridge(), patches=3000)


def test_it_learns_what_pixels_do_not_tell(digits, model):
    images, labels = digits
    fitted = fit(images[:80], labels[:80], classifier=Ridge(), patches=3000)
    assert np.mean(fitted.predict(images[80:]) == labels[80:]) > 0.95
    assert model.report["validation_accuracy"] > 0.95
    assert model.report["validation"].startswith("leave-one-out over 120 images")
    assert model.report["n_features"] == model.n_features == 3 * 3 * 12


def test_round_trip_through_a_file(digits, model, tmp_path):
    images, _ = digits
    model.save(tmp_path / "model.ckn")
    again = load(tmp_path / "model.ckn")
    assert np.array_equal(again.scores(images), model.scores(images))
    assert again.report == model.report
    assert (again.image_shape, again.image_type) == ((9, 9, 1), "uint8")
    assert again.encoders[0].preprocessing[0] == Standardize()
    assert again.n_parameters == model.n_parameters == 12 * 9 + 108 * 2 + 2


def test_equal_models_are_equal_files(digits, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit(*digits, classifier=Softmax(), patches=2000, seed=seed).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_every_preprocessing_is_stored(digits, tmp_path):
    images, _ = digits
    for preprocessing in ([LocalWhitening(power=0.5)], [ZCA(epsilon=0.2)], [Standardize(), LocalWhitening()]):
        fitted = fit(images, None, preprocessing)
        fitted.save(tmp_path / "m")
        again = load(tmp_path / "m")
        assert np.array_equal(again.features(images), fitted.features(images))
        assert [p.to_dict() for p in again.encoders[0].preprocessing] == [p.to_dict() for p in preprocessing]


def test_a_stored_projection_is_not_computed_again(model, tmp_path, monkeypatch):
    """That would take long for thousands of filters, every time a model is read."""
    model.save(tmp_path / "m")
    monkeypatch.setattr(np.linalg, "eigh", None)
    load(tmp_path / "m")


def test_bytes_mean_the_same_to_a_network_and_a_model(digits):
    images, _ = digits
    fitted = fit(images, None)
    assert np.array_equal(fitted.network.transform(images), fitted.transform(images))


def test_images_of_another_kind_are_refused(digits, model):
    images, _ = digits
    with pytest.raises(InvalidData, match="images are of 9x8x1; the model was fitted on 9x9x1"):
        model.predict(images[:, :, :8])
    with pytest.raises(InvalidData, match="images are of type float32; the model was fitted on uint8 images"):
        model.predict(images / 255.0)


def test_labels_that_do_not_fit(digits):
    images, labels = digits
    for given, words in (
        (labels[1:], "120 images, 119 labels"),
        (None, "120 images, no labels"),
        (np.ones(120, int), "all 120 labels are 1; a classifier needs images of two classes"),
    ):
        with pytest.raises(InvalidData, match=words):
            fit(images, given, classifier=Ridge())


def test_options_are_checked_before_the_long_work(digits):
    def no_work(stage, done, total):
        raise AssertionError(f"{stage} began")

    for classifier in (Ridge(regularization=0.0), Softmax(validation=2), Softmax(optimizer="adam")):
        with pytest.raises(InvalidSpec):
            fit(*digits, classifier=classifier, progress=no_work)


def test_without_a_classifier_there_are_features_only(digits):
    images, _ = digits
    fitted = fit(images, None)
    assert fitted.features(images).shape == (120, 108)
    with pytest.raises(InvalidSpec, match="no classifier"):
        fitted.predict(images)


@pytest.mark.parametrize("kernel", [Linear(), Polynomial(2, 0.5), ArcCosine(0), Series([0.5, 0.5])], ids=repr)
def test_networks_of_any_kernel_are_stored(tmp_path, rng, kernel):
    network = CKN.from_layers([make_layer(3, rng, filters=4, patch=1, subsampling=1, kernel=kernel)])
    network.save(tmp_path / "n")
    again = load(tmp_path / "n").network
    assert (again.specs, again.layers[0].anchors.dtype) == (network.specs, np.float64)


def test_gram_matrices_are_those_of_exact_kernels(digits):
    images, labels = digits
    with pytest.raises(InvalidSpec, match="networks have features: give none"):
        Model.fit(images, labels, [EncoderSpec(SPECS, ())], classifier=Ridge(), grams=[np.eye(len(images))])
