import numpy as np
import pytest

import ckncuda


def test_extract_writes_the_features_of_the_library(works, data, model, tmp_path, adds_up):
    shape = ("--image-shape", "12x12x3")
    result = works("extract", model, data.csv, *shape, "-o", "f.npy", "--json").told
    seconds = result.pop("seconds")
    assert result == {"features": "f.npy", "n_images": 40, "n_features": 144}
    assert list(seconds) == ["reading", "features", "writing", "total"]
    adds_up(seconds)
    features = np.load(tmp_path / "f.npy")
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, ckncuda.load(model).features(data.images))


def test_extract_writes_npz(works, data, model, tmp_path):
    done = works("extract", model, data.npy, "-o", "f.npz")
    assert done.stdout.splitlines()[-1] == "wrote f.npz: 40 images, 144 features each"
    with np.load(tmp_path / "f.npz") as archive:
        assert archive.files == ["features"]
        np.testing.assert_array_equal(archive["features"], ckncuda.load(model).features(data.images))


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_extract_in_blocks_on_any_number_of_threads_gives_the_same_bytes(
    works, data, model, tmp_path, rng, suffix
):
    images = rng.normal(size=(1100, 12, 12, 3)).astype(np.float32)  # blocks hold 512 images, tiles fewer
    np.save(tmp_path / "x.npy", images)
    files = set()
    for threads in (1, 2, 3) if suffix == "npy" else (1,):
        works("extract", model, "x.npy", "-o", f"f.{suffix}", "--threads", threads)
        files.add((tmp_path / f"f.{suffix}").read_bytes())
    assert len(files) == 1
    stored = np.load(tmp_path / f"f.{suffix}")
    features = stored["features"] if suffix == "npz" else stored
    np.testing.assert_array_equal(features, ckncuda.load(model).features(images))


def test_extract_on_the_reference_backend_agrees(works, data, model, tmp_path, relative_error):
    works("extract", model, data.npy, "-o", "f.npy", "--backend", "reference")
    features = np.load(tmp_path / "f.npy")
    assert features.dtype == np.float32
    assert relative_error(features, ckncuda.load(model).features(data.images)) < 2e-5


def test_extract_takes_the_backend_from_the_environment(works, data, model, tmp_path):
    works("extract", model, data.npy, "-o", "f.npy", env={"CKNCUDA_BACKEND": "reference"})
    works("extract", model, data.npy, "-o", "g.npy", "--backend", "reference")
    assert (tmp_path / "f.npy").read_bytes() == (tmp_path / "g.npy").read_bytes()
    assert not np.array_equal(np.load(tmp_path / "f.npy"), ckncuda.load(model).features(data.images))
