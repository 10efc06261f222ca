"""Encoders alone and in ensembles: features by the definition, seeds, blocks, files, stages."""

import math

import numpy as np
import pytest
from factories import make_spec, rewrite_model, stripes

from ckncuda import CKN, EncoderSpec, Exponential, KernelRidge, Model, Ridge, Symmetries, load
from ckncuda.backend import get_backend
from ckncuda.errors import InvalidData, InvalidModelFile, InvalidSpec
from ckncuda.images.preprocess import ZCA, LocalWhitening, Standardize, suggested_preprocessing
from ckncuda.images.sources import as_images
from ckncuda.network.encoder import Encoder
from ckncuda.progress import Report

LAYER = make_spec(filters=8, subsampling=3)
OTHER = make_spec(filters=6, patch=2, subsampling=4, kernel=Exponential(sigma=0.8))
PREPROCESSING = [Standardize(), ZCA(epsilon=0.5)]
FLIP = Symmetries(flip=True)


@pytest.fixture(scope="module")
def pictures():
    """Stripes along and across, uint8 [60, 9, 8, 1], and which they are, 3 or 4."""
    images, labels = stripes(60, noise=10)
    return np.ascontiguousarray(images[:, :, :8]), labels + 3


@pytest.fixture(scope="module")
def ensemble(pictures):
    """Two encoders of unlike features, and a kernel ridge regression."""
    specs = [
        EncoderSpec([LAYER], PREPROCESSING, Symmetries(flip=True, shift=1)),
        EncoderSpec([OTHER], (), FLIP),
    ]
    return fit(pictures, specs, classifier=KernelRidge())


def fit(pictures, specs, **options):
    images, labels = pictures
    return Model.fit(images, labels, specs, **{"patches": 600, "backend": "numpy"} | options)


@pytest.mark.parametrize(
    "symmetries",
    [Symmetries(), FLIP, Symmetries(shift=1), Symmetries(flip=True, shift=2)],
    ids=lambda s: f"{len(s)} variants",
)
@pytest.mark.parametrize("preprocessing", [[], PREPROCESSING], ids=["raw", "preprocessed"])
def test_features_are_the_mean_over_the_variants(pictures, preprocessing, symmetries, relative_error):
    images, _ = pictures
    spec = EncoderSpec([LAYER], preprocessing, symmetries)
    encoder = spec.fit(as_images(images), get_backend("numpy"), patches=600)
    prepared = images.astype(np.float32) / np.float32(255)
    for preprocessor in encoder.preprocessing:
        prepared = preprocessor.apply(prepared)
    model, variants = Model((encoder,)), list(symmetries.variants(prepared))
    for name in ("numpy", "reference"):
        maps = [encoder.network.transform(variant, backend=name).astype(np.float64) for variant in variants]
        found = model.transform(images, backend=name)
        assert found.dtype == get_backend(name).dtype
        assert relative_error(found, np.mean(maps, axis=0)) < 1e-6
    reference = model.features(images, backend="reference")
    assert relative_error(model.features(images, backend="numpy"), reference) < 1e-5


def test_the_mirror_image_has_the_same_features(pictures):
    images, _ = pictures
    model = fit(pictures, [EncoderSpec([LAYER], [Standardize()], FLIP)])
    mirrored = np.ascontiguousarray(images[:, :, ::-1])
    np.testing.assert_allclose(model.features(mirrored), model.features(images), atol=1e-5)
    assert np.abs(model.network.transform(mirrored) - model.network.transform(images)).max() > 1e-2


def test_symmetries_are_no_part_of_what_is_learned(pictures):
    plain, averaged = (fit(pictures, [EncoderSpec([LAYER], PREPROCESSING, s)]) for s in (Symmetries(), FLIP))
    assert plain.network.layers[0].anchors.tobytes() == averaged.network.layers[0].anchors.tobytes()
    assert np.abs(plain.features(pictures[0]) - averaged.features(pictures[0])).max() > 1e-2


# ---- What is asked for -----------------------------------------------------------------------------------


