"""`ckn fit --method exact`, and what the other commands do with its models."""

import re

import numpy as np
import pytest

import ckncuda
from ckncuda import fit_exact

EXACT = ("--layer", "patch=3,subsampling=2,kernel=exp,sigma=0.6", "--preprocess", "none", "--method", "exact")
LAYER = ckncuda.LayerSpec(filters=1, patch=3, subsampling=2, kernel=ckncuda.Exponential(sigma=0.6))

TWO = """
[[encoders]]
layers = [{ patch = 3, subsampling = 2, kernel = "exp", sigma = 0.6 }]

[[encoders]]
tangent = true
layers = [{ patch = 3, subsampling = 3, kernel = "arccos1" }]
preprocessing = [{ name = "standardize" }]
symmetries = { flip = true }

[classifier]
name = "kernel-ridge"
"""


@pytest.fixture(scope="session")
def exact_model(fitted, data):
    return fitted(data.csv, "--labels", data.labels_csv, "--image-shape", "12x12x3", *EXACT)


def test_fit_reports_and_says_its_plan(works, data, tmp_path, adds_up):
    done = works("fit", data.npz, "-o", "m.ckn", *EXACT, "--json")
    result = done.told
    assert result["n_images"] == result["n_features"] == 40
    assert result["validation"].startswith("leave-one-out over 40 images; λ = ")
    assert result["validation_accuracy"] > 0.5
    stages = ["reading", "preprocessing", "features", "classifier", "writing", "total"]
    assert list(result["seconds"]) == stages
    adds_up(result["seconds"])
    assert re.search("Plan: 820 pairs of images, (about .|less than a second)", done.stderr)
    fitted = ckncuda.load(tmp_path / "m.ckn")
    assert fitted.encoders[0].kernel == ckncuda.ExactKernel([LAYER])
    expected = fit_exact(data.images, data.labels, [(fitted.encoders[0].kernel, ())])
    np.testing.assert_allclose(fitted.scores(data.images), expected.scores(data.images), atol=1e-3)
    assert np.mean(fitted.predict(data.images) == data.labels) > 0.9


def test_predict_evaluate_extract_and_bench_take_its_models(works, data, exact_model, tmp_path):
    works("predict", exact_model, data.npy, "-o", "s.csv", "--scores", "s.npy")
    fitted = ckncuda.load(exact_model)
    np.testing.assert_allclose(np.load(tmp_path / "s.npy"), fitted.scores(data.images), atol=1e-4)
    works("extract", exact_model, data.npy, "-o", "f.npy")
    kernels = ckncuda.gram(data.images, fitted.encoders[0].kernel)
    np.testing.assert_allclose(np.load(tmp_path / "f.npy"), kernels, rtol=1e-4)
    assert works("evaluate", exact_model, data.npz, "--json").told["accuracy"] > 0.9
    result = works("bench", exact_model, "--images", "2", "--repeats", "1", "--json").told
    stages = [row["stage"] for row in result["stages"]]
    assert stages == ["kernels with 40 images", "classifier (4 classes)", "all"]


def test_info_tells_of_the_kernel(works, exact_model):
    text = works("info", exact_model).stdout
    assert "features       exact kernel with 40 images" in text
    assert "layer 1        patch=3, subsampling=2" in text
    assert "filters" not in text
    assert {"regularization", "validation_accuracy"} <= set(text.split())
    (encoder,) = works("info", exact_model, "--json").told["encoders"]
    assert encoder | {"kind": "exact", "n_images": 40, "tangent": False, "flip": False} == encoder
    assert encoder["layers"][0]["sigma"] == 0.6


def test_a_configuration_of_two_kernels(works, data, tmp_path):
    (tmp_path / "two.toml").write_text(TWO)
    done = works("fit", data.npz, "--method", "exact", "--config", "two.toml", "-o", "m.ckn", "--json")
    assert re.search("Plan: 820 pairs of images by each of 2 kernels, (about .|less than)", done.stderr)
    assert "Classifier: that of two.toml is left aside" in done.stderr
    assert "weights" in done.told["validation"]
    assert done.told["n_features"] == 80
    fitted = ckncuda.load(tmp_path / "m.ckn")
    found = [(each.kernel.tangent, each.kernel.flip, len(each.preprocessing)) for each in fitted.encoders]
    assert found == [(False, False, 0), (True, True, 1)]
    text = works("info", "m.ckn").stdout
    assert "features       neural tangent kernel with 40 images, averaged over mirror images" in text


def test_options_of_the_fit(works, data, tmp_path):
    options = ("--landmarks", "15", "--regularization", "0.001", "--validation", "0.25", "--flip")
    result = works("fit", data.npz, "-o", "m.ckn", *EXACT, *options, "--json").told
    assert (result["n_features"], result["regularization"]) == (15, 0.001)
    assert result["validation"].startswith("10 images held out of 40; λ = 0.001 was given")
    assert "15 landmarks" in result["validation"]
    assert ckncuda.load(tmp_path / "m.ckn").encoders[0].kernel.flip


