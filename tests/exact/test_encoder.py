"""Encoders of exact kernels: values by the definition, files, what a model does with them."""

import gpu
import numpy as np
import pytest
from factories import make_spec, rewrite_model

from ckncuda import CKN, ArcCosine, ExactKernel, Model, Ridge, gram, load
from ckncuda.backend import get_backend
from ckncuda.errors import InvalidData, InvalidModelFile, InvalidSpec
from ckncuda.exact.encoder import ExactEncoder
from ckncuda.images.preprocess import ZCA, Standardize
from ckncuda.images.sources import as_images
from ckncuda.progress import Report
from ckncuda.studies.speed import RandomImages, measure_speed

LAYER, RELU = make_spec(), make_spec(patch=2, kernel=ArcCosine(1))
KERNELS = [
    ExactKernel([LAYER]),
    ExactKernel([LAYER], flip=True),
    ExactKernel([RELU, RELU], tangent=True),
    ExactKernel([RELU], tangent=True, flip=True),
]


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (20, 8, 7, 2)).astype(np.uint8)


@pytest.mark.parametrize("kernel", KERNELS, ids=["exp", "flip", "tangent", "both"])
@pytest.mark.parametrize("preprocessing", [(), (Standardize(),)], ids=["raw", "standardized"])
def test_features_are_kernels_with_the_points(images, kernel, preprocessing, relative_error):
    prepared = images[:13].astype(np.float32) / np.float32(255)
    for step in preprocessing:
        prepared = step.apply(prepared)
    points = prepared[:6] if preprocessing else images[:6]
    model = Model((ExactEncoder(kernel, points, preprocessing),), None, (8, 7, 2), "uint8")
    expected = gram(prepared.astype(np.float64), kernel, prepared[:6].astype(np.float64), dtype=np.float64)
    for name, tolerance in (("numpy", 1e-5), ("reference", 1e-6)):
        found = model.features(images[:13], backend=name)
        assert found.dtype == get_backend(name).dtype
        assert relative_error(found, expected) < tolerance
    assert model.n_features == 6
    assert model.n_parameters == 6 * 8 * 7 * 2


def test_points_in_tiles_and_blocks_of_images_make_no_difference(images, monkeypatch, relative_error):
    model = Model((ExactEncoder(KERNELS[1], images),))
    whole = model.features(images, backend="numpy")
    monkeypatch.setattr("ckncuda.exact.encoder.TILE", 7)
    monkeypatch.setattr("ckncuda.exact.encoder.AT_ONCE", 3)
    seen = []
    pieces = model.features(images, backend="numpy", progress=lambda *stage: seen.append(stage))
    assert relative_error(pieces, whole) < 1e-6
    assert [done for _, done, _ in seen] == [3, 6, 9, 12, 15, 18, 20]


def test_norms_of_the_points_are_computed_once(images, monkeypatch):
    backend, counted = get_backend("numpy"), []
    norms = type(backend).patch_norms

    def patch_norms(self, maps, specs):
        counted.append(len(maps))
        return norms(self, maps, specs)

    monkeypatch.setattr(type(backend), "patch_norms", patch_norms)
    encoder = ExactEncoder(KERNELS[1], images)
    for _ in range(3):
        encoder.encode(images[:2].astype(np.float32), backend, Report())
    assert counted == [20, 2, 2, 2]


def stored_and_loaded(model, folder):
    """The model, and what a file holds of it, which is stored to the same bytes again."""
    model.save(folder / "m")
    again = load(folder / "m")
    again.save(folder / "again")
    assert (folder / "again").read_bytes() == (folder / "m").read_bytes()
    return model, again


def test_round_trip_through_a_file(images, tmp_path):
    prepared = images.astype(np.float32) / np.float32(255)
    zca = ZCA(epsilon=0.5).fit(as_images(images))
    points = zca.apply(prepared)[:9]
    encoders = (ExactEncoder(KERNELS[1], points, (zca,)), ExactEncoder(KERNELS[2], images[:5]))
    model, again = stored_and_loaded(Model(encoders, None, (8, 7, 2), "uint8"), tmp_path)
    found = [(encoder.kernel, encoder.points.dtype) for encoder in again.encoders]
    assert found == [(KERNELS[1], np.float32), (KERNELS[2], np.uint8)]
    assert np.array_equal(again.features(images, backend="numpy"), model.features(images, backend="numpy"))


