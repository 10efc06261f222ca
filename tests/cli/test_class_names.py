"""Folders of images, whose classes have names."""

import shutil

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folders(tmp_path, rng):
    """Three classes that differ in brightness; a folder with two of them alone; one with another class."""
    for name, classes in (("all", ("cat", "dog", "fish")), ("other", ("bird", "dog"))):
        for kind in classes:
            folder = tmp_path / name / kind
            folder.mkdir(parents=True)
            level = {"cat": 40, "dog": 120, "fish": 200, "bird": 90}[kind]
            for i in range(12):
                pixels = rng.normal(level, 10, size=(12, 12, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    for kind in ("dog", "fish"):
        shutil.copytree(tmp_path / "all" / kind, tmp_path / "some" / kind)
    return tmp_path


def test_classes_are_matched_by_name(works, refused, folders, tiny):
    options = [o for o in tiny if o not in ("--image-shape", "12x12x3")]
    works("fit", "all", "-o", "m.ckn", *options)
    everything = works("evaluate", "m.ckn", "all", "--json").told
    assert everything["accuracy"] > 0.9
    some = works("evaluate", "m.ckn", "some", "--json").told
    assert some["correct"] == everything["confusion"][1][1] + everything["confusion"][2][2] > 12
    assert "class names    0 cat, 1 dog, 2 fish" in works("info", "m.ckn").stdout
    refused("evaluate", "m.ckn", "other", words=["does not know the classes bird", "cat, dog, fish"])


def test_labels_that_the_model_never_saw_are_said(works, data, model, tmp_path):
    np.save(tmp_path / "labels.npy", np.full(40, 77))
    done = works("evaluate", model, data.npy, "--labels", "labels.npy", "--json")
    assert done.told["accuracy"] == 0
    assert "never saw the labels 77" in done.stderr