def test_a_matrix_of_ckn_gram_is_not_computed_twice(works, data, tmp_path):
    pytest.importorskip("zarr")
    works("gram", data.npz, "-o", "K.zarr", *EXACT[:4])
    done = works("fit", data.npz, "-o", "m.ckn", *EXACT, "--gram", "K.zarr")
    assert "Plan" not in done.stderr
    fitted = ckncuda.load(tmp_path / "m.ckn")
    expected = fit_exact(data.images, data.labels, [(fitted.encoders[0].kernel, ())])
    np.testing.assert_allclose(fitted.scores(data.images), expected.scores(data.images), atol=1e-3)


def test_matrices_of_something_else_are_refused(refused, data, tmp_path):
    images = np.random.default_rng(1).normal(size=(40, 12, 12, 3)).astype(np.float32)
    np.save(tmp_path / "K.npy", ckncuda.gram(images, [LAYER]))
    np.save(tmp_path / "L.npy", np.eye(39))
    fit = ("fit", data.npz, "-o", "m.ckn", *EXACT)
    refused(*fit, "--gram", "K.npy", words=["matrix 1 is not that of these images and this kernel"])
    refused(*fit, "--gram", "L.npy", words=["[39, 39]", "[40, 40]"])
    refused(*fit, "--gram", "M.zarr", words=["there is no Gram matrix M.zarr", "ckn gram"])


@pytest.mark.parametrize("damage", [b"", b"?"])
def test_a_damaged_matrix_is_refused_until_it_is_mended(works, refused, data, tmp_path, damage):
    pytest.importorskip("zarr")
    gram = ("gram", data.npz, "-o", "K.zarr", *EXACT[:4], "--tile", 4)
    works(*gram)  # of many chunks, others are being read
    chunk = tmp_path / "K.zarr/c/1/2"
    chunk.write_bytes(damage + chunk.read_bytes()[1:] if damage else b"")
    fit = ("fit", data.npz, "-o", "m.ckn", *EXACT, "--gram", "K.zarr")
    refused(*fit, words=["K.zarr is damaged; give the same ckn gram again, which mends it"])
    works(*gram)
    works(*fit)


def test_images_that_are_too_large(ckn, data, tmp_path):
    images = data.images.copy()
    images[4] *= np.float32(1e20)
    np.savez(tmp_path / "huge.npz", images=images, labels=data.labels)
    done = ckn("fit", "huge.npz", "-o", "m.ckn", *EXACT, cwd=tmp_path)
    words = ["huge.npz: 1.81", "in image 5", "expected finite numbers up to 1e+16: scale the images"]
    assert done.rc == 2
    assert all(word in done.stderr.splitlines()[-1] for word in words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--patches", "500"), ["--patches does not apply to --method exact"]),
        (("--classifier", "softmax"), ["--classifier does not apply to --method exact"]),
        (("--landmarks", "1"), ["landmarks is 1"]),
        (("--regularization", "0"), ["regularization is 0.0", "auto"]),
        (("--tangent",), ["layer 1", "arccos1"]),
        (("--layer", "patch=3,subsampling=2,kernel=exp,quantile=0.1"), ["sigma, not quantile"]),
    ],
)
def test_options_that_do_not_apply(refused, data, options, words):
    refused("fit", data.npz, "-o", "m.ckn", *EXACT, *options, words=words)


def test_options_of_exact_kernels_need_the_method(refused, data, tiny):
    words = ["--gram does not apply to --method nystrom", "--method exact"]
    refused("fit", data.npz, "-o", "m.ckn", *tiny, "--gram", "K.npy", words=words)


def test_labels_are_needed(refused, data):
    refused("fit", data.npy, "-o", "m.ckn", *EXACT, words=["x.npy holds no labels", "--labels"])


@pytest.mark.parametrize("what", ["image", "order", "options", "description"])
def test_a_matrix_of_something_else_is_refused(works, refused, data, tmp_path, what):
    gram = EXACT[: EXACT.index("--method")]
    images, labels = data.images.copy(), data.labels
    np.savez(tmp_path / "xy.npz", images=images, labels=labels)
    works("gram", "xy.npz", "-o", "K.zarr", "--tile", 16, *gram)
    fit = ("fit", "xy.npz", "-o", "m.ckn", *EXACT, "--gram", "K.zarr")
    works(*fit)
    (tmp_path / "m.ckn").unlink()
    words = ["Gram matrix 1 is not that of these images and this kernel: it differs in"]
    if what == "image":
        images[17, 3, 3] += np.float32(1e-6)
        words.append("differs in IMAGES; give")
    elif what == "order":
        images[[20, 21]] = images[[21, 20]]
        words.append("differs in IMAGES; give")
    elif what == "options":
        fit += ("--flip",)
        words.append("differs in the kernel; give")
    else:
        path = tmp_path / "K.zarr" / "zarr.json"
        path.write_bytes(path.read_bytes().replace(b"little", b"big"))
        words = ["K.zarr cannot be read as a matrix: K.zarr/zarr.json is damaged, or not of ckn gram"]
    np.savez(tmp_path / "xy.npz", images=images, labels=labels)
    refused(*fit, words=words)