@pytest.mark.parametrize("smooth", [True, False])
def test_preprocessing_left_open_is_that_which_the_images_suggest(rng, smooth):
    images = rng.normal(size=(80, 9, 8, 1)).astype(np.float32)
    images = images.cumsum(axis=1).cumsum(axis=2) if smooth else images
    expected = suggested_preprocessing(as_images(images))
    assert (expected == (LocalWhitening(),)) == smooth
    model = Model.fit(images, None, [EncoderSpec([LAYER], None, FLIP)], patches=300)
    (encoder,) = model.encoders
    assert [p.to_dict() for p in encoder.preprocessing] == [p.to_dict() for p in expected]
    assert encoder.symmetries == FLIP
    given = EncoderSpec([LAYER], [Standardize()])
    assert given.resolved(as_images(images)) is given


def test_specifications_compare_and_tell_shapes():
    spec = EncoderSpec([LAYER])
    assert spec == EncoderSpec((LAYER,), None, Symmetries())
    assert spec == EncoderSpec(LAYER)
    assert spec != EncoderSpec([LAYER], symmetries=FLIP)
    assert spec.output_shape((9, 8, 1)) == (3, 3, 8)
    with pytest.raises(InvalidSpec, match="at least one layer"):
        EncoderSpec([])
    with pytest.raises(InvalidSpec, match="layer 1 does not fit: a patch of 3x3 is larger"):
        spec.output_shape((2, 8, 1))
    assert EncoderSpec([LAYER], symmetries=Symmetries(shift=7)).output_shape((9, 8, 1))
    with pytest.raises(InvalidSpec, match="a shift of 8 leaves nothing of images of 9x8"):
        EncoderSpec([LAYER], symmetries=Symmetries(shift=8)).output_shape((9, 8, 1))


def test_what_does_not_fit_is_said_before_the_long_work(pictures):
    def no_work(stage, done, total):
        raise AssertionError(f"{stage} began")

    with pytest.raises(InvalidSpec, match="a model needs at least one encoder"):
        fit(pictures, [], progress=no_work)
    too_large = make_spec(patch=10, subsampling=1)
    with pytest.raises(InvalidSpec, match="layer 1 does not fit: a patch of 10x10 is larger"):
        fit(pictures, [EncoderSpec([LAYER]), EncoderSpec([too_large])], progress=no_work)


# ---- Ensembles -------------------------------------------------------------------------------------------


def learned(encoder):
    return [layer.anchors.tobytes() for layer in encoder.network.layers]


def test_equal_encoders_of_an_ensemble_differ_and_the_first_is_what_it_would_be_alone(pictures, tmp_path):
    spec = EncoderSpec([LAYER], [Standardize()])
    for name, count, seed in (("one", 1, 5), ("three", 3, 5), ("again", 3, 5), ("other", 3, 6)):
        fit(pictures, [spec] * count, seed=seed).save(tmp_path / name)
    one, three, other = (load(tmp_path / name) for name in ("one", "three", "other"))
    encoders = [learned(encoder) for model in (three, other) for encoder in model.encoders]
    prepared = Standardize().apply(pictures[0].astype(np.float32) / np.float32(255))
    network = CKN([LAYER]).fit(prepared, patches=600, seed=5, backend="numpy")
    assert encoders[0] == learned(one.encoders[0]) == learned(Encoder(network))
    assert all(encoders.count(each) == 1 for each in encoders)
    assert (tmp_path / "three").read_bytes() == (tmp_path / "again").read_bytes()


def test_features_of_an_ensemble_stand_side_by_side(pictures, ensemble):
    images, _ = pictures
    assert ensemble.widths == (3 * 3 * 8, 3 * 2 * 6)
    assert ensemble.n_features == ensemble.features_of((9, 8, 1)) == ensemble.report["n_features"] == 108
    alone = [Model((encoder,)).features(images, backend="numpy") for encoder in ensemble.encoders]
    found = ensemble.features(images, backend="numpy")
    np.testing.assert_allclose(found, np.concatenate(alone, axis=1), atol=1e-6)


def test_an_ensemble_learns_and_its_classifier_knows_the_encoders(pictures, ensemble):
    images, labels = pictures
    assert ensemble.classifier.widths_ == ensemble.widths
    assert len(ensemble.classifier.kernels_) == len(ensemble.classifier.kernel_weights_) == 2
    assert ensemble.report["validation_accuracy"] > 0.9
    assert ensemble.report["regularization"] == ensemble.classifier.regularization_
    assert "weights" in ensemble.report["validation"]
    assert np.mean(ensemble.predict(images) == labels) > 0.9
    learned_by_networks = 8 * 9 + 6 * 4
    assert ensemble.n_parameters == learned_by_networks + 60 * 108 + 60 * 2 + 2


