import gzip
import struct

import numpy as np
import pytest

from ckncuda.data import open_images
from ckncuda.errors import InvalidData

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (30, 7, 5), np.uint8)
LABELS = RNG.integers(0, 10, 30).astype(np.uint8)


def idx(array, kind=8):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    return header + array.tobytes()


def write(folder, name, array, gz):
    path = folder / (name + ".gz" if gz else name)
    path.write_bytes(gzip.compress(idx(array)) if gz else idx(array))
    return path


def test_magic_numbers():
    assert struct.unpack(">i", idx(IMAGES)[:4]) == (2051,)
    assert struct.unpack(">i", idx(LABELS)[:4]) == (2049,)


@pytest.mark.parametrize("images_gz", [False, True])
@pytest.mark.parametrize("labels_gz", [False, True])
@pytest.mark.parametrize("dash", ["-", "."])
def test_file_with_labels_beside(tmp_path, images_gz, labels_gz, dash):
    path = write(tmp_path, f"train-images{dash}idx3-ubyte", IMAGES, images_gz)
    write(tmp_path, f"train-labels{dash}idx1-ubyte", LABELS, labels_gz)
    with open_images(path) as source:
        assert (source.shape, source.labels.tolist()) == ((30, 7, 5, 1), LABELS.tolist())
        np.testing.assert_array_equal(np.concatenate(list(source.blocks(7)))[..., 0], IMAGES)
        np.testing.assert_array_equal(source.read(2, 4)[..., 0], IMAGES[2:4])


@pytest.mark.parametrize("gz", [False, True])
def test_channels_and_any_name(tmp_path, gz):
    images = RNG.integers(0, 256, (4, 6, 5, 3), np.uint8)
    with open_images(write(tmp_path, "pictures", images, gz)) as source:
        assert source.labels is None
        np.testing.assert_array_equal(source.read(0, 4), images)


@pytest.mark.parametrize("gz", [False, True])
def test_folder(tmp_path, gz):
    for name, part in [("train", slice(0, 20)), ("t10k", slice(20, 30))]:
        write(tmp_path, f"{name}-images-idx3-ubyte", IMAGES[part], gz)
        write(tmp_path, f"{name}-labels-idx1-ubyte", LABELS[part], gz)
    with pytest.raises(InvalidData, match="--split train or --split test"):
        open_images(tmp_path)
    with open_images(tmp_path, split="train") as source:
        np.testing.assert_array_equal(source.read(0, 20)[..., 0], IMAGES[:20])
    with open_images(tmp_path, split="test") as source:
        np.testing.assert_array_equal(source.read(0, 10)[..., 0], IMAGES[20:])
        assert source.labels.tolist() == LABELS[20:].tolist()


def test_folder_with_one_split_raw_and_gzipped(tmp_path):
    write(tmp_path, "t10k-images-idx3-ubyte", IMAGES, True)
    write(tmp_path, "t10k-images-idx3-ubyte", IMAGES, False)
    with open_images(tmp_path) as source:
        assert source.description.startswith("IDX file t10k-images-idx3-ubyte,")
    with pytest.raises(InvalidData, match="no train split, only test"):
        open_images(tmp_path, split="train")


def test_folder_with_no_data_set_and_with_several(tmp_path):
    with pytest.raises(InvalidData, match="no IDX images"):
        open_images(tmp_path, format="idx")
    write(tmp_path, "letters-train-images-idx3-ubyte", IMAGES, False)
    write(tmp_path, "digits-train-images-idx3-ubyte", IMAGES, False)
    with pytest.raises(InvalidData, match=r"more than one data set.*digits.*letters"):
        open_images(tmp_path)


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(idx(IMAGES))[:-1], r"images\.gz is truncated"),
        (gzip.compress(idx(IMAGES))[:-8], r"images\.gz is truncated"),
        (gzip.compress(idx(IMAGES))[:-400], r"images\.gz is truncated"),
        (gzip.compress(idx(IMAGES)[:-3]), "ends 3 bytes early"),
        (flipped(gzip.compress(idx(IMAGES)), -6), "damaged"),  # the checksum
        (gzip.compress(idx(IMAGES) + b"\0"), "more data than its header announces"),
    ],
)
def test_damage_that_shows_while_reading(tmp_path, content, message):
    (tmp_path / "images.gz").write_bytes(content)
    with open_images(tmp_path / "images.gz") as source, pytest.raises(InvalidData, match=message):
        list(source.blocks(10))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(IMAGES)[:10], "truncated.*again"),
        (idx(IMAGES)[:500], "truncated.*header announces 1,066"),
        (idx(IMAGES)[:-1], "truncated.*header announces 1,066"),
        (idx(IMAGES) + b"\0", "more data than its header announces"),
        (idx(IMAGES.astype(">f4"), kind=0x0D), "00 00 0d 03; expected an IDX file of unsigned bytes"),
        (idx(LABELS), "labels, not images"),
        (idx(IMAGES[0]), "2 axes"),
        (b"nonsense", "expected an IDX file"),
    ],
)
def test_files_that_hold_no_images(tmp_path, content, message):
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(InvalidData, match=message):
        open_images(tmp_path / "images", format="idx" if content == b"nonsense" else None)


def test_labels_that_do_not_fit(tmp_path):
    path = write(tmp_path, "train-images-idx3-ubyte", IMAGES, False)
    write(tmp_path, "train-labels-idx1-ubyte", LABELS[:-1], False)
    with pytest.raises(InvalidData, match="29 labels; expected 30"):
        open_images(path)
    write(tmp_path, "train-labels-idx1-ubyte", IMAGES, False)
    with pytest.raises(InvalidData, match=r"labels-idx1.*3 axes; expected labels"):
        open_images(path)


def test_streamed(tmp_path, peak_memory):
    images = RNG.integers(0, 256, (3000, 64, 64), np.uint8)  # 12 MB
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx(images), 1))
    with peak_memory() as peak, open_images(path) as source:
        total = sum(int(block.sum()) for block in source.blocks(60))
    assert total == int(images.sum())
    assert peak() < images.nbytes / 3
