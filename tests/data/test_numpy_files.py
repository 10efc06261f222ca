import io
import re
import struct
import time
import zipfile
import zlib

import numpy as np
import pytest
from factories import Call

from ckncuda.data import open_images
from ckncuda.data.numpy_files import NpzSource, read_npz_labels
from ckncuda.errors import InvalidData

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (20, 5, 4, 3), np.uint8)
ARRAYS = {
    "uint8": BYTES,
    "int64": BYTES.astype(np.int64),
    "float32": RNG.standard_normal((20, 5, 4, 3)).astype(np.float32),
    "float64": RNG.standard_normal((20, 5, 4, 3)),
    "big-endian": RNG.standard_normal((20, 5, 4, 3)).astype(">f4"),
    "fortran": np.asfortranarray(RNG.standard_normal((20, 5, 4, 3))),
    "fortran grey": np.asfortranarray(BYTES[..., 0]),
    "grey": BYTES[..., 0],
}


def save(path, array, how):
    path = path.with_suffix(".npy" if how == "npy" else ".npz")
    {"npy": np.save, "npz": np.savez, "compressed": np.savez_compressed}[how](path, array)
    return path


@pytest.mark.parametrize("how", ["npy", "npz", "compressed"])
@pytest.mark.parametrize("name", ARRAYS)
def test_round_trip(tmp_path, how, name):
    array = ARRAYS[name]
    path = save(tmp_path / "x", array, how)
    expected = array if array.ndim == 4 else array[..., None]
    expected = expected.astype(np.float32 if array.dtype.kind == "f" else np.uint8)
    with open_images(path) as source:
        assert (source.shape, source.dtype) == (expected.shape, expected.dtype)
        assert path.name in source.description
        np.testing.assert_array_equal(np.concatenate(list(source.blocks(7))), expected)
        np.testing.assert_array_equal(source.read(3, 5), expected[3:5])  # backwards
        block = source.read(0, 2)
        block += 1  # the caller's own


@pytest.mark.parametrize("suffix", [".npy", ".npz", ""])
def test_content_decides_before_the_name(tmp_path, suffix):
    buffer = io.BytesIO()
    np.savez(buffer, images=BYTES)
    path = tmp_path / f"x{suffix}"
    path.write_bytes(buffer.getvalue())
    with open_images(path) as source:
        assert source.shape == BYTES.shape


@pytest.mark.parametrize("image_key", ["images", "x", "X", "data"])
@pytest.mark.parametrize("label_key", ["labels", "y", "Y"])
def test_keys(tmp_path, image_key, label_key):
    labels = np.arange(20, dtype=np.uint8)
    np.savez(tmp_path / "x.npz", **{"other": labels, label_key: labels, image_key: BYTES})
    with open_images(tmp_path / "x.npz") as source:
        np.testing.assert_array_equal(source.labels, labels)
        np.testing.assert_array_equal(source.read(0, 20), BYTES)


def test_splits(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x_train=BYTES[:15], y_train=np.arange(15), x_test=BYTES[15:], y_test=np.arange(5) + 90)
    with pytest.raises(InvalidData, match=r"both train and test.*--split train or --split test"):
        open_images(path)
    with open_images(path, split="train") as source:
        assert (source.shape[0], source.labels.tolist()) == (15, list(range(15)))
    with open_images(path, split="test") as source:
        np.testing.assert_array_equal(source.read(0, 5), BYTES[15:])
        assert source.labels[0] == 90


def test_only_one_split(tmp_path):
    np.savez(tmp_path / "x.npz", X_train=BYTES, other=BYTES)
    with open_images(tmp_path / "x.npz") as source:
        assert (source.shape, source.labels) == (BYTES.shape, None)
    with pytest.raises(InvalidData, match="no test split, only train"):
        open_images(tmp_path / "x.npz", split="test")


def test_split_is_ignored_where_there_is_none(tmp_path):
    with open_images(save(tmp_path / "x", BYTES, "npz"), split="train") as source:
        assert source.shape == BYTES.shape