def test_images_that_several_kernels_share_are_stored_once(images, tmp_path):
    _, again = stored_and_loaded(Model(tuple(ExactEncoder(kernel, images) for kernel in KERNELS)), tmp_path)
    assert (tmp_path / "m").stat().st_size < 2 * images.nbytes
    assert all(encoder.points is again.encoders[0].points for encoder in again.encoders)


def test_there_is_no_network(images, tmp_path):
    model = Model((ExactEncoder(KERNELS[0], images),))
    model.save(tmp_path / "m")
    for ask in (lambda: model.network, lambda: model.transform(images), lambda: CKN.load(tmp_path / "m")):
        with pytest.raises(InvalidSpec, match="compares images by an exact kernel: there is no network"):
            ask()


def test_images_of_another_size_are_refused(images):
    model = Model((ExactEncoder(KERNELS[0], images),))
    with pytest.raises(InvalidData, match="images are of 8x6x2; they are compared with images of 8x7x2"):
        model.features(images[:, :, :6])


def test_networks_and_exact_kernels_stand_side_by_side(images):
    network = CKN([make_spec(filters=4)]).fit(images, patches=300, backend="numpy")
    encoders = (*Model.of_network(network).encoders, ExactEncoder(KERNELS[0], images[:5]))
    model = Model(encoders, None, (8, 7, 2), "uint8")
    assert model.widths == (4 * 4 * 4, 5)
    assert model.features(images, backend="numpy").shape == (20, 69)


@pytest.mark.parametrize(
    "change",
    [
        lambda s, t: s["encoders"][0].update(kind="magic"),
        lambda s, t: s["encoders"][0].pop("kind"),
        lambda s, t: s["encoders"][0].update(points="encoders.1.points"),
        lambda s, t: s["encoders"][0].pop("kernel"),
        lambda s, t: s["encoders"][0]["kernel"].update(tangent=True),
        lambda s, t: s["encoders"][0]["kernel"].update(layers=[]),
        lambda s, t: s["encoders"][0]["kernel"]["layers"][0].update(patch=30),
        lambda s, t: s.update(image_shape=(8, 8, 2)),
        lambda s, t: t.pop("encoders.0.points"),
        lambda s, t: t.update({"encoders.0.points": t["encoders.0.points"][0]}),
        lambda s, t: t.update({"encoders.0.points": t["encoders.0.points"][:0]}),
        lambda s, t: t.update({"encoders.0.points": t["encoders.0.points"].astype(np.float64)}),
        lambda s, t: t.update({"encoders.0.points": t["encoders.0.points"][1:]}),
        lambda s, t: t.update({"encoders.0.points": t["encoders.0.points"] * np.float32(np.nan)}),
    ],
)
def test_damaged_files_are_refused(images, tmp_path, change):
    features = np.random.default_rng(0).normal(size=(10, 20)).astype(np.float32)
    ridge = Ridge(1e-2).fit(features, np.arange(10) % 2)
    points = images.astype(np.float32) / 255
    path = tmp_path / "m"
    Model((ExactEncoder(KERNELS[0], points),), ridge, (8, 7, 2), "float32").save(path)
    load(path)
    rewrite_model(path, change)
    with pytest.raises(InvalidModelFile, match="is damaged"):
        load(path)


def test_its_speed_is_measured(images):
    model = Model((ExactEncoder(KERNELS[0], images, (Standardize(),)),), None, (8, 7, 2), "uint8")
    backend = get_backend("numpy")
    speed = measure_speed(model, RandomImages(model, backend), backend, n=4, repeats=1)
    assert list(speed.seconds) == ["reading", "standardize", "kernels with 20 images"]


def test_on_a_gpu_features_and_scores_are_the_same(images, relative_error):
    points = Standardize().apply(images[:6].astype(np.float32) / np.float32(255))
    ridge = Ridge(1e-2).fit(np.random.default_rng(0).normal(size=(9, 6)), np.arange(9) % 3)
    model = Model((ExactEncoder(KERNELS[1], points, (Standardize(),)),), ridge, (8, 7, 2), "uint8")
    images = images[:8]
    features, scores = model.features(images, backend="numpy"), model.scores(images, backend="numpy")
    with gpu.a_gpu():
        device = get_backend("cupy")
        assert relative_error(model.features(images, backend=device), features) < 1e-5
        assert relative_error(model.scores(images, backend=device), scores) < 1e-5
