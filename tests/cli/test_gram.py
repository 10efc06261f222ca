"""`ckn gram`: right, and clear about what it cannot do."""

import os
import re
import sys
import time

import numpy as np
import pytest
from gram_files import read as stored

from ckncuda import ArcCosine, Exponential, LayerSpec
from ckncuda.cli.progress import ProgressLines
from ckncuda.exact import ExactKernel, gram
from ckncuda.images.preprocess import ZCA
from ckncuda.images.preprocessed import PreprocessedImages, fit_preprocessing
from ckncuda.images.sources import ArrayImages

LAYER = "patch=3,subsampling=2,kernel=exp,sigma=0.6"
RELU = "patch=3,subsampling=3,kernel=arccos1"
SPEC = LayerSpec(filters=1, patch=3, subsampling=2, kernel=Exponential(sigma=0.6))
RELU_SPEC = LayerSpec(filters=1, patch=3, subsampling=3, kernel=ArcCosine(1))
DEFAULT = [
    LayerSpec(filters=1, patch=3, subsampling=s, kernel=Exponential(sigma=0.6), alignment="centered")
    for s in (2, 5)
]


def test_two_layers_by_default(works, data, tmp_path):
    done = works("gram", data.npy, "-o", "K.zarr", "--tile", 16, "--preprocess", "none")
    np.testing.assert_array_equal(stored(tmp_path / "K.zarr"), gram(data.images, DEFAULT, tile=16))
    assert os.listdir(tmp_path) == ["K.zarr"]
    assert done.stdout.splitlines()[-1] == "wrote K.zarr: 40 x 40, float32"
    lines = done.stderr.splitlines()
    assert "Kernel: two layers, 3x3/2 and 3x3/5, exp of sigma 0.6, centred; --layer gives others" in lines
    assert "Plan: 820 pairs of images in 6 tiles; 0 of 6 tiles are finished and verified" in lines
    assert any(
        re.match("Time: (about .+|less than a second) on this machine.*a tile", line) for line in lines
    )
    assert "Size: 6.25 KiB in K.zarr, 2 KiB a tile" in lines


def test_images_with_others_as_json(works, data, tmp_path):
    np.save(tmp_path / "others.npy", data.images[:7, ::-1])
    options = ("--layer", LAYER, "--layer", LAYER, "--preprocess", "none", "--dtype", "float64")
    images = (data.csv, "others.npy", "--image-shape", "12x12x3")
    result = works("gram", *images, "-o", "K.npy", *options, "--json").told
    expected = gram(data.images, [SPEC, SPEC], data.images[:7, ::-1], dtype=np.float64)
    np.testing.assert_array_equal(stored(tmp_path / "K.npy"), expected)
    stages = ["reading", "preprocessing", "verifying", "computing", "writing", "total"]
    assert list(result.pop("seconds")) == stages
    assert result == {
        **{"gram": "K.npy", "shape": [40, 7], "dtype": "float64", "preprocessing": []},
        **{"pairs": 280, "tiles": 1, "tiles_found": 0, "backend": "numpy"},
    }


def test_options_take_the_place_of_what_the_file_says(works, data, tmp_path):
    text = 'tangent = true\nflip = true\n[[layers]]\npatch = 3\nsubsampling = 3\nkernel = "arccos1"\n'
    (tmp_path / "net.toml").write_text(text)
    works("gram", data.npy, "-o", "K.npy", "--config", "net.toml", "--no-flip")
    kernel = ExactKernel([RELU_SPEC], tangent=True)
    np.testing.assert_array_equal(stored(tmp_path / "K.npy"), gram(data.images, kernel))


def test_preprocessing_is_learned_from_images_and_applied_to_both(works, data, tmp_path):
    np.save(tmp_path / "others.npy", data.images[:5])
    options = ("--layer", LAYER, "--preprocess", "zca,epsilon=0.5")
    works("gram", data.npy, "others.npy", "-o", "K.npy", *options)
    steps = fit_preprocessing(ArrayImages(data.images), [ZCA(0.5)])
    first, second = (PreprocessedImages(ArrayImages(data.images[:n]), steps) for n in (40, 5))
    np.testing.assert_allclose(stored(tmp_path / "K.npy"), gram(first, [SPEC], second), rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("x.npy", "-o", "K.txt"), ["K.txt", ".zarr or .npy"]),
        (("x.npy", "-o", "nowhere/K.zarr"), ["cannot write nowhere/K.zarr", "No such file"]),
        (("x.npy", "-o", "x.npy"), ["x.npy would be overwritten"]),
        (("x.npy", "missing.npy", "-o", "K.npy"), ["no such file or folder: missing.npy"]),
        (("x.npy", "small.npy", "-o", "K.npy"), ["12x12x3 and of 8x8x3", "images of one size"]),
        (("x.npy", "bytes.npy", "-o", "K.npy"), ["float32 and uint8"]),
        (("small.npy", "-o", "K.npy", "--layer", "patch=9,subsampling=2,sigma=1"), ["layer 1", "larger"]),
        (("x.npy", "-o", "K.npy", "--tangent"), ["kernel arccos1", "exp"]),
        (("x.npy", "-o", "K.npy", "--layer", "patch=3,kernel=linear"), ["subsampling"]),
        (("x.npy", "-o", "K.npy", "--config", "two.toml"), ["describes 2 encoders"]),
        (("x.npy", "-o", "K.npy", "--workers", "2", "--scheduler", "tcp://a:1"), ["give one of them"]),
        (("x.npy", "-o", "K.npy", "--scheduler", "here"), ["'here'", "tcp://host:8786"]),
        (("bad.npy", "-o", "K.npy", "--preprocess", "none"), ["bad.npy: nan in image 2"]),
    ],
)
def test_what_it_refuses(refused, data, tmp_path, arguments, words):
    np.save(tmp_path / "x.npy", data.images)
    np.save(tmp_path / "small.npy", data.images[:, :8, :8])
    np.save(tmp_path / "bytes.npy", np.zeros((3, 12, 12, 3), np.uint8))
    bad = data.images[:4].copy()
    bad[1, 0, 0, 0] = np.nan
    np.save(tmp_path / "bad.npy", bad)
    encoder = '[[encoders]]\nlayers = [{ patch = 3, subsampling = 2, kernel = "arccos1" }]\n'
    (tmp_path / "two.toml").write_text(2 * encoder)
    refused("gram", *arguments, words=words)


