import numpy as np
import pytest
from factories import make_layer

import ckncuda

QUICK = ("--images", "8", "--repeats", "2")
STAGES = ["standardize", "zca", "layer 1 (3x3, 4 filters)", "layer 2 (2x2, 5 filters)"]
STAGES += ["classifier (4 classes)"]


@pytest.fixture(scope="session")
def stacked(fitted, data, layer):
    """A model with two steps of preprocessing, two layers and a classifier."""
    layers = ("--layer", layer, "--layer", "filters=5,patch=2,subsampling=3,kernel=linear")
    preprocessing = ("--preprocess", "standardize", "--preprocess", "zca,epsilon=0.3")
    return fitted(data.npz, *layers, *preprocessing, "--patches", "500")


@pytest.fixture(scope="session")
def of_any_size(tmp_path_factory):
    """A network that was not fitted on images of one size."""
    path = tmp_path_factory.mktemp("any") / "any.ckn"
    ckncuda.CKN.from_layers([make_layer(3, np.random.default_rng(0), filters=4)]).save(path)
    return path


def test_bench_measures_every_stage(works, stacked):
    result = works("bench", stacked, *QUICK, "--threads", "1", "--json").told
    assert [row["stage"] for row in result["stages"]] == [*STAGES, "all"]
    for row in result["stages"]:
        assert row["images_per_second"] > 0
        assert row["images_per_second"] * row["ms_per_1000_images"] == pytest.approx(1e6)
    *stages, whole = result["stages"]
    assert whole["share"] == 1
    for row in stages:
        assert row["share"] == pytest.approx(row["ms_per_1000_images"] / whole["ms_per_1000_images"])
    assert "float32, 1 thread;" in result["description"]
    expected = {"backend": "numpy", "image_shape": [12, 12, 3], "n_images": 8, "repeats": 2}
    assert result | expected == result


def test_bench_takes_images_and_then_reads_them(works, data, stacked):
    done = works("bench", stacked, data.csv, *QUICK, "--json")
    assert "Measuring with challenge CSV Xtr.csv, 40 images of 12x12x3" in done.stderr
    assert [row["stage"] for row in done.told["stages"]] == ["reading", *STAGES, "all"]
    assert done.told["n_images"] == 8


def test_bench_finds_out_how_many_images_it_needs(works, data, model):
    once = ("--repeats", "1", "--json")
    assert works("bench", model, data.npy, *once).told["n_images"] == 40  # all there are
    assert works("bench", model, *once).told["n_images"] > 40


def test_bench_for_people(works, network):
    lines = works("bench", network, *QUICK).stdout.splitlines()
    assert lines[0].startswith("numpy: NumPy ")
    assert lines[1] == "8 random images of 12x12x3, medians of 2 passes"
    assert lines[3].split() == ["stage", "images/s", "ms", "per", "1,000", "share"]
    assert lines[4].startswith("layer 1 (3x3, 4 filters) ")
    assert lines[5].startswith("all ")
    assert lines[5].endswith(" 100.0%")
    assert len(lines) == 6


def test_bench_of_a_model_for_any_size_needs_images(works, refused, data, of_any_size):
    refused("bench", of_any_size, words=["any size", "give IMAGES"])
    result = works("bench", of_any_size, data.bytes_npy, *QUICK, "--json").told
    assert (result["image_shape"], result["stages"][-1]["stage"]) == ([12, 12, 3], "all")


def test_bench_refuses_images_that_the_model_does_not_take(refused, data, model, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 9, 12, 3), np.float32))
    refused("bench", model, "x.npy", words=["images are of 9x12x3", "12x12x3"])
    refused("bench", model, data.bytes_npy, words=["type uint8", "float32"])
    refused("bench", model, "nowhere.npy", words=["nowhere.npy"])
    refused("bench", model, data.npy, "-n", "41", words=["only 40 images", "41 were asked for"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--images", "0"), ["--images", "0"]),
        (("-n", "-3"), ["--images", "-3"]),
        (("-n", "many"), ["--images", "'many'"]),
        (("--repeats", "0"), ["--repeats", "0"]),
        (("--split", "test"), ["--split", "give IMAGES"]),
        (("--memory", "1MiB"), ["at least 64 MiB"]),
    ],
)
def test_bench_refuses_options_that_cannot_be(refused, model, options, words):
    refused("bench", model, *options, words=words)
