import errno
import re

import numpy as np
import pytest

from ckncuda.data import feature_writer, read_labels, write_submission
from ckncuda.data.writers import FeatureWriter
from ckncuda.errors import InvalidData, InvalidSpec

FEATURES = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)


def write(path, *blocks):
    with feature_writer(path, 10, 4) as writer:
        for block in blocks:
            writer.write(block)


def test_submission(tmp_path):
    write_submission(tmp_path / "out.csv", np.array([3, 0, 9], np.uint8))
    assert (tmp_path / "out.csv").read_bytes() == b"Id,Prediction\n1,3\n2,0\n3,9\n"
    assert read_labels(tmp_path / "out.csv", 3).tolist() == [3, 0, 9]


@pytest.mark.parametrize("labels", [[0.5], [[1, 2]], [-1]])
def test_submission_refused(tmp_path, labels):
    with pytest.raises(InvalidData, match=r"predictions for .*out\.csv"):
        write_submission(tmp_path / "out.csv", labels)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".NPY"])
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4"])
def test_features(tmp_path, suffix, dtype):
    path = tmp_path / f"features{suffix}"
    write(path, *(np.asfortranarray(FEATURES[i : i + 3]).astype(dtype) for i in range(0, 10, 3)))
    loaded = np.load(path)
    loaded = loaded["features"] if suffix == ".npz" else loaded
    assert loaded.dtype == np.float32
    assert loaded.flags.c_contiguous
    np.testing.assert_array_equal(loaded, FEATURES)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("before", [None, b"what was there"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_nothing(tmp_path, suffix, before, error):
    path = tmp_path / f"features{suffix}"
    if before is not None:
        path.write_bytes(before)

    with pytest.raises(error), feature_writer(path, 10, 4) as writer:
        writer.write(FEATURES[:5])
        raise error
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([] if before is None else [before])


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize(
    ("block", "message"),
    [
        (FEATURES[:9], "9 rows of features written; expected 10"),
        (np.zeros((11, 4)), "11 rows of features; expected 10"),
        (np.zeros((10, 3)), r"shape \(10, 3\); expected \[m, 4\]"),
        (np.zeros(4), r"shape \(4,\)"),
    ],
)
def test_wrong_blocks(tmp_path, suffix, block, message):
    with pytest.raises(ValueError, match=message) as caught:
        write(tmp_path / f"features{suffix}", block)
    assert not isinstance(caught.value, InvalidData)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_full_disk(tmp_path, suffix, monkeypatch):
    def full(self, block):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FeatureWriter, "write", full)
    with pytest.raises(InvalidData, match=r"cannot write.*No space left"):
        write(tmp_path / f"features{suffix}", FEATURES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["features", "features.csv", "features.npy.gz", "nowhere/f.npy"])
def test_places_refused(tmp_path, name):
    message = "cannot write" if "/" in name else rf"{re.escape(name)}.*ending in \.npy or \.npz"
    with pytest.raises(InvalidData, match=message):
        write(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("cat", "cat"),
        ("07", "07"),
        ("-1", "-1"),
        ("=1+1", "'=1+1"),
        ("a;=1+1", '"a;\'=1+1"'),  # two cells, where a spreadsheet takes semicolons
        ('a; "@x', '"a;\' ""@x"'),
        ("a;b=1", '"a;b=1"'),
        ("+cmd", "'+cmd"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\uff1d1+1", "'\uff1d1+1"),
        (" =1+1", '"\' =1+1"'),
        ("\t=1", r"\t=1"),
        ("\r=1", r"\r=1"),
        ("a,b", '"a,b"'),
        ('a"b', '"a""b"'),
        ("a\nb", r"a\nb"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("naïve 猫", '"naïve 猫"'),
        ("b\udcff", r"b\udcff"),
    ],
)
def test_names_are_written_as_text(tmp_path, name, cell):
    """No name of a folder or file is a formula to a spreadsheet, a command to a terminal, or two cells."""
    write_submission(tmp_path / "out.csv", [1, 0], class_names=["plain", name], ids=[name, "2"])
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == f"Id,Prediction\n{cell},{cell}\n2,plain\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": ["a"]}, "label 1, but names of 1 classes"),
        ({"ids": ["a"]}, "2 predictions; expected 1"),
    ],
)
def test_names_that_are_too_few(tmp_path, options, message):
    with pytest.raises(InvalidData, match=message):
        write_submission(tmp_path / "out.csv", [0, 1], **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", [None, 3, b"x.csv", ""])
def test_what_is_no_path(path):
    with pytest.raises(InvalidSpec, match="path is .*; expected the name of a file"):
        write_submission(path, [1, 2])
    with (
        pytest.raises(InvalidSpec, match="path is .*; expected the name of a file"),
        feature_writer(path, 2, 2),
    ):
        pass
