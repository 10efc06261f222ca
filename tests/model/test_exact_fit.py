"""Models on exact kernels, from images and labels: what they learn, keep and refuse."""

import json

import factories
import numpy as np
import pytest

from ckncuda import ArcCosine, ExactKernel, Exponential, GramRidge, LayerSpec, fit_exact, gram, load
from ckncuda.backend import get_backend
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.exact.job import GramJob
from ckncuda.exact.on_disk.reading import open_gram
from ckncuda.exact.on_disk.writing import GramStore
from ckncuda.images.preprocess import ZCA, Standardize, suggested_preprocessing
from ckncuda.images.preprocessed import fit_preprocessing
from ckncuda.images.sources import as_images
from ckncuda.progress import Report

LAYER = LayerSpec(filters=1, patch=3, subsampling=2, kernel=Exponential(sigma=0.6))
EXP = ExactKernel([LAYER])
NTK = ExactKernel([LayerSpec(filters=1, patch=3, subsampling=3, kernel=ArcCosine(1))], tangent=True)


@pytest.fixture(scope="module")
def stripes():
    images, labels = factories.stripes(60, noise=40, contrast=40)
    return images, labels + 3


def fit(stripes, kernels=((EXP, ()),), images=40, **options):
    return fit_exact(stripes[0][:images], stripes[1][:images], kernels, **{"backend": "numpy"} | options)


def assert_scores(model, images, expected, its_images, atol):
    scores = [m.scores(i, backend="numpy") for m, i in ((model, images), (expected, its_images))]
    np.testing.assert_allclose(*scores, atol=atol)


@pytest.fixture(scope="module")
def model(stripes):
    return fit(stripes)


def test_it_learns_what_pixels_do_not_tell(stripes, model):
    images, labels = stripes
    assert np.mean(model.predict(images[40:], backend="numpy") == labels[40:]) >= 0.9
    assert model.report["validation_accuracy"] >= 0.9
    assert model.report["validation"].startswith("leave-one-out over 40 images; λ = ")
    assert "preprocessing" not in model.report["validation"]
    assert model.report["n_features"] == model.n_features == model.report["n_images"] == 40
    assert model.image_type == model.encoders[0].points.dtype == "uint8"
    assert json.loads(json.dumps(model.report)) == model.report
    assert isinstance(model.classifier, GramRidge)


@pytest.mark.parametrize("kernel", [EXP, ExactKernel([LAYER], flip=True), NTK], ids=["exp", "flip", "ntk"])
@pytest.mark.parametrize("regularization", [1e-2, 1e-6])
def test_scores_are_those_of_the_dual_solution_in_double_precision(stripes, kernel, regularization):
    images, labels = stripes
    fitted = fit(stripes, [(kernel, ())], regularization=regularization)
    exact = images.astype(np.float64) / 255
    own = gram(exact[:40], kernel, dtype=np.float64)
    new = gram(exact[40:], kernel, exact[:40], dtype=np.float64)
    scale = np.diag(own).mean() - own.mean()
    centring = np.eye(40) - 1 / 40
    signs = np.where(labels[:40, None] == [3, 4], 1.0, -1.0)
    system = centring @ own @ centring / scale + 1 + 40 * regularization * np.eye(40)
    alpha = np.linalg.solve(system, signs)
    centred = (new - new.mean(axis=1, keepdims=True) - own.mean(axis=0) + own.mean()) / scale
    expected = (centred + 1) @ alpha
    # Kernels in single precision err by 1e-7, the solution by as much times the system's condition.
    np.testing.assert_allclose(fitted.scores(images[40:], backend="numpy"), expected, atol=5e-3)
    assert fitted.classifier.regularization_ == regularization


def test_leave_one_out_is_what_fits_without_each_image_predict(stripes):
    images, labels = stripes
    images, labels = images[:24], labels[:24]
    whole = fit((images, labels), regularization=1e-2, images=24)
    right = 0
    for i in range(24):
        others = np.arange(24) != i
        # n λ stays, and centring and scaling do: with 23 images λ is larger, and they hardly differ.
        alone = fit((images[others], labels[others]), regularization=1e-2 * 24 / 23, images=23)
        right += int(alone.predict(images[i : i + 1], backend="numpy")[0] == labels[i])
    assert abs(whole.report["validation_accuracy"] - right / 24) <= 1 / 24


