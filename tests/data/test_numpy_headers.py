"""Headers and archives that are hostile, damaged, or not as NumPy writes them."""

import gzip
import io
import os
import struct
import time
import zipfile

import numpy as np
import pytest

from ckncuda.data import open_images, read_labels
from ckncuda.errors import InvalidData

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), np.uint8)
PIXELS = IMAGES.tobytes()
GOOD = "{'descr': '|u1', 'fortran_order': False, 'shape': (6, 5, 4, 3), }"


def npy(header, data=PIXELS, version=(1, 0), length=None):
    header = header if isinstance(header, bytes) else header.encode()
    length = len(header) if length is None else length
    return (
        b"\x93NUMPY"
        + bytes(version)
        + struct.pack("<H" if version == (1, 0) else "<I", length)
        + header
        + data
    )


def with_entry(**entries):
    """Return the good header with other entries, as they are written."""
    known = {"descr": "'|u1'", "fortran_order": "False", "shape": "(6, 5, 4, 3)"} | entries
    return "{" + ", ".join(f"'{name}': {value}" for name, value in known.items()) + "}\n"


GOOD_HEADERS = {
    "as NumPy writes it": npy(GOOD),
    "version 2": npy(GOOD, version=(2, 0)),
    "padded": npy(GOOD + " " * 500 + "\n"),
    "long integers of Python 2": npy(with_entry(shape="(6L, 5L, 4L, 3L)")),
    "another order of entries": npy("{'shape': (6,5,4,3), 'descr': \"|u1\", 'fortran_order': False}"),
    "a name of the type": npy(with_entry(descr="'uint8'")),
    "a string of bytes": npy(with_entry(descr="b'|u1'")),
}
BAD_HEADERS = {
    "nothing": b"\x93NUMPY",
    "no length": b"\x93NUMPY\1\0\x40",
    "version 3": npy(GOOD, version=(3, 0)),
    "a version that is none": b"\x93NUMPY\xff\xff" + GOOD.encode(),
    "longer than the file": npy(GOOD, length=9000),
    "longer than any": npy(GOOD, version=(2, 0), length=0xFFFFFFFF),
    "empty": npy(""),
    "no dictionary": npy("[1, 2]"),
    "brackets without an end": npy("{'descr': " + "(" * 5000),
    "brackets": npy("(" * 3000 + ")" * 3000),
    "minus signs": npy("{'shape': " + "-" * 8000 + "1}"),
    "spaces": npy("{" + " " * 9000),
    "spaces in the shape": npy("{'shape': (1" + " " * 9000),
    "spaces that are none in ASCII": npy(with_entry(shape="(6,\x1d5, 4, 3)")),
    "commas in the shape": npy(with_entry(shape="(" + "1," * 4000 + ",)")),
    "a string without an end": npy("{'descr': '|u1"),
    "a continued line": npy("{'descr': '|u1', \\"),
    "bytes that are no text": npy(
        b"{'descr': '\xff\xfe\x00', 'fortran_order': False, 'shape': (6, 5, 4, 3)}"
    ),
    "nulls": npy(b"\0" * 100),
    "a call": npy(with_entry(shape="__import__('os').getpid()")),
    "a sum": npy(with_entry(shape="(6, 5, 4, 1+2)")),
    "an entry twice": npy(GOOD.replace("}", "'shape': (1, 1, 1, 1)}")),
    "an entry too many": npy(GOOD.replace("}", "'x': 1}")),
    "an entry too few": npy("{'descr': '|u1', 'shape': (6, 5, 4, 3)}"),
    "more behind it": npy(GOOD + "{}"),
    "a number for the order": npy(with_entry(fortran_order="1")),
    "a number for the shape": npy(with_entry(shape="360")),
    "a list for the shape": npy(with_entry(shape="[6, 5, 4, 3]")),
    "a negative length": npy(with_entry(shape="(-6, -5, 4, 3)")),
    "a length with a fraction": npy(with_entry(shape="(6.0, 5, 4, 3)")),
    "lengths of hundreds of digits": npy(with_entry(shape="(" + "9" * 400 + ",)")),
    "lengths that overflow": npy(with_entry(shape="(9999999999999999999, 9999999999999999999, 4, 3)")),
    "lengths that overflow to 0": npy(with_entry(shape="(4294967296, 4294967296, 4, 3)")),
    "more axes than NumPy has": npy(with_entry(shape="(" + "1, " * 70 + ")")),
    "objects": npy(with_entry(descr="'|O'")),
    "records": npy(with_entry(descr="[('a', '|u1')]")),
    "records in records": npy(with_entry(descr="[('a', [('b', '|u1', (2, 2))])]")),
    "an array in each place": npy(with_entry(descr="('|u1', (2,))")),
    "a type with commas": npy(with_entry(descr="'u1,u1'")),
    "a type of nothing": npy(with_entry(descr="'|V0'")),
    "raw memory": npy(with_entry(descr="'|V1'")),
    "a type that is none": npy(with_entry(descr="'<f3'")),
    "a type of a gigabyte": npy(with_entry(descr="'<U268435456'")),
    "a type too large for any": npy(with_entry(descr="'<U999999999'")),
    "a type of many digits": npy(with_entry(descr="'<u" + "9" * 3000 + "'")),
    "a type with a shape": npy(with_entry(descr="'(2,2)u1'")),
    "a time": npy(with_entry(descr="'<M8[s]'", shape="(6, 5, 1, 3)")[:-1], IMAGES.tobytes() * 2),
    "strings": npy(with_entry(descr="'|S1'")),
    "complex numbers": npy(with_entry(descr="'<c8'"), IMAGES.tobytes() * 8),
}


