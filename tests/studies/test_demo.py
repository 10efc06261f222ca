import sys

import numpy as np
import pytest

from ckncuda import load
from ckncuda.backend import get_backend
from ckncuda.errors import NotInstalled
from ckncuda.studies.demo import load_digits, run_demo
from ckncuda.studies.plots import filter_mosaic, hardest_first


def test_digits_come_as_bytes():
    pytest.importorskip("sklearn")
    images, labels = load_digits()
    assert (images.shape, images.dtype, images.max()) == ((1797, 8, 8, 1), np.uint8, 255)
    assert sorted(set(labels)) == list(range(10))


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(NotInstalled, match=r"pip install 'scikit-learn<.*' 'matplotlib<"):
        load_digits()


@pytest.mark.slow
def test_the_demo_does_the_whole_job(tmp_path):
    """Another seed than the demo's own, so that the accuracy is not one lucky split's."""
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    result = run_demo(tmp_path, seed=1, backend=get_backend("numpy"))
    assert result.accuracy >= 0.98
    names = ["features.npy", "model.ckn", "picture.png", "submission.csv"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    rows = (tmp_path / "submission.csv").read_text().splitlines()
    assert rows[0] == "Id,Prediction"
    images, labels = load_digits()
    test = np.sort(np.random.default_rng(1).permutation(len(images))[:500])
    predicted = np.array([int(row.split(",")[1]) for row in rows[1:]])
    assert np.mean(predicted == labels[test]) == result.accuracy
    features = np.load(tmp_path / "features.npy")
    np.testing.assert_array_equal(features, load(tmp_path / "model.ckn").features(images[test]))
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_filters_are_laid_out_side_by_side(rng):
    anchors = rng.normal(size=(5, 3, 3, 3))
    mosaic = filter_mosaic(anchors)
    assert mosaic.shape == (18 + 2 + 18, 3 * 18 + 2 * 2, 3)
    second = mosaic[:18:6, 20:38:6]
    np.testing.assert_allclose(second, (anchors[1] - anchors[1].min()) / np.ptp(anchors[1]), atol=1e-6)
    assert filter_mosaic(rng.normal(size=(100, 3, 3, 7))).shape == (8 * 18 + 7 * 2, 8 * 18 + 7 * 2, 3)


def test_mistakes_come_first_then_close_calls():
    scores = np.array([[3.0, 0.0], [1.0, 0.9], [0.0, 2.0]], np.float32)
    assert hardest_first(scores, np.array([0, 0, 0])).tolist() == [2, 1, 0]
