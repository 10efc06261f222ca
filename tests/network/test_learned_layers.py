"""Networks whose lowest layers have learned otherwise, such as from labels."""

import dataclasses

import numpy as np
import pytest
from factories import TWO_LAYERS, make_images, make_layer

from ckncuda import CKN, Exponential, Polynomial
from ckncuda.backend import get_backend
from ckncuda.errors import InvalidSpec


@pytest.fixture
def below(rng):
    return make_layer(3, rng)


def test_they_are_taken_as_they_are(below, rng):
    images = make_images(rng, 20, 10, 10, 3)
    network = CKN(TWO_LAYERS).fit(images, patches=300, learned=[below], backend="reference")
    assert np.array_equal(network.layers[0].anchors, below.anchors)
    assert np.array_equal(network.layers[0].projection, below.projection)
    both = CKN(TWO_LAYERS).fit(images, patches=300, learned=network.layers, backend="reference")
    for one, two in zip(both.layers, network.layers, strict=True):
        assert np.array_equal(one.anchors, two.anchors)


def test_those_above_learn_from_what_they_give(below, rng):
    images = make_images(rng, 20, 10, 10, 3)
    network = CKN(TWO_LAYERS).fit(images, patches=300, learned=[below], backend="reference")
    plain = CKN(TWO_LAYERS).fit(images, patches=300, backend="reference")
    assert not np.allclose(network.layers[1].anchors, plain.layers[1].anchors)
    again = CKN(TWO_LAYERS).fit(images, patches=300, learned=plain.layers[:1], backend="reference")
    assert np.array_equal(again.layers[1].anchors, plain.layers[1].anchors)


def test_what_decorrelates_their_outputs_is_measured_anew(below, rng):
    images = make_images(rng, 60, 10, 10, 3)
    specs = [dataclasses.replace(TWO_LAYERS[0], decorrelation=0.5), TWO_LAYERS[1]]
    network = CKN(specs).fit(images, patches=300, learned=[below], backend="reference")
    assert network.layers[0].spec.decorrelation == 0.5
    outputs = get_backend("reference").encode(images, network.layers[:1]).reshape(-1, 12)
    spread = np.linalg.eigvalsh(np.cov(outputs.T))
    plain = np.linalg.eigvalsh(np.cov(get_backend("reference").encode(images, [below]).reshape(-1, 12).T))
    assert spread[-1] / spread.mean() < plain[-1] / plain.mean()


def test_a_parameter_that_data_choose_is_theirs(below, rng):
    specs = [dataclasses.replace(TWO_LAYERS[0], kernel=Exponential(quantile=0.2)), TWO_LAYERS[1]]
    images = make_images(rng, 20, 10, 10, 3)
    network = CKN(specs).fit(images, patches=300, learned=[below], backend="reference")
    assert network.layers[0].spec.kernel == below.spec.kernel


def test_those_of_other_networks_are_refused(below, rng):
    images = make_images(rng, 20, 10, 10, 3)
    for learned, said in (
        ([below] * 3, "3 layers have learned, of a network of 2"),
        ([make_layer(1, rng)], "layer 1: anchors have 1 channels, what they are compared with has 3"),
        ([below, make_layer(4, rng, filters=16, patch=2)], "layer 2: anchors have 4 channels"),
        ([make_layer(3, rng, filters=5)], "layer 1 has learned as .*filters=5.*; this network's is"),
        ([make_layer(3, rng, kernel=Polynomial(2))], "layer 1 has learned as"),
        ([make_layer(3, rng, epsilon=0.1)], "layer 1 has learned as .*epsilon=0.1"),
        ([make_layer(3, rng, kernel=Exponential(sigma=0.7))], "layer 1 has learned as .*sigma=0.7"),
        ([None], "layers that have learned"),
    ):
        with pytest.raises(InvalidSpec, match=said):
            CKN(TWO_LAYERS).fit(images, patches=300, learned=learned, backend="reference")