def zipped(path, content, name="images.npy", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, content)


@pytest.mark.parametrize("name", GOOD_HEADERS)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_headers_of_other_writers_are_read(tmp_path, suffix, name):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(GOOD_HEADERS[name]) if suffix == ".npy" else zipped(path, GOOD_HEADERS[name])
    with open_images(path) as source:
        np.testing.assert_array_equal(source.read(0, 6), IMAGES)


@pytest.mark.parametrize("name", BAD_HEADERS)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_headers_that_are_hostile_are_refused_at_once(tmp_path, suffix, name):
    path, start = tmp_path / f"x{suffix}", time.perf_counter()
    path.write_bytes(BAD_HEADERS[name]) if suffix == ".npy" else zipped(path, BAD_HEADERS[name])
    for read in (open_images, lambda path: read_labels(path, 6)):
        with pytest.raises(InvalidData, match=r"x\.np"):
            read(path)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_that_unpack_bytes_to_gigabytes_are_refused(tmp_path, compression):
    zipped(tmp_path / "x.npz", npy(GOOD), compression=compression)
    for read in (open_images, lambda path: read_labels(path, 6)):
        with pytest.raises(
            InvalidData, match=r"packed by (bzip2|lzma); .*save it again by numpy.savez_compressed"
        ):
            read(tmp_path / "x.npz")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("place", [0.3, 0.5, 0.9])
def test_members_of_every_compression_that_are_damaged(tmp_path, compression, place):
    noise = np.random.default_rng(0).integers(0, 256, (50, 32, 32), np.uint8)
    buffer = io.BytesIO()
    np.save(buffer, noise)
    zipped(tmp_path / "x.npz", buffer.getvalue(), compression=compression)
    with open_images(tmp_path / "x.npz") as source:
        np.testing.assert_array_equal(source.read(0, 50)[..., 0], noise)
    content = bytearray((tmp_path / "x.npz").read_bytes())
    middle = int(len(content) * place)
    content[middle : middle + 8] = b"\xff" * 8
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(InvalidData, match=r"x\.npz"), open_images(tmp_path / "x.npz") as source:
        list(source.blocks(10))


def changed(path, change):
    """Write an archive of IMAGES with other bytes: pairs of what to look for, and what to put there."""
    np.savez(path, images=IMAGES)
    content = path.read_bytes()
    for old, new in change:
        assert old in content
        content = content.replace(old, new)
    path.write_bytes(content)


CENTRAL, LOCAL = b"PK\1\2\x2d\3\x2d\0", b"PK\3\4\x2d\0"