def test_round_trip_through_a_file(stripes, model, tmp_path):
    images, _ = stripes
    model.save(tmp_path / "m")
    again = load(tmp_path / "m")
    assert np.array_equal(again.scores(images, backend="numpy"), model.scores(images, backend="numpy"))
    assert again.report == model.report
    again.save(tmp_path / "again")
    fit(stripes).save(tmp_path / "anew")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()
    assert (tmp_path / "anew").read_bytes() == (tmp_path / "m").read_bytes()


def test_preprocessing_is_learned_once_and_met_by_new_images(stripes):
    images, labels = stripes
    prepared = Standardize().apply(images.astype(np.float32) / np.float32(255))
    expected = fit((prepared, labels), regularization=1e-2)
    fitted = fit(stripes, [(EXP, [Standardize()])], regularization=1e-2)
    assert_scores(fitted, images, expected, prepared, atol=1e-4)
    assert fitted.encoders[0].points.dtype == np.float32
    assert fitted.report["validation"].endswith("; preprocessing saw all images, without labels")
    first, second = fit(stripes, [(EXP, [Standardize()]), (NTK, [Standardize()])], images=30).encoders
    assert first.preprocessing == (Standardize(),)
    assert first.preprocessing is second.preprocessing
    assert first.points is second.points


def test_preprocessing_left_open_is_that_which_the_images_suggest(rng):
    images = rng.normal(size=(80, 9, 9, 1)).cumsum(axis=1).cumsum(axis=2).astype(np.float32)
    suggested = suggested_preprocessing(as_images(images))
    assert suggested
    fitted = fit((images, np.arange(80) % 2), [(EXP, None)], images=80, landmarks=5)
    assert fitted.encoders[0].preprocessing == suggested


def test_two_kernels_are_combined(stripes):
    images, labels = stripes
    fitted = fit(stripes, [(EXP, ()), (NTK, [Standardize()])])
    assert fitted.widths == (40, 40)
    assert fitted.report["kernel_weights"] == list(fitted.classifier.kernel_weights_)
    assert len(fitted.report["kernel_weights"]) == 2
    assert "weights" in fitted.report["validation"]
    assert np.mean(fitted.predict(images[40:], backend="numpy") == labels[40:]) >= 0.9
    given = fit(stripes, [(EXP, ()), (NTK, ())], weights=[1, 0], regularization=1e-2)
    assert_scores(given, images, fit(stripes, regularization=1e-2), images, atol=1e-4)


