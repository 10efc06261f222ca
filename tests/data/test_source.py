import numpy as np
import pytest

import ckncuda.data
from ckncuda.data import ArraySource, ImageSource
from ckncuda.data.source import check_labels
from ckncuda.errors import InvalidData


def test_public_names():
    assert all(hasattr(ckncuda.data, name) for name in ckncuda.data.__all__)


def test_attributes_and_blocks():
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 5, 3), np.uint8)
    with ArraySource(images, labels=range(10)) as source:
        assert isinstance(source, ImageSource)
        assert (source.shape, len(source), source.dtype) == ((10, 4, 5, 3), 10, np.uint8)
        assert (source.labels.dtype, source.labels.tolist()) == (np.int64, list(range(10)))
        assert source.class_names is None
        assert "10 images of 4x5x3" in source.description
        blocks = list(source.blocks(4))
    assert [len(block) for block in blocks] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(blocks), images)


@pytest.mark.parametrize("given", ["f2", "f4", ">f4", "f8", "u1", "i8", ">u2", "?"])
def test_delivered_dtypes(given):
    images = np.array([[[0, 1], [1, 0]]], given)
    source = ArraySource(images)
    block = source.read(0, 1)
    assert source.dtype == block.dtype == (np.float32 if "f" in given else np.uint8)
    np.testing.assert_array_equal(block[..., 0], images)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", "f4", "f8"])
def test_a_block_is_contiguous_and_the_callers_own(order, dtype):
    images = np.zeros((6, 3, 4, 3), dtype, order=order)
    block = ArraySource(images).read(1, 3)
    assert block.flags.c_contiguous
    block += 1
    assert not images.any()


def test_ranges():
    source = ArraySource(np.zeros((5, 2, 2)))
    assert source.read(3, 3).shape == (0, 2, 2, 1)
    for start, stop in [(-1, 2), (3, 2), (0, 6)]:
        with pytest.raises(IndexError):
            source.read(start, stop)
    with pytest.raises(ValueError, match="at least one"):
        next(source.blocks(0))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_not_finite(value):
    images = np.zeros((9, 4, 5, 3))
    images[6, 1, 3, 2] = value
    source = ArraySource(images)
    assert len(source.read(0, 6)) == 6
    with pytest.raises(InvalidData, match=r"image 7 \(row 2, column 4, channel 3\).*finite"):
        source.read(5, 9)


@pytest.mark.parametrize(("dtype", "value"), [("i4", 256), ("i2", -1), ("u2", 65535)])
def test_integers_outside_a_byte(dtype, value):
    images = np.zeros((9, 4, 5, 3), dtype)
    images[6, 1, 3, 2] = value
    source = ArraySource(images)
    with pytest.raises(InvalidData, match=rf"{value} in image 7 .*0\.\.255"):
        source.read(5, 9)


@pytest.mark.parametrize("dtype", ["c8", "U3", "M8[s]", object])
def test_pixels_that_are_no_numbers(dtype):
    with pytest.raises(InvalidData, match="pixels are of type"):
        ArraySource(np.zeros((2, 3, 3), dtype))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((10, 3, 32, 32), "channels-first.*transpose"),
        ((10, 1, 28, 28), "channels-first"),
        ((32, 32, 3), "one image"),
        ((10, 3072), "no stack of images"),
        ((2, 2, 2, 2, 2), "no stack of images"),
        ((0, 8, 8, 3), "holds no images"),
    ],
)
def test_shapes_refused(shape, message):
    with pytest.raises(InvalidData, match=message):
        ArraySource(np.zeros(shape, np.uint8))


def test_many_channels_last_are_allowed():
    assert ArraySource(np.zeros((2, 8, 8, 64))).shape == (2, 8, 8, 64)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2], "2 labels; expected 3"),
        ([0.0, 1.5, 2.0], "label 1.5 of image 2; expected whole numbers"),
        ([1, -2, 3], "label -2 of image 2"),
        ([[1, 2, 3]], "one axis"),
        (np.array([1, 2, 2**63], np.uint64), "64 bits"),
    ],
)
def test_labels_refused(labels, message):
    with pytest.raises(InvalidData, match=message):
        ArraySource(np.zeros((3, 2, 2)), labels)


def test_a_column_of_labels():
    assert check_labels(np.array([[5], [6]]), 2, "y").tolist() == [5, 6]
