import gzip

import numpy as np
import pytest

from ckncuda.data import open_images
from ckncuda.data.open import FORMATS
from ckncuda.errors import InvalidData


@pytest.fixture
def npy(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 6, 5, 3), np.uint8))
    return tmp_path / "x.npy"


@pytest.mark.parametrize("format", [None, *FORMATS])
def test_missing(tmp_path, format):
    with pytest.raises(InvalidData, match=r"no such file or folder: .*nowhere"):
        open_images(tmp_path / "nowhere", format=format)


def test_path_as_str(npy):
    assert len(open_images(str(npy))) == 4


def test_unknown_format(npy):
    with pytest.raises(
        InvalidData, match=r"unknown format 'hdf5'; the formats are csv.*npy, npz, cifar.*idx.*folder"
    ):
        open_images(npy, format="hdf5")


def test_unknown_split(npy):
    with pytest.raises(InvalidData, match="split 'val'; expected train or test"):
        open_images(npy, split="val")


UNKNOWN = r"cannot tell what .*x.dat holds; the formats are.*--format"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.dat", b"", UNKNOWN),
        (
            "x.dat",
            b"once upon a time, there was",
            UNKNOWN,
        ),
        ("x.dat", b"\x7fELF" + bytes(100), UNKNOWN),
        ("cat.png", b"\x89PNG\r\n\x1a\n", "one image is no data set, give the folder"),
        ("X.csv.gz", gzip.compress(b"1,2,3,4\n"), "decompress it first"),
    ],
)
def test_files_of_no_format(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidData, match=message):
        open_images(tmp_path / name)


@pytest.mark.parametrize("content", [b"1,2,3,4\n", b"\xef\xbb\xbf1,2,3,4\r\n", b"-1e-3, nan,+inf,4"])
@pytest.mark.parametrize("name", ["X", "X.csv", "X.bin"])
def test_csv_by_content(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    assert open_images(tmp_path / name, image_shape=(2, 2, 1)).shape == (1, 2, 2, 1)


@pytest.mark.parametrize("name", ["X.csv", "X.TXT"])
def test_csv_with_a_header_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"a,b,c,d\n1,2,3,4\n")
    assert open_images(tmp_path / name, image_shape=(2, 2, 1)).shape == (1, 2, 2, 1)


def test_format_overrides(tmp_path):
    (tmp_path / "X").write_bytes(b"a,b,c,d\n1,2,3,4\n")
    assert len(open_images(tmp_path / "X", format="csv", image_shape=(2, 2, 1))) == 1


@pytest.mark.parametrize("format", ["csv", "npz", "cifar", "idx", "folder"])
def test_wrong_format(npy, format):
    with pytest.raises(InvalidData, match=r"x\.npy"):
        open_images(npy, format=format)


@pytest.mark.parametrize("format", ["csv", "npy", "npz"])
def test_a_folder_where_a_file_belongs(tmp_path, format):
    with pytest.raises(InvalidData, match=r"cannot read .*directory"):
        open_images(tmp_path, format=format)


def test_image_shape_that_contradicts(npy):
    assert len(open_images(npy, image_shape=(6, 5, 3))) == 4
    with pytest.raises(InvalidData, match="6x5x3; but the image shape asked for is 5x6x3"):
        open_images(npy, image_shape=(5, 6, 3))
