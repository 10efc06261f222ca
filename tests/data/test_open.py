import gzip

import numpy as np
import PIL.Image
import pytest

from ckncuda.data import open_images, read_labels
from ckncuda.data.open import FORMATS
from ckncuda.errors import InvalidData, InvalidSpec


@pytest.mark.parametrize("format", [None, *FORMATS])
def test_missing(tmp_path, format):
    with pytest.raises(InvalidData, match=r"no such file or folder: .*nowhere"):
        open_images(tmp_path / "nowhere", format=format)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "hdf5"}, r"unknown format 'hdf5'; the formats are csv.*npy, npz, cifar.*idx.*folder"),
        ({"split": "val"}, "split 'val'; expected train or test"),
        ({"image_shape": (5, 6, 3)}, "6x5x3; but the image shape asked for is 5x6x3"),
        *(({"format": other}, r"x\.npy") for other in ("csv", "npz", "cifar", "idx", "folder")),
    ],
)
def test_options_that_do_not_fit_the_file(tmp_path, options, message):
    npy = tmp_path / "x.npy"
    np.save(npy, np.zeros((4, 6, 5, 3), np.uint8))
    assert len(open_images(str(npy), image_shape=(6, 5, 3))) == 4
    with pytest.raises(InvalidData, match=message):
        open_images(npy, **options)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        *((path, "path is .*; expected the name of a file") for path in (None, 3, b"x", ["x.npy"])),
        (np.zeros((3, 8, 8)), "path is an array"),
        (np.ndarray, "path is the class ndarray"),
        ("", "path is ''; expected the name of a file"),
        ("https://example.org/x.npy", "https://example.org/x.npy is an address; .*download it first"),
        ("s3://bucket/x.npy", "is an address"),
        ("a\0b", r"path is 'a\\x00b'; expected the name of a file"),
        ("x" * 5000, "cannot read x+: File name too long"),
        ("nowhere", "no such file or folder: nowhere"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_path(path, message):
    for call in (open_images, lambda path: read_labels(path, 3)):
        with pytest.raises((InvalidSpec, InvalidData), match=message):
            call(path)


@pytest.mark.parametrize(
    "shape", [32, "32x32", (32, 32), (32, 32, 0), (32, 32, 2.5), (32, 32, None), ("32", 32, 3)]
)
def test_what_is_no_image_shape(tmp_path, shape):
    np.save(tmp_path / "x.npy", np.zeros((4, 6, 5, 3), np.uint8))
    with pytest.raises(InvalidSpec, match="expected height, width and channels, such as"):
        open_images(tmp_path / "x.npy", image_shape=shape)
    for same in ((6, 5, 3), [6, 5, 3], np.array([6, 5, 3]), (np.int64(6), 5, 3)):
        assert open_images(tmp_path / "x.npy", image_shape=same).shape == (4, 6, 5, 3)


@pytest.mark.parametrize("n", [None, "2", 2.0, -1])
def test_what_is_no_number_of_images(tmp_path, n):
    np.save(tmp_path / "y.npy", [1, 2])
    with pytest.raises(InvalidSpec, match="n_images is .*whole number"):
        read_labels(tmp_path / "y.npy", n)


UNKNOWN = r"cannot tell what .*x.dat holds; the formats are.*--format"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.dat", b"", "x.dat is empty"),
        ("x.csv", b"", "x.csv is empty"),
        ("x.dat", b"once upon a time, there was", UNKNOWN),
        ("x.dat", b"\x7fELF" + bytes(100), UNKNOWN),
        ("cat.png", b"\x89PNG\r\n\x1a\n", r"cannot read the image .*cat\.png"),
        ("X.csv.gz", gzip.compress(b"1,2,3,4\n", mtime=0), "decompress it first"),
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


@pytest.mark.parametrize(("name", "format"), [("X.csv", None), ("X.TXT", None), ("X", "csv")])
def test_csv_with_a_header_by_name_or_by_format(tmp_path, name, format):
    (tmp_path / name).write_bytes(b"a,b,c,d\n1,2,3,4\n")
    assert open_images(tmp_path / name, format=format, image_shape=(2, 2, 1)).shape == (1, 2, 2, 1)


@pytest.mark.parametrize("format", ["csv", "npy", "npz"])
def test_a_folder_where_a_file_belongs(tmp_path, format):
    with pytest.raises(InvalidData, match=r"cannot read .*directory|is a folder, not a file"):
        open_images(tmp_path, format=format)


@pytest.mark.parametrize("name", ["a\u200bb", "a\x1b[31m", "a\nb"])
@pytest.mark.parametrize("kind", ["csv", "npy", "npz", "bin", "png", "idx"])
def test_files_whose_names_a_terminal_would_obey_are_read(tmp_path, name, kind):
    """Names are escaped in messages; a file is opened by the name that it has."""
    pixels, path = np.arange(3072, dtype=np.uint8).reshape(1, 32, 32, 3), tmp_path / f"{name}.{kind}"
    if kind == "csv":
        path.write_text(",".join(map(str, pixels.ravel().tolist())) + "\n")
    elif kind == "npy":
        np.save(path, pixels)
    elif kind == "npz":
        np.savez(path, images=pixels)
    elif kind == "bin":
        path.write_bytes(b"\7" + pixels.tobytes())
    elif kind == "png":
        PIL.Image.fromarray(pixels[0]).save(path)
    else:
        path.write_bytes(np.array([2051, 1, 32, 32], ">i4").tobytes() + pixels.tobytes()[:1024])
    with open_images(path) as source:
        assert source.read(0, 1).shape[:3] == (1, 32, 32)
        assert source.description.isprintable()