def test_round_trip_of_an_ensemble_through_a_file(pictures, ensemble, tmp_path):
    images, _ = pictures
    ensemble.save(tmp_path / "model.ckn")
    again = load(tmp_path / "model.ckn")
    scores = [model.scores(images, backend="numpy").tobytes() for model in (ensemble, again)]
    assert scores[0] == scores[1]
    assert again.predict(images).tolist() == ensemble.predict(images).tolist()
    found = [(each.network.specs, len(each.preprocessing), each.symmetries) for each in again.encoders]
    first, second = (encoder.network.specs for encoder in ensemble.encoders)
    assert found == [(first, 2, Symmetries(flip=True, shift=1)), (second, 0, FLIP)]
    assert (again.report, again.n_parameters) == (ensemble.report, ensemble.n_parameters)
    again.save(tmp_path / "again.ckn")
    assert (tmp_path / "again.ckn").read_bytes() == (tmp_path / "model.ckn").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda s, t: s["encoders"].pop(),
        lambda s, t: s["encoders"].reverse(),
        lambda s, t: s["encoders"][1].pop("symmetries"),
        lambda s, t: s["encoders"][1]["symmetries"].update(turn=True),
        lambda s, t: s["encoders"][0]["symmetries"].update(shift=-1),
        lambda s, t: t.pop("encoders.1.layers.0.anchors"),
        lambda s, t: t.pop("encoders.0.preprocessing.1.whitening"),
        lambda s, t: s["classifier"].pop("widths"),
        lambda s, t: s["classifier"].update(widths=[108]),
        lambda s, t: s["classifier"].update(widths="ab"),
        lambda s, t: s["classifier"].update(widths=None),
        lambda s, t: s["classifier"].update(weights=[1.0]),
        lambda s, t: s["classifier"].update(weights=["a", "b"]),
        lambda s, t: s["classifier"].update(kernels=[{"kernel": "gauss"}] * 2),
        lambda s, t: s["classifier"].update(kernels=5),
        lambda s, t: s["classifier"].update(name="linear"),
        lambda s, t: t.pop("classifier.points"),
        lambda s, t: t.update({"classifier.points": t["classifier.points"][:, 1:]}),
        lambda s, t: t.update({"classifier.dual": t["classifier.dual"][1:]}),
        lambda s, t: t.update({"classifier.norm": 0 * t["classifier.norm"]}),
        lambda s, t: t.update({"classifier.classes": t["classifier.classes"][::-1].copy()}),
    ],
)
def test_damaged_files_of_ensembles_are_refused(ensemble, tmp_path, change):
    path = tmp_path / "model.ckn"
    ensemble.save(path)
    rewrite_model(path, lambda s, t: None)
    load(path)
    rewrite_model(path, change)
    with pytest.raises(InvalidModelFile, match="is damaged"):
        load(path)


def test_an_ensemble_has_no_one_network_or_feature_map(pictures, ensemble, tmp_path):
    path = tmp_path / "model.ckn"
    ensemble.save(path)
    asked = (lambda: ensemble.network, lambda: ensemble.transform(pictures[0]), lambda: CKN.load(path))
    for ask in asked:
        with pytest.raises(InvalidSpec, match=r"ensemble of 2 encoders: there is no one network.*features"):
            ask()


def test_encoders_of_a_network_alone_leave_the_size_of_images_open(pictures):
    images, _ = pictures
    model = Model.of_network(fit(pictures, [EncoderSpec([LAYER], ())]).network)
    assert model.features(images[:, :6]).shape == (60, 2 * 3 * 8)
    with pytest.raises(InvalidSpec, match="depends on the size of the images"):
        model.widths  # noqa: B018
    with pytest.raises(InvalidData, match="images have 3 channels"):
        model.features(np.zeros((2, 9, 8, 3), np.uint8))