def test_progress_and_time_are_told(stripes):
    seen = []
    report = Report(lambda *stage: seen.append(stage))
    fit(stripes, progress=report)
    assert ("Gram matrix", 40 * 41 // 2, 40 * 41 // 2) in seen
    assert list(report.seconds) == ["preprocessing", "features", "classifier"]
    seen.clear()
    fit(stripes, [(EXP, ()), (NTK, ())], progress=lambda *stage: seen.append(stage))
    stages = [stage for stage, _, _ in seen]
    assert {"kernel 1: Gram matrix", "kernel 2: Gram matrix", "choosing kernel and λ"} == set(stages)


def test_held_out_images(stripes):
    fitted = fit(stripes, validation=0.25)
    assert fitted.report["validation"].startswith("10 images held out of 40; λ = ")
    assert fitted.report["validation_accuracy"] >= 0.8


def test_with_all_images_as_landmarks_it_is_the_whole_solution(stripes):
    images, _ = stripes
    whole, landmarks = fit(stripes, regularization=1e-2), fit(stripes, regularization=1e-2, landmarks=40)
    assert_scores(landmarks, images, whole, images, atol=2e-2)
    assert landmarks.predict(images).tolist() == whole.predict(images).tolist()


@pytest.mark.parametrize("kernels", [[(EXP, ())], [(EXP, [Standardize()]), (NTK, ())]], ids=["one", "two"])
def test_on_landmarks_only_their_kernels_are_computed(stripes, kernels, tmp_path):
    images, labels = stripes
    seen = []
    fitted = fit(stripes, kernels, landmarks=15, progress=lambda *stage: seen.append(stage))
    pairs = {total for stage, _, total in seen if stage.endswith("Gram matrix")}
    assert pairs == {40 * 15}
    assert fitted.widths == (15,) * len(kernels)
    assert "15 landmarks" in fitted.report["validation"]
    assert np.mean(fitted.predict(images[40:], backend="numpy") == labels[40:]) >= 0.8
    fitted.save(tmp_path / "m")
    assert np.array_equal(load(tmp_path / "m").scores(images), fitted.scores(images))
    kept = fitted.encoders[-1].points
    assert {image.tobytes() for image in kept} <= {image.tobytes() for image in images[:40]}


def test_landmarks_follow_from_the_seed(stripes):
    first, same, other = (fit(stripes, landmarks=10, seed=seed).encoders[0].points for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    assert len(fit(stripes, landmarks=1000).encoders[0].points) == 40


@pytest.fixture(scope="module")
def stored(stripes):
    return gram(stripes[0][:40], EXP)


@pytest.fixture
def zarr_matrix(stripes, tmp_path):
    return written(stripes[0][:40], tmp_path / "K.zarr")


def written(images, path, kernel=EXP, preprocessing=(), images2=None):
    """The path of a matrix that stands there as `ckn gram` writes it."""
    backend, images = get_backend("numpy"), as_images(images)
    steps = fit_preprocessing(images, preprocessing)
    others = None if images2 is None else as_images(images2)
    job = GramJob(kernel, images, others, preprocessing=steps, tile=7)
    with GramStore(path, job.tiling, job.identity("numpy")) as store:
        store.fill(job.blocks(store.unfinished(), backend))
        store.finish()
    return path


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
def test_a_matrix_that_is_there_is_not_computed_again(
    stripes, zarr_matrix, stored, model, suffix, monkeypatch
):
    path = zarr_matrix.with_suffix(suffix)
    if suffix == ".npy":
        np.save(path, stored)
    monkeypatch.setattr("ckncuda.exact.encoder.gram", None)
    fitted = fit(stripes, grams=[open_gram(path)])
    found, expected = (each.scores(stripes[0], backend="numpy") for each in (fitted, model))
    assert np.array_equal(found, expected)
    assert fitted.report == model.report


@pytest.mark.parametrize(
    ("kernel", "preprocessing", "images"),
    [
        (NTK, (), slice(40)),
        (ExactKernel([LAYER], flip=True), (), slice(40)),
        (EXP, [Standardize()], slice(40)),
        (EXP, (), slice(10, 50)),
        (EXP, (), slice(39, None, -1)),
    ],
    ids=["kernel", "flip", "preprocessing", "images", "order"],
)
def test_a_matrix_of_something_else_is_refused(stripes, stored, kernel, preprocessing, images):
    labels = stripes[1][:40]
    with pytest.raises(InvalidData, match="matrix 1 is not that of these images and this kernel: of images"):
        fit_exact(stripes[0][images], labels, [(kernel, preprocessing)], grams=[stored], backend="numpy")


def changed(images):
    images = images.copy()
    images[17, 3, 3, 0] ^= 1  # far less than a few entries tell
    return images


def swapped(images):
    return images[[*range(20), 21, 20, *range(22, 40)]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"images": changed}, "IMAGES"),
        ({"images": swapped}, "IMAGES"),
        ({"images": lambda images: images.astype(np.float32) / 255}, "IMAGES"),
        ({"images": lambda images: images[::-1]}, "IMAGES"),
        ({"preprocessing": [ZCA(0.1)]}, "the preprocessing"),
        ({"kernel": ExactKernel([LayerSpec(1, 3, 2, Exponential(sigma=0.60001))])}, "the kernel"),
        ({"kernel": ExactKernel([LAYER], flip=True)}, "the kernel"),
        ({"kernel": NTK, "images": changed}, "IMAGES and the kernel"),
        ({"images2": changed}, "IMAGES2"),
    ],
)
def test_a_matrix_that_says_that_it_is_of_something_else(stripes, tmp_path, options, words):
    """Whatever a few entries say: the matrix holds a digest of all images, and the names of all options."""
    images = stripes[0][:40]
    made = {name: change(images) for name, change in options.items() if name in ("images", "images2")}
    how = {name: value for name, value in options.items() if name not in made}
    path = written(**{"images": images, "path": tmp_path / "K.zarr"} | made | how)
    with pytest.raises(InvalidData, match=f"matrix 1 is not that .* differs in {words}; give"):
        fit(stripes, [(EXP, [ZCA(0.2)] if "preprocessing" in options else ())], grams=[open_gram(path)])


