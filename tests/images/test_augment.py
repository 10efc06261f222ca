import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckncuda.errors import InvalidSpec
from ckncuda.images.augment import Augmentation

AUGMENTATIONS = st.builds(Augmentation, flip=st.booleans(), crop=st.integers(0, 4), cutout=st.integers(0, 4))


def numbered(n, height, width, channels=2):
    """Images of which no two numbers are the same, none of them zero."""
    count = n * height * width * channels
    return np.arange(1, count + 1, dtype=np.float32).reshape(n, height, width, channels)


@given(AUGMENTATIONS)
def test_an_augmentation_is_what_its_text_and_its_plain_data_say(augmentation):
    assert Augmentation.from_dict(augmentation.to_dict()) == augmentation
    parts = ["flip"] if augmentation.flip else []
    parts += [
        f" {name} = {value}" for name, value in augmentation.to_dict().items() if name != "flip" and value
    ]
    assert Augmentation.from_text(",".join(parts) or " none ") == augmentation


@given(AUGMENTATIONS, st.integers(0, 1000))
def test_changes_are_of_copies_and_follow_from_the_seed(augmentation, seed):
    images = numbered(5, 7, 9)
    before = images.copy()
    one, again, other = (augmentation.apply(images, np.random.default_rng(s)) for s in (seed, seed, seed + 1))
    assert np.array_equal(images, before)
    assert one.shape == images.shape
    assert one.dtype == np.float32
    assert np.array_equal(one, again)
    assert (one is images) == (augmentation == Augmentation())
    if augmentation.crop > 1:
        assert not np.array_equal(one, other)


def test_half_of_the_images_are_mirrored():
    images = numbered(2000, 2, 3)
    flipped = Augmentation(flip=True).apply(images, np.random.default_rng(0))
    mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert ((flipped == images).all(axis=(1, 2, 3)) ^ mirrored).all()
    assert 0.46 < mirrored.mean() < 0.54  # 3.6 standard deviations


@given(st.integers(1, 4), st.integers(0, 1000))
def test_crops_are_moved_images_with_zeros_moving_in(margin, seed):
    images = numbered(4, 5, 6)
    moved = Augmentation(crop=margin).apply(images, np.random.default_rng(seed))
    for image, found in zip(images, moved, strict=True):
        ways = [(y, x) for y in range(-margin, margin + 1) for x in range(-margin, margin + 1)]
        assert any(np.array_equal(found, shifted(image, *way)) for way in ways)


def shifted(image, down, right):
    """Return an image moved by so many pixels, zeros where it was not."""
    result = np.zeros_like(image)
    height, width, _ = image.shape
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                result[y, x] = image[y - down, x - right]
    return result


def test_every_place_of_a_crop_is_as_likely():
    images = numbered(1, 5, 5, 1)
    rng, found = np.random.default_rng(0), {}
    for _ in range(900):
        key = Augmentation(crop=1).apply(images, rng).tobytes()
        found[key] = found.get(key, 0) + 1
    assert len(found) == 9
    assert min(found.values()) > 60  # of 100, four standard deviations below


@given(st.integers(1, 5), st.integers(0, 1000))
def test_a_square_is_hidden_whose_centre_is_in_the_image(side, seed):
    images = numbered(6, 6, 8)
    hidden = Augmentation(cutout=side).apply(images, np.random.default_rng(seed))
    for image, found in zip(images, hidden, strict=True):
        gone = (found == 0).all(axis=2)
        assert np.array_equal(found[~gone], image[~gone])
        rows, columns = np.flatnonzero(gone.any(axis=1)), np.flatnonzero(gone.any(axis=0))
        assert gone.sum() == len(rows) * len(columns)  # a rectangle, the square as far as it is inside
        for found_, size in ((rows, 6), (columns, 8)):
            whole = found_[0] > 0 and found_[-1] < size - 1
            assert len(found_) == side if whole else side // 2 <= len(found_) <= side


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mirror", "'mirror' is not understood"),
        ("flip,flip", "'flip' is not understood"),
        ("flip=1", "'flip=1' is not understood"),
        ("crop", "'crop' is not understood"),
        ("crop=", "crop is ''"),
        ("crop=-1", "crop is '-1'"),
        ("crop=1.5", "crop is '1.5'"),
        ("cutout=" + "9" * 5000, "cutout is '999"),
        ("none,flip", "'none' is not understood"),
    ],
)
def test_texts_that_say_nothing(text, said):
    with pytest.raises(InvalidSpec) as refused:
        Augmentation.from_text(text)
    assert said in str(refused.value)
    assert "such as flip,crop=4,cutout=8, or none" in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"flip": "yes"}, "flip is 'yes'"),
        ({"crop": -1}, "crop is -1; expected a whole number of pixels"),
        ({"cutout": 2.5}, "cutout is 2.5"),
        ({"crop": True}, "crop is True"),
        ({"rotate": 10}, "no rotate; it has flip, crop, cutout"),
        ([], "expected a table such as"),
    ],
)
def test_options_out_of_range(options, said):
    with pytest.raises(InvalidSpec) as refused:
        Augmentation.from_dict(options)
    assert said in str(refused.value)


@pytest.mark.parametrize("name", ["crop", "cutout"])
def test_images_that_are_too_small_are_refused(name):
    augmentation = Augmentation.from_dict({name: 8})
    augmentation.check((9, 12, 3))
    with pytest.raises(InvalidSpec, match=f"{name} is 8 pixels, of images of 12x8; it must be less than 8"):
        augmentation.check((12, 8, 3))