def test_memory_is_found_too_small_before_the_long_work(refused, data, tmp_path, monkeypatch):
    def block(self, *arguments):
        raise MemoryError("Unable to allocate 9 TiB for an array")

    monkeypatch.setattr(ExactKernel, "block", block)
    monkeypatch.setattr("ckncuda.cli.gram.fit_preprocessing", None)
    words = ["does not suffice to compare two images of 12x12x3 (Unable to allocate 9 TiB", "smaller images"]
    refused("gram", data.npy, "-o", "K.zarr", words=words)


def test_a_folder_of_somebody_else_is_not_replaced(refused, data, tmp_path):
    (tmp_path / "K.zarr").mkdir()
    (tmp_path / "K.zarr" / "cat.jpg").touch()
    refused("gram", data.npy, "-o", "K.zarr", words=["cannot write K.zarr", "no Gram matrix of ckn gram"])


OPTIONS = ("--layer", LAYER, "--preprocess", "none")


def test_what_stands_where_the_matrix_would_grow(refused, data, tmp_path):
    """What else may stand there is tested in tests/exact/on_disk."""
    (tmp_path / "A.zarr.part").touch()
    words = ["A.zarr.part, where the matrix grows until it is finished, is no folder: move it elsewhere"]
    error = refused("gram", data.npy, *OPTIONS, "-o", "A.zarr", words=words)
    assert "tiles are kept" not in error
    (tmp_path / "loop.zarr").symlink_to("loop.zarr")
    loop = ("gram", "missing.npy", *OPTIONS, "-o", "loop.zarr")  # before images are looked for
    refused(*loop, words=["cannot write loop.zarr: Too many levels of symbolic links"])


def test_images_that_are_too_large(ckn, works, data, tmp_path):
    images = data.images.copy()
    images[0] *= np.float32(1e20)
    np.save(tmp_path / "x.npy", images)
    first = ("gram", "x.npy", *OPTIONS, "-o", "H.zarr")
    done = ckn(*first, cwd=tmp_path)
    assert done.rc == 2
    assert "expected finite numbers up to 1e+16: scale the images" in done.stderr
    assert os.listdir(tmp_path) == ["x.npy"]
    np.save(tmp_path / "x.npy", images / np.float32(1e20))
    works(*first)


def test_it_says_that_another_matrix_is_replaced(works, data, tmp_path):
    first = ("gram", data.npy, *OPTIONS, "-o", "K.zarr")
    said = "Output: K.zarr holds another matrix, which is replaced when this one is finished"
    assert "holds another" not in works(*first).stderr
    assert "holds another" not in works(*first).stderr
    assert f"{said}; it differs in the kernel" in works(*first, "--flip").stderr.splitlines()
    expected = gram(data.images, ExactKernel([SPEC], flip=True))
    np.testing.assert_array_equal(stored(tmp_path / "K.zarr"), expected)


@pytest.mark.parametrize(
    ("missing", "options", "package"),
    [("zarr", (), "zarr"), ("distributed", ("--scheduler", "tls://a:1"), "dask[distributed]")],
)
def test_without_an_extra(refused, data, monkeypatch, missing, options, package):
    monkeypatch.setitem(sys.modules, missing, None)  # which fails to be imported
    refused("gram", data.npy, "-o", "K.zarr", *options, words=[f"pip install '{package}<"])


def test_time_left_off_a_terminal(capsys, monkeypatch):
    moments = iter([0.0, 30.0, 60.0, 90.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(moments))
    progress = ProgressLines()
    for done in (1000, 1500, 2000, 6000):  # the first thousand were there
        progress("Gram matrix", done, 6000)
    assert capsys.readouterr().err == "Gram matrix: 2,000 of 6,000, 4 min left\n"