def noisy(images, number):
    images = images.copy()
    images[number] = 255 - images[number][::-1]
    return images


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "change",
    [
        *(lambda images, number=number: noisy(images, number) for number in (0, 17, 39)),
        swapped,
        lambda images: np.roll(images, 1, axis=0),
    ],
    ids=["image 0", "image 17", "image 39", "two swapped", "rolled"],
)
def test_every_image_takes_part_where_a_matrix_says_nothing(stripes, tmp_path, change, seed):
    images = stripes[0][:40]
    np.save(tmp_path / "K.npy", gram(change(images), EXP, backend="numpy"))
    with pytest.raises(InvalidData, match="matrix 1 is not that of these images and this kernel: of images"):
        fit(stripes, grams=[open_gram(tmp_path / "K.npy")], seed=seed)


def test_matrices_that_do_not_fit(stripes, stored):
    with pytest.raises(InvalidData, match=r"of shape \[40, 39\]; expected \[40, 40\]"):
        fit(stripes, grams=[stored[:, :39]])
    with pytest.raises(InvalidSpec, match="1 Gram matrices were given for 2 kernels"):
        fit(stripes, [(EXP, ()), (NTK, ())], grams=[stored])
    with pytest.raises(InvalidSpec, match="landmarks spare a Gram matrix"):
        fit(stripes, grams=[stored], landmarks=5)
    damaged = stored.copy()
    damaged[3, 4] = np.nan
    with pytest.raises(InvalidData, match="NaN"):
        fit(stripes, grams=[damaged])


@pytest.mark.parametrize(
    "damage",
    [
        lambda chunk: chunk.write_bytes(b"?" + chunk.read_bytes()[1:]),
        lambda chunk: chunk.write_bytes(b""),
        lambda chunk: chunk.unlink(),
    ],
    ids=["flipped", "emptied", "removed"],
)
@pytest.mark.parametrize("place", range(6))  # rows are read to compare, and again to fit
def test_a_matrix_that_has_been_damaged(stripes, zarr_matrix, damage, place):
    damage(zarr_matrix / "c" / str(place) / "2")
    message = r"K\.zarr is damaged; give the same ckn gram again, which mends it"
    with pytest.raises(InvalidData, match=message):
        fit(stripes, grams=[open_gram(zarr_matrix)])


@pytest.mark.parametrize("landmarks", [None, 15])
def test_kernels_that_are_too_large_are_named(stripes, stored, landmarks, monkeypatch):
    monkeypatch.setattr("ckncuda.given.images.LARGEST_AS_FLOAT32", np.inf)  # such pixels are refused else
    images = stripes[0][:40] / np.float32(255)
    images[23] *= np.float32(1e20)
    match = r"the kernel of image \d+ and image \d+ is (inf|nan): it is too large for float32; scale or"
    with np.errstate(all="ignore"):
        with pytest.raises(InvalidData, match=match) as refusal:
            fit((images, stripes[1]), landmarks=landmarks)
        assert "image 24 " in str(refusal.value)
        with pytest.raises(InvalidData, match=match):
            fit((images[18:30], stripes[1][18:30]), grams=[stored[18:30, 18:30]], images=12, seed=1)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"regularization": -1.0}, "regularization is -1.0"),
        ({"weights": [1.0, 2.0]}, "2 weights were given for 1 kernels"),
        ({"validation": 1.5}, "validation is 1.5"),
        ({"landmarks": 1}, "landmarks is 1; expected a whole number of at least 2"),
        ({"kernels": []}, "at least one kernel"),
        ({"kernels": [(ExactKernel([LayerSpec(1, 12, 2, Exponential(0.6))]), ())]}, "layer 1 does not fit"),
    ],
)
def test_options_are_checked_before_the_long_work(stripes, options, match):
    def no_work(stage, done, total):
        raise AssertionError(f"{stage} began")

    with pytest.raises(InvalidSpec, match=match):
        fit(stripes, progress=no_work, **options)


def test_labels_that_do_not_fit(stripes):
    images, labels = stripes
    for given, words in (
        (None, "60 images, no labels"),
        (labels[1:], "60 images, 59 labels"),
        (labels * 0, "a classifier needs images of two classes"),
    ):
        with pytest.raises(InvalidData, match=words):
            fit_exact(images, given, [(EXP, ())])