@pytest.mark.parametrize(
    "change",
    [
        [(CENTRAL + b"\0\0\0\0", CENTRAL + b"\1\0\0\0")],  # encrypted
        [(CENTRAL + b"\0\0\0\0", CENTRAL + b"\0\0\x63\0")],  # a compression of nobody
        [(CENTRAL + b"\0\0\0\0", CENTRAL + b"\x20\0\0\0")],  # a patch
        [(CENTRAL, b"PK\1\2\x2d\3\xff\0")],  # of a later version
        [(LOCAL, b"PK\7\7\x2d\0")],  # no header where there should be one
        [(b"images.npy", b"image\xff.npy")],
        [(b"PK\5\6\0\0\0\0\1\0\1\0", b"PK\5\6\1\0\1\0\1\0\1\0")],  # of many disks
        [(b"PK\5\6\0\0\0\0\1\0\1\0", b"PK\5\6\0\0\0\0\xff\xff\xff\xff")],
    ],
    ids=["encrypted", "unknown", "patched", "later", "no header", "another name", "disks", "more"],
)
def test_archives_that_are_not_as_they_should_be(tmp_path, change):
    changed(tmp_path / "x.npz", change)
    try:
        with open_images(tmp_path / "x.npz") as source:
            np.testing.assert_array_equal(source.read(0, 6), IMAGES)
    except InvalidData as error:
        assert "x.npz" in str(error)  # noqa: PT017 -- either is right: some of these are not read at all


def test_archives_whose_members_overlap_or_are_named_alike(tmp_path):
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=np.arange(6))
    content = (tmp_path / "x.npz").read_bytes()
    second = content.rindex(b"PK\3\4")
    place = content.index(struct.pack("<I", second), content.index(b"PK\1\2"))
    (tmp_path / "y.npz").write_bytes(content[:place] + struct.pack("<I", 0) + content[place + 4 :])
    with pytest.raises(InvalidData, match=r"y\.npz"):
        open_images(tmp_path / "y.npz")
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as archive:
        archive.writestr("images.npy", npy(GOOD))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("images.npy", npy(GOOD, bytes(IMAGES.size)))
    with pytest.raises(InvalidData, match="two arrays named 'images'"):
        open_images(tmp_path / "z.npz")


def test_a_few_of_many_names_are_shown_and_none_is_obeyed(tmp_path):
    names = [f"\x1b[31mred {i}" for i in range(300)]
    np.savez(tmp_path / "x.npz", **{name: IMAGES for name in names})
    for read in (open_images, lambda path: read_labels(path, 6)):
        with pytest.raises(InvalidData, match=r"\\x1b\[31mred 0, .* and 295 more") as refusal:
            read(tmp_path / "x.npz")
        assert "\x1b" not in str(refusal.value)
        assert len(str(refusal.value)) < 500


@pytest.mark.parametrize("how", ["npy", "npz", "npz labels", "npy labels"])
def test_what_is_saved_behind_an_array_is_not_passed_over(tmp_path, how):
    buffer = io.BytesIO()
    array = np.arange(6) if "labels" in how else IMAGES
    np.save(buffer, array)
    np.save(buffer, array[::-1])
    path = tmp_path / f"x.{how[:3]}"
    path.write_bytes(buffer.getvalue()) if how[:3] == "npy" else zipped(path, buffer.getvalue())
    with pytest.raises(InvalidData, match="more than one array was saved into it"):
        read_labels(path, 6) if "labels" in how else open_images(path)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", ">f4", "f8", ">i2", "?"])
@pytest.mark.parametrize("window", [0, 1 << 12, 1 << 20])
def test_every_order_and_type_is_read_block_by_block(tmp_path, monkeypatch, order, dtype, window):
    monkeypatch.setattr("ckncuda.data.positional.PositionalFile.window", window)
    monkeypatch.setattr("ckncuda.data.positional.ForwardStream.window", window)
    images = np.asarray(np.random.default_rng(0).integers(0, 2, (23, 5, 4, 3)), dtype, order=order)
    np.save(tmp_path / "x.npy", images)
    np.savez_compressed(tmp_path / "x.npz", images=images)
    for name in ("x.npy", "x.npz"):
        with open_images(tmp_path / name) as source:
            np.testing.assert_array_equal(np.concatenate(list(source.blocks(4))), images)
            np.testing.assert_array_equal(source.read(3, 9), images[3:9])
            block = source.read(3, 9)
            block += 1
            np.testing.assert_array_equal(source.read(3, 9), images[3:9])


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_file_that_shrinks_while_it_is_read(tmp_path, order, monkeypatch):
    monkeypatch.setattr("ckncuda.data.positional.PositionalFile.window", 1 << 14)
    images = np.asarray(np.random.default_rng(0).normal(size=(400, 8, 8, 3)), np.float32, order=order)
    np.save(tmp_path / "x.npy", images)
    with open_images(tmp_path / "x.npy") as source:
        source.read(0, 10)
        os.truncate(tmp_path / "x.npy", 20_000)
        with pytest.raises(InvalidData, match=r"x\.npy has become shorter while it was read"):
            list(source.blocks(100))