@pytest.mark.parametrize(
    "arrays",
    [
        {"foo": BYTES, "bar": BYTES},
        {"images": BYTES, "x": BYTES},
        {"x": BYTES, "X": BYTES},
        {"images": BYTES, "x_train": BYTES},
        {"images": BYTES, "labels": np.arange(20), "y": np.arange(20)},
    ],
)
def test_ambiguous_keys(tmp_path, arrays):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InvalidData, match="not clear what to read; expected images") as caught:
        open_images(tmp_path / "x.npz")
    assert all(key in str(caught.value) for key in arrays)


def test_labels_that_do_not_fit(tmp_path):
    np.savez(tmp_path / "x.npz", images=BYTES, labels=np.arange(19))
    with pytest.raises(InvalidData, match="19 labels; expected 20"):
        open_images(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("how", "length", "message"),
    [
        ("npy", 0, "no array in NumPy's format, or is damaged"),
        ("npy", 4, "no array in NumPy's format, or is damaged"),
        ("npy", 20, "no array in NumPy's format, or is damaged"),
        ("npy", BYTES.nbytes // 2, "is truncated.*bytes are missing"),
        ("npy", -40, "is truncated.*bytes are missing"),
        ("npz", -200, "truncated or damaged"),
    ],
)
def test_truncated_files(tmp_path, how, length, message):
    path = save(tmp_path / "x", BYTES, how)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InvalidData, match=message):
        open_images(path, format=how)