# ---- Blocks, progress and time ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 59])
def test_blocks_of_any_size_make_no_difference(pictures, ensemble, monkeypatch, size):
    images, _ = pictures
    whole = ensemble.features(images, backend="numpy"), ensemble.scores(images, backend="numpy")
    sizes = []
    monkeypatch.setattr(Model, "images_per_block", lambda self, shape, backend: size)
    for start, block in ensemble.feature_blocks(images, backend="numpy"):
        np.testing.assert_allclose(block, whole[0][start : start + size], atol=1e-6)
        sizes.append(len(block))
    assert sizes == [size] * (60 // size) + [60 % size] * (60 % size > 0)
    np.testing.assert_allclose(ensemble.features(images, backend="numpy"), whole[0], atol=1e-6)
    np.testing.assert_allclose(ensemble.scores(images, backend="numpy"), whole[1], atol=1e-5)


def test_fitting_in_blocks_learns_the_same(pictures, monkeypatch):
    specs = [EncoderSpec([LAYER], PREPROCESSING, FLIP), EncoderSpec([OTHER], ())]
    whole = fit(pictures, specs, classifier=Ridge(1e-2))
    monkeypatch.setattr(type(get_backend("numpy")), "images_per_block", lambda self, layers, shape: 13)
    pieces = fit(pictures, specs, classifier=Ridge(1e-2))
    for piece, expected in zip(pieces.encoders, whole.encoders, strict=True):
        anchors, same = (encoder.network.layers[0].anchors for encoder in (piece, expected))
        np.testing.assert_allclose(anchors, same, atol=1e-5)
    np.testing.assert_allclose(pieces.classifier.weights_, whole.classifier.weights_, atol=1e-4)


def test_room_for_several_encoders_and_variants_is_left(pictures, ensemble, monkeypatch):
    one = Model(ensemble.encoders[1:])
    backend = get_backend("numpy")
    monkeypatch.setattr(type(backend), "images_per_block", lambda self, layers, shape: 100)
    assert Model.of_network(one.network).images_per_block((9, 8, 1), backend) == 100
    assert one.images_per_block((9, 8, 1), backend) == 50
    assert ensemble.images_per_block((9, 8, 1), backend) == 33
    monkeypatch.setattr(type(backend), "images_per_block", lambda self, layers, shape: 1)
    assert ensemble.images_per_block((9, 8, 1), backend) == 1


def test_stages_take_the_time_that_they_take(pictures):
    images, _ = pictures
    report = Report()
    specs = [EncoderSpec([LAYER], [Standardize()], FLIP), EncoderSpec([OTHER], ())]
    model = fit(pictures, specs, classifier=KernelRidge(regularization=1e-2), progress=report)
    assert set(report.seconds) == {"preprocessing", "anchors", "reading", "features", "classifier"}
    assert all(seconds > 0 for seconds in report.seconds.values())
    assert math.fsum(report.seconds.values()) <= report.total
    report = Report()
    model.scores(images, progress=report)
    assert set(report.seconds) == {"features", "reading", "preprocessing", "classifier"}
    report = Report()
    list(Model(model.encoders[1:]).feature_blocks(images, progress=report))
    assert set(report.seconds) == {"features", "reading"}


def test_progress_tells_the_encoders_of_an_ensemble_apart(pictures):
    for count, prefixes in ((1, [""]), (2, ["encoder 1: ", "encoder 2: "])):
        told = []
        fit(
            pictures,
            [EncoderSpec([LAYER], ())] * count,
            progress=lambda *stage, told=told: told.append(stage),
        )
        expected = [f"{prefix}layer 1: {stage}" for prefix in prefixes for stage in ("sampling", "k-means")]
        assert list(dict.fromkeys(stage for stage, _, _ in told)) == expected


def test_memory_is_planned_before_sigma_is_chosen():
    backend, shape = get_backend("numpy", memory=256 << 20), (12, 12, 3)
    planned = []
    for kernel in (Exponential(sigma=0.6), Exponential(quantile=0.1)):
        layers = [make_spec(filters=8, subsampling=2, kernel=kernel)] * 2
        spec = EncoderSpec(layers, ())
        planned.append(
            (
                spec.bytes_to_fit(50, shape, 1000, backend, 256 << 20),
                spec.bytes_at_once(50, shape, backend, 32 << 20),
            )
        )
    assert planned[0] == planned[1]
