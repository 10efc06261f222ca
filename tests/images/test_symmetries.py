"""Averages over mirror images and shifts."""

import re

import numpy as np
import pytest
from factories import make_layer
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ckncuda import Symmetries
from ckncuda.backend import get_backend
from ckncuda.errors import InvalidSpec
from ckncuda.images.symmetries import MOST

SYMMETRIES = st.builds(Symmetries, flip=st.booleans(), shift=st.integers(0, MOST))
SHAPES = st.tuples(*(st.integers(1, most) for most in (3, 5, 5, 2)))
IMAGES = SHAPES.flatmap(
    lambda shape: arrays.arrays(np.float64, shape, elements=st.floats(-4, 4, allow_subnormal=False))
)


def maps(variants):
    """Each variant of one image of one channel as lists."""
    return [variant[0, :, :, 0].tolist() for variant in variants]


def test_variants_by_hand():
    image = np.arange(1.0, 7.0).reshape(1, 2, 3, 1)
    assert maps(Symmetries().variants(image)) == [[[1, 2, 3], [4, 5, 6]]]
    assert maps(Symmetries(flip=True).variants(image)) == [[[1, 2, 3], [4, 5, 6]], [[3, 2, 1], [6, 5, 4]]]
    shifts = [
        [[1, 2, 3], [4, 5, 6]],
        [[0, 0, 0], [1, 2, 3]],  # down
        [[4, 5, 6], [0, 0, 0]],  # up
        [[0, 1, 2], [0, 4, 5]],  # right
        [[2, 3, 0], [5, 6, 0]],  # left
    ]
    assert maps(Symmetries(shift=1).variants(image)) == shifts
    both = [each for shift in shifts for each in (shift, [row[::-1] for row in shift])]
    assert maps(Symmetries(flip=True, shift=1).variants(image)) == both


def test_a_shift_by_two_and_images_and_channels_each_for_themselves(rng):
    images = rng.normal(size=(3, 4, 5, 2))
    _, down, up, right, left = Symmetries(shift=2).variants(images)
    assert np.array_equal(down[:, 2:], images[:, :2])
    assert np.array_equal(up[:, :2], images[:, 2:])
    assert np.array_equal(right[:, :, 2:], images[:, :, :3])
    assert np.array_equal(left[:, :, :3], images[:, :, 2:])
    assert not any((down[:, :2].any(), up[:, 2:].any(), right[:, :, :2].any(), left[:, :, 3:].any()))


def test_a_shift_beyond_the_image_leaves_zeros():
    variants = Symmetries(shift=3).variants(np.ones((2, 3, 5, 1), np.float32))  # same, down, up, right, left
    assert [variant.sum() for variant in variants] == [2 * 3 * 5, 0, 0, 2 * 3 * 2, 2 * 3 * 2]


@given(symmetries=SYMMETRIES, images=IMAGES)
def test_there_are_as_many_variants_as_said_and_the_first_is_the_image(symmetries, images):
    variants = list(symmetries.variants(images))
    assert len(variants) == len(symmetries)
    assert np.array_equal(variants[0], images)
    assert all(variant.shape == images.shape and variant.dtype == images.dtype for variant in variants)


@given(symmetries=SYMMETRIES, images=IMAGES)
def test_nothing_writes_into_the_images(symmetries, images):
    before = images.copy()
    average = symmetries.average(lambda block: block, images)
    assert np.array_equal(images, before)
    expected = sum(variant.copy() for variant in symmetries.variants(images)) / len(symmetries)
    np.testing.assert_allclose(average, expected, atol=1e-15)


@given(symmetries=SYMMETRIES, images=IMAGES)
def test_a_constant_is_its_own_average(symmetries, images):
    constant = np.full((len(images), 2), 3.0)
    np.testing.assert_allclose(symmetries.average(lambda block: constant, images), constant)
    assert (constant == 3).all()


@given(images=IMAGES)
def test_without_symmetries_a_function_is_asked_once_for_the_images_themselves(images):
    assert Symmetries(flip=False, shift=0).average(lambda block: block, images) is images


@given(images=IMAGES, shift=st.integers(0, 3))
def test_an_average_over_the_mirror_image_is_the_mirror_images(images, shift):
    symmetries = Symmetries(flip=True, shift=shift)
    weights = np.arange(images[0].size, dtype=float).reshape(images.shape[1:])  # tells left from right

    def function(block):
        return np.square((block * weights).sum(axis=(1, 2, 3)) + 1)

    np.testing.assert_allclose(
        symmetries.average(function, images), symmetries.average(function, images[:, :, ::-1]), rtol=1e-12
    )


@given(seed=st.integers(0, 1000))
def test_features_of_a_network_cannot_tell_an_image_from_its_mirror_image(seed):
    rng = np.random.default_rng(seed)
    layer = make_layer(2, rng)
    backend = get_backend("reference")
    images = rng.normal(size=(2, 6, 5, 2))
    mirrored = images[:, :, ::-1]

    def features(block):
        return backend.encode(block, [layer])

    symmetries = Symmetries(flip=True, shift=1)
    found, expected = symmetries.average(features, mirrored), symmetries.average(features, images)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.abs(features(mirrored) - features(images)).max() > 1e-3


def test_options_are_what_a_file_holds():
    symmetries = Symmetries(flip=True, shift=2)
    assert symmetries.to_dict() == {"flip": True, "shift": 2}
    assert Symmetries(**symmetries.to_dict()) == symmetries


BAD = [("flip", value, "true or false") for value in (1, 0, None, "yes", 1.0)]
BAD += [("shift", n, "a whole number of pixels from 0 (none) to 16") for n in (-1, 17, 1.0, True, "1", None)]


@pytest.mark.parametrize(("name", "value", "expected"), BAD)
def test_a_flip_is_true_or_false_and_a_shift_a_few_pixels(name, value, expected):
    with pytest.raises(InvalidSpec, match=re.escape(f"{name} is {value!r}; expected {expected}")):
        Symmetries(**{name: value})