@pytest.mark.parametrize("place", ["content", "checksum"])
@pytest.mark.parametrize("how", ["npz", "compressed"])
def test_damaged_npz(tmp_path, how, place):
    path = save(tmp_path / "x", RNG.integers(0, 256, (50, 64, 64), np.uint8), how)
    content = bytearray(path.read_bytes())
    if place == "content":
        content[len(content) // 2] ^= 0xFF
    else:
        with zipfile.ZipFile(path) as archive:
            content = content.replace(archive.infolist()[0].CRC.to_bytes(4, "little"), b"\x12\x34\x56\x78")
    path.write_bytes(content)
    with open_images(path) as source, pytest.raises(InvalidData, match="truncated or damaged"):
        list(source.blocks(6))


@pytest.mark.parametrize(
    ("change", "message"),
    [(-10, "truncated or damaged: its header announces"), (1, "more data than its header")],
)
def test_npz_whose_array_is_not_as_long_as_its_header_says(tmp_path, change, message):
    buffer = io.BytesIO()
    np.save(buffer, BYTES)
    content = buffer.getvalue() + b"\0"
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", content[: len(content) - 1 + change])
    with pytest.raises(InvalidData, match=message):
        open_images(tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_objects_are_never_unpickled(tmp_path, name):
    array = np.array([[[Call(open, str(tmp_path / "exploded"), "w")]]], object)
    save(tmp_path / name, array, name[-3:])
    with pytest.raises(InvalidData, match="pickled Python objects"):
        open_images(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_no_arrays(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(InvalidData, match="holds no arrays"):
        open_images(tmp_path / "x.npz")


@pytest.mark.parametrize("how", ["npy", "npz"])
def test_wrong_shape(tmp_path, how):
    path = save(tmp_path / "x", np.zeros((5, 3, 8, 8)), how)
    with pytest.raises(InvalidData, match=r"x.np.*channels-first"):
        open_images(path)


@pytest.mark.parametrize("images_a_block", [20, 1000])
@pytest.mark.parametrize("how", ["npz", "compressed"])
def test_npz_is_streamed(tmp_path, peak_memory, how, images_a_block):
    images = RNG.integers(0, 256, (1000, 64, 64, 3), np.uint8)  # 12 MB
    path = save(tmp_path / "x", images, how)
    with peak_memory() as peak, open_images(path) as source:
        for number, block in enumerate(source.blocks(images_a_block)):
            assert block[0, 0, 0, 0] == images[images_a_block * number, 0, 0, 0]
    # The block, and a megabyte or two of buffers; whole, the file takes 12.
    assert peak() < images.nbytes * (images_a_block / 1000 + 0.3)


def directory(count):
    names = [f"{i:06}.npy".encode() for i in range(count)]
    return b"".join(b"PK\1\2" + bytes(24) + struct.pack("<H", len(n)) + bytes(16) + n for n in names)


def ends(length, count, entries, wide=True, comment=b""):
    """Return the ends of an archive whose list of members has a length, and what else stands there."""
    longer = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, 0)
    locator = struct.pack("<4sI8sI", b"PK\6\7", 0, length.to_bytes(8, "little"), 1)
    sizes = (2**32 - 1, 2**32 - 1) if wide else (length, 0)
    end = struct.pack("<4sHH4sIIH", b"PK\5\6", 0, 0, entries, *sizes, len(comment)) + comment
    return longer * wide + locator * wide + end


@pytest.mark.parametrize(
    "how",
    [
        {"entries": b"PK\5\6", "wide": False},  # an end in the end
        {"entries": b"PK\6\6", "wide": True},  # a longer one in it
        {"entries": b"\xff" * 4, "wide": True, "comment": b"PK\6\6" + bytes(50)},
        {"entries": b"\xff" * 4, "wide": True, "comment": b"x" * 65_000},
        {"entries": bytes(4), "wide": False, "comment": b"PK\5\6"},
    ],
)
def test_a_list_of_members_that_hides_its_length_is_refused_before_it_is_read(tmp_path, how):
    listed, path = directory(170_000), tmp_path / "x.npz"
    path.write_bytes(listed + ends(len(listed), 170_000, **how))
    start = time.process_time()
    with pytest.raises(InvalidData, match=r"x\.npz lists so many members|x\.npz is truncated or damaged"):
        NpzSource(path)
    assert time.process_time() - start < 0.3


@pytest.mark.parametrize("method", [9, 12, 14, 93, 95, 98])
@pytest.mark.parametrize("key", ["images", "labels"])
def test_members_packed_in_other_ways_are_refused_at_all_doors(tmp_path, method, key):
    path = tmp_path / "x.npz"
    np.savez(path, images=np.zeros((3, 8, 8), np.uint8), labels=[0, 1, 2])
    content = bytearray(path.read_bytes())
    for found in re.finditer(rb"PK(\x01\x02|\x03\x04)", bytes(content)):
        at = found.start() + (10 if found[1] == b"\1\2" else 8)
        name = content[found.start() :][46 if found[1] == b"\1\2" else 30 :][:6]
        if bytes(name) == key.encode():
            content[at : at + 2] = method.to_bytes(2, "little")
    path.write_bytes(content)
    doors = [lambda: NpzSource(path)] + [lambda: read_npz_labels(path, 3)] * (key == "labels")
    for door in doors:
        with pytest.raises(InvalidData, match=rf"array '{key}' is packed by .*; expected deflate, or none"):
            door()


def member(name, array, at):
    """Return a member that is not packed, and what the list of members says of it."""
    file = io.BytesIO()
    np.save(file, array)
    content = file.getvalue()
    sizes = (zlib.crc32(content), len(content), len(content), len(name), 0)
    about = struct.pack("<5H3I2H", 20, 0, 0, 0, 33, *sizes)
    listed = b"PK\1\2\x14\0" + about + struct.pack("<3H2I", 0, 0, 0, 0, at) + name
    return b"PK\3\4" + about + name + content, listed


@pytest.mark.parametrize("how", ["apart", "one in the other", "the same bytes twice"])
def test_members_that_overlap_are_refused(tmp_path, how):
    """Small archives unpack to terabytes by members that share their bytes."""
    images, labels, path = np.zeros((2, 10, 30), np.uint8), np.array([1, 0]), tmp_path / "x.npz"
    inner, _ = member(b"labels.npy", labels, 0)
    if how == "one in the other":
        images.reshape(-1)[-len(inner) :] = np.frombuffer(inner, np.uint8)
    stored, first = member(b"images.npy", images, 0)
    begins = {"apart": len(stored), "one in the other": len(stored) - len(inner), "the same bytes twice": 0}
    stored += inner if how == "apart" else b""
    listed = first + member(b"labels.npy", labels, begins[how])[1]
    path.write_bytes(
        stored + listed + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 2, 2, len(listed), len(stored), 0)
    )
    if how == "apart":
        with NpzSource(path) as source:
            assert np.array_equal(source.read(0, 2)[..., 0], images)
            assert source.labels.tolist() == [1, 0]
    else:
        with pytest.raises(InvalidData, match=r"x\.npz, array 'images' overlaps another member .*or a trap"):
            NpzSource(path)
