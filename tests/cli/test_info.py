import importlib.util
import os
import shutil

import numpy as np
import pytest
from factories import rewrite_model

from ckncuda.backend.cupy import why_unavailable
from ckncuda.cli.commands import cli


def test_info_counts_the_parameters_of_the_seed_preset(works, tmp_path, rng):
    labels = np.arange(20) % 10
    images = rng.integers(0, 80, (20, 32, 32, 3)) + (labels * 17)[:, None, None, None]
    np.savez(tmp_path / "xy.npz", images=images.astype(np.uint8), labels=labels)
    options = ("--preset", "seed", "--patches", "500", "--validation", "0", "-o", "m.ckn", "--json")
    fitted = works("fit", "xy.npz", *options).told
    expected = {"n_features": 4 * 4 * 128, "regularization": 1e-3, "validation_accuracy": None}
    assert fitted | expected == fitted
    result = works("info", "m.ckn", "--json").told
    (encoder,) = result["encoders"]
    assert [layer["n_parameters"] for layer in encoder["layers"]] == [1_728, 36_864, 73_728]
    shapes = [[16, 16, 64], [8, 8, 64], [4, 4, 128]]
    assert [layer["output_shape"] for layer in encoder["layers"]] == shapes
    assert encoder["preprocessing"] == []
    linear = {"name": "linear", "n_features": 2048, "classes": list(range(10)), "n_parameters": 20_490}
    assert result["classifier"] == linear
    expected = {"n_parameters": 132_810, "image_shape": [32, 32, 3], "image_type": "uint8"}
    assert result | expected == result
    assert result["file_bytes"] == (tmp_path / "m.ckn").stat().st_size
    text = works("info", "m.ckn").stdout
    assert "132,810 parameters" in text
    assert "2048 features to 10 classes" in text


def test_info_of_a_network_alone(works, network):
    text = works("info", network).stdout
    assert "classifier     none" in text
    assert "sigma=0.6" in text
    assert works("info", network, "--json").told["classifier"] is None


def test_info_says_which_epoch_a_training_chose(works, tmp_path, rng):
    labels = np.arange(20) % 2
    images = rng.integers(0, 80, (20, 8, 8, 1)) + (labels * 80)[:, None, None, None]
    np.savez(tmp_path / "xy.npz", images=images.astype(np.uint8), labels=labels)
    layer = "filters=8,patch=3,subsampling=4,sigma=0.6"
    seconds = works("fit", "xy.npz", "--end-to-end", "--epochs", "2", "--layer", layer, "-o", "m.ckn").stdout
    assert "training " in seconds
    (line,) = [line for line in works("info", "m.ckn").stdout.splitlines() if line.startswith("training")]
    assert " of 2 was chosen on 2 images held out of 20" in line
    assert "history" not in line
    (told,) = works("info", "m.ckn", "--json").told["report"]["training"]
    assert [each["epoch"] for each in told["history"]] == [0, 1, 2]


def test_backends_say_what_works_and_why_not(works):
    env = {"CUDA_VISIBLE_DEVICES": ""} if why_unavailable() is None else {}
    result = works("backends", "--json", env=env).told
    assert list(result) == ["numpy", "cupy", "reference"]
    assert result["numpy"]["works"]
    assert not result["cupy"]["works"]
    words = "pip install" if importlib.util.find_spec("cupy") is None else "--backend numpy"
    assert words in result["cupy"]["detail"]
    text = works("backends", env=env).stdout
    assert result["cupy"]["detail"] in text
    if why_unavailable() is not None:
        assert "does not work" in text


def test_baseline_fits_and_predicts(works, data, tmp_path):
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    options = ("--predict", data.npy, "-o", "s.csv", "--json")
    result = works("baseline", data.npz, *options).told
    assert result["n_features"] == 2 * 2 * 2 * 2 * 9  # cells of 4x4, blocks of 2x2 cells, 9 orientations
    assert 0 <= result["validation_accuracy"] <= 1
    assert "5-fold" in result["validation"]
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert (lines[0], len(lines)) == ("Id,Prediction", 41)
    labels = np.array([int(line.split(",")[1]) for line in lines[1:]])
    assert np.mean(labels == data.labels) > 0.25  # on its own training images


def test_baseline_refuses_half_an_output_missing_labels_and_seeds_too_large(refused, data):
    refused("baseline", data.npz, "--predict", data.npy, words=["--predict and -o go together"])
    refused("baseline", data.npy, words=["holds no labels", "--labels"])
    refused("baseline", data.npz, "--seed", 2**32, words=["--seed", "4294967296"])


@pytest.mark.parametrize("command", cli.commands)
def test_help_has_an_example(works, command):
    text = works(command, "--help").stdout
    assert f"ckn {command}" in text.partition("Example")[2]


def test_help_lists_the_commands_and_the_version(works):
    text = works("--help").stdout
    assert all(f"\n  {command} " in text for command in cli.commands)
    assert works("--version").stdout.startswith("ckn, version 0.")


def test_names_with_terminal_escapes_are_shown_not_obeyed(works, model, tmp_path):
    def change(specification, tensors):
        specification["class_names"] = ["cat\x1b[31m", "\x07dog", "‮owl"] + [f"c{i}" for i in range(7)]
        specification["report"]["\x1b]0;title\x07"] = "\x1b[2J"

    shutil.copy(model, tmp_path / "m.ckn")
    rewrite_model(tmp_path / "m.ckn", change)
    text = works("info", "m.ckn").stdout
    assert not set(text) & set("\x1b\x07‮")
    assert r"0 cat\x1b[31m, 1 \x07dog, 2 \u202eowl" in text
    assert r"\x1b[2J" in text


@pytest.mark.parametrize("what", ["pipe", "images", "labels", "matrix"])
def test_what_is_no_model_is_refused_at_once(refused, data, tmp_path, what):
    place = {"images": data.npy, "labels": data.csv, "matrix": "K.zarr", "pipe": "pipe"}[what]
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "K.zarr").mkdir()
    words = {
        "pipe": ["is a pipe, not a file"],
        "matrix": ["is a folder; a model is a file that ckn fit wrote"],
        "images": ["x.npy is no model, but images (npy): give the model first"],
        "labels": ["is no model, but images (csv): give the model first"],
    }
    refused("info", place, words=words[what])