def test_an_archive_that_shrinks_while_it_is_read(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (400, 32, 32), np.uint8)
    np.savez_compressed(tmp_path / "x.npz", images=images)
    with open_images(tmp_path / "x.npz") as source:
        source.read(0, 1)
        os.truncate(tmp_path / "x.npz", 50_000)
        with pytest.raises(InvalidData, match=r"x\.npz is truncated or damaged"):
            list(source.blocks(100))


@pytest.mark.parametrize("how", ["C", "F", "npz", "npz of F"])
def test_several_threads_read_one_source(tmp_path, how):
    from concurrent.futures import ThreadPoolExecutor

    images = np.random.default_rng(0).integers(0, 256, (200, 16, 16, 3), np.uint8)
    images = np.asfortranarray(images) if "F" in how else images
    path = tmp_path / ("x.npz" if "npz" in how else "x.npy")
    (np.savez_compressed if "npz" in how else np.save)(path, images)
    with open_images(path) as source, ThreadPoolExecutor(8) as pool:
        starts = [int(start) for start in np.random.default_rng(1).integers(0, 190, 64)]
        for start, block in zip(
            starts, pool.map(lambda start: source.read(start, start + 10), starts), strict=True
        ):
            np.testing.assert_array_equal(block, images[start : start + 10])


def test_without_preadv_as_on_windows(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "preadv")
    np.save(tmp_path / "x.npy", IMAGES)
    with open_images(tmp_path / "x.npy") as source:
        np.testing.assert_array_equal(np.concatenate(list(source.blocks(4))), IMAGES)
        os.truncate(tmp_path / "x.npy", 200)
        with pytest.raises(InvalidData, match="has become shorter"):
            source.read(2, 6)


@pytest.mark.parametrize("how", ["npy", "npz", "idx", "idx.gz"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_shape_of_an_image_says_which_axis_is_what(tmp_path, how, order):
    first = np.asarray(np.random.default_rng(0).integers(0, 256, (9, 13, 8, 16), np.uint8), order=order)
    path = tmp_path / f"x.{how}"
    if "idx" in how:
        content = struct.pack(">4B4I", 0, 0, 8, 4, *first.shape) + first.tobytes()
        path.write_bytes(gzip.compress(content) if "gz" in how else content)
    else:
        (np.save if how == "npy" else np.savez_compressed)(path, first)
    with open_images(path, image_shape=(8, 16, 13)) as source:
        assert source.shape == (9, 8, 16, 13)
        np.testing.assert_array_equal(np.concatenate(list(source.blocks(4))), first.transpose(0, 2, 3, 1))
        np.testing.assert_array_equal(source.read(2, 3), first.transpose(0, 2, 3, 1)[2:3])
    with open_images(path, image_shape=(13, 8, 16)) as source:
        np.testing.assert_array_equal(source.read(0, 9), first)
    with pytest.raises(InvalidData, match="the image shape asked for is 8x8x2"):
        open_images(path, image_shape=(8, 8, 2))


@pytest.mark.parametrize("order", ["C", "F"])
def test_one_image_is_a_stack_of_one_where_its_shape_is_said(tmp_path, order):
    image = np.asarray(np.random.default_rng(0).integers(0, 256, (20, 18, 3), np.uint8), order=order)
    np.save(tmp_path / "x.npy", image)
    with pytest.raises(InvalidData, match=r"looks like one image.*images\[None\]"):
        open_images(tmp_path / "x.npy")
    with open_images(tmp_path / "x.npy", image_shape=(20, 18, 3)) as source:
        np.testing.assert_array_equal(source.read(0, 1)[0], image)
