import numpy as np
import pytest

from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.given.images import first_bad, stack_of

CHANNELS_FIRST = [
    *[(c, 64, 64) for c in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 32, 63, 65, 128, 512)],
    *[(c, 48, 64) for c in (1, 2, 3, 4, 5, 8, 10, 13, 16, 32)],
    *[
        (3, 32, 32),
        (1, 28, 28),
        (3, 8, 8),
        (3, 480, 640),
        (1, 40, 12),
        (8, 480, 640),
        (13, 24, 32),
        (64, 7, 7),
    ],
    *[(64, 32, 28), (256, 14, 14), (3, 4, 4), (1, 3, 3), (2, 5, 5), (12, 100, 128), (5, 64, 256)],
]
CHANNELS_LAST = [
    *[(64, 64, c) for c in (1, 2, 3, 4, 5, 8, 10, 13, 63, 64, 65, 200, 512)],
    *[(48, 64, c) for c in (1, 2, 3, 4, 5, 8, 10, 13, 30, 200)],
    *[(3, 40, 1), (1, 40, 1), (1, 40, 3), (3, 32, 3), (4, 4, 512), (1, 1, 512), (2, 2, 64), (7, 7, 64)],
    *[(10, 20, 64), (145, 145, 200), (610, 340, 103), (480, 640, 31), (28, 28, 28), (1, 1, 1), (5, 4, 3)],
]


@pytest.mark.parametrize("shape", CHANNELS_FIRST, ids=str)
@pytest.mark.parametrize("origin", ["file", "Python"])
def test_channels_first_are_refused_with_a_way_out(shape, origin):
    with pytest.raises(InvalidData, match=r"channels-first.*images\.transpose\(0, 2, 3, 1\)") as refusal:
        stack_of((10, *shape), "x", origin=origin)
    a, b, c = shape
    said = str(refusal.value)
    if origin == "file":
        assert f"--image-shape {b}x{c}x{a} " in said
        assert f"--image-shape {a}x{b}x{c}" in said
    else:
        assert "as_images(images, layout='NCHW')" in said
    assert stack_of((10, *shape), "x", image_shape=(b, c, a)) == ((10, b, c, a), True)
    assert stack_of((10, *shape), "x", layout="NCHW") == ((10, b, c, a), True)
    assert stack_of((10, *shape), "x", layout="NHWC") == ((10, *shape), False)
    if a != c:
        assert stack_of((10, *shape), "x", image_shape=shape) == ((10, *shape), False)
    assert stack_of((10, b, c, a), "x", layout="NHWC") == ((10, b, c, a), False)


@pytest.mark.parametrize("shape", CHANNELS_LAST, ids=str)
def test_channels_last_are_read(shape):
    assert stack_of((10, *shape), "x") == ((10, *shape), False)


@pytest.mark.parametrize(
    "shape", [(32, 32, 3), (480, 640, 3), (28, 28, 1), (64, 64, 13), (480, 640, 20), (9, 9, 4)]
)
def test_one_image_is_refused_with_a_way_out(shape):
    for origin in ("file", "Python"):
        with pytest.raises(InvalidData, match=r"looks like one image.*images\[None\]"):
            stack_of(shape, "x", origin=origin)
    assert stack_of(shape, "x", image_shape=shape) == ((1, *shape), False)
    grey = (*shape[1:], 1)
    assert stack_of(shape, "x", image_shape=grey) == ((shape[0], *grey), False)


@pytest.mark.parametrize("shape", [(1000, 28, 28), (3, 8, 8), (500, 32, 8), (10, 6, 1), (20, 5, 4)])
def test_grey_images_need_no_channels(shape):
    assert stack_of(shape, "x") == ((*shape, 1), False)


@pytest.mark.parametrize("shape", [(), (3,), (10, 784), (1, 2, 3, 4, 5)])
def test_what_is_no_stack(shape):
    with pytest.raises(
        InvalidData, match=r"no stack of images.*images\.reshape\(n, height, width, channels\)"
    ):
        stack_of(shape, "x")
    with pytest.raises(InvalidData, match="four axes"):
        stack_of(shape, "x", layout="NCHW")


def test_a_layout_that_is_none():
    with pytest.raises(InvalidSpec, match="layout is 'CHWN'; expected 'NHWC'"):
        stack_of((1, 2, 3, 4), "x", layout="CHWN")


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f4", "f8", "g"])
def test_bad_numbers_are_found_in_every_type(dtype):
    block = np.zeros((3, 2, 2, 2), dtype)
    assert first_bad(block) is None
    for value in (np.nan, np.inf, -np.inf, 1e17, -1e17):
        with np.errstate(over="ignore"):
            block[1, 0, 1, 0] = value
        assert first_bad(block) == (1, 0, 1, 0)
    assert first_bad(np.full((1, 1, 1, 1), 1e16, np.float32)) is None


@pytest.mark.parametrize("dtype", ["i1", "i2", "i8", "u2", "u8", ">i4"])
def test_integers_outside_a_byte_are_found(dtype):
    block = np.zeros((3, 2, 2, 2), dtype)
    assert first_bad(block) is None
    block[2, 1, 1, 0] = -1 if "i1" in dtype else 256
    assert first_bad(block) == (2, 1, 1, 0)


@pytest.mark.parametrize(
    "shape", [(7352, 128, 9), (1000, 128, 9), (5, 500, 16), (1, 128, 9), (60, 1000, 12)], ids=str
)
def test_stacks_of_long_narrow_images_are_no_image(shape):
    """As of time series: one image of 7352 x 128 with 9 channels is nobody's."""
    assert stack_of(shape, "x").shape == (*shape, 1)


@pytest.mark.parametrize("shape", [(145, 145, 18), (610, 340, 42), (64, 100, 8), (100, 64, 8)], ids=str)
def test_one_image_of_many_channels_is_no_stack(shape):
    with pytest.raises(InvalidData, match="looks like one image"):
        stack_of(shape, "x")
