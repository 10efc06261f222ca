"""Shortcuts are taken where they pay: their cost and memory do not exceed what they are for."""

import time
import tracemalloc

import numpy as np
import pytest

from ckncuda.backend import get_backend
from ckncuda.backend.numpy import backend as operations
from ckncuda.backend.numpy.sketch import pays, sketch
from ckncuda.backend.numpy.winograd import G, transformed_filters
from ckncuda.images.preprocess import LocalWhitening
from ckncuda.network.anchors import spherical_kmeans

MIB = 1 << 20


def cost(function):
    """CPU seconds of a call, and the most memory that Python and NumPy held during it."""
    tracemalloc.start()
    started = time.process_time()
    function()
    seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return seconds, peak


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_few_patches_of_many_channels_are_not_sketched(rng):
    """30 images of 16x16x4 behind 512 filters: an eigendecomposition of side 4,608 for 1,920 patches."""
    patches = unit(rng.normal(size=(1920, 4608)))
    backend = get_backend("numpy", threads=1)
    backend.nearest_anchor(patches[:16], patches[:16])  # what has to be compiled is
    search = backend.anchor_search(patches)
    seconds, peak = cost(lambda: search(patches[:16]))
    assert seconds < 3
    assert peak < 100 * MIB


@pytest.mark.parametrize(
    ("n", "d", "centres", "memory", "worth"),
    [
        (100_000, 576, 1024, 2 << 30, True),
        (100_000, 576, 1024, 8 * MIB, False),  # its matrices do not fit
        (3000, 1152, 1024, 2 << 30, False),  # eigenvectors take longer than all the rest
        (100_000, 576, 64, 2 << 30, False),  # the sketch itself, of many vectors for few centres
        (300, 576, 16, 2 << 30, False),
    ],
)
def test_what_a_sketch_costs_and_spares(n, d, centres, memory, worth):
    assert pays(n, d, centres, memory) == worth


@pytest.mark.parametrize(("memory", "sketched"), [(None, [4000]), (1024 * MIB, [4000]), (64 * MIB, [])])
def test_a_search_sketches_within_its_memory(memory, sketched, rng, monkeypatch):
    """Of a memory that was given, an eighth; matrices of side 512 take 8 MiB."""
    made = []
    monkeypatch.setattr(operations, "sketch", lambda patches: made.append(len(patches)))
    patches = unit(rng.normal(size=(4000, 512)))
    get_backend("numpy", threads=1, memory=memory).anchor_search(patches)(patches[:1024])
    assert made == sketched


@pytest.mark.parametrize("compiled", [False, True])
def test_kmeans_with_and_without_a_sketch_ends_alike(compiled, rng, monkeypatch):
    if compiled:
        pytest.importorskip("numba")
    vectors = rng.normal(size=(3000, 10)) @ rng.normal(size=(10, 256))
    patches = unit(vectors + 0.6 * rng.normal(size=vectors.shape))  # not in those directions alone
    assert sketch(patches) is not None
    found = []
    for sketched in (True, False):
        monkeypatch.setattr(operations, "pays", lambda *of, sketched=sketched: sketched)
        backend = operations.NumpyBackend(threads=1, compiled=compiled)
        found.append(spherical_kmeans(patches, 20, backend, np.random.default_rng(0)))
    np.testing.assert_allclose(*found, atol=1e-6)


def test_filters_are_transformed_in_little_more_memory_than_they_take(rng):
    anchors = rng.normal(size=(600, 3, 3, 64)).astype(np.float32)
    seconds, peak = cost(lambda: transformed_filters(anchors))
    assert peak < 2 * 4 * 36 * 64 * 600
    assert seconds < 1
    expected = np.einsum("iy,jx,pyxc->ijcp", G, G, anchors.astype(np.float64)).reshape(36, 64, -1)
    np.testing.assert_allclose(transformed_filters(anchors), expected, rtol=1e-4, atol=1e-5)


def test_whitening_of_many_channels_counts_its_matrices(rng):
    """Small images of 40 channels: what takes memory is a covariance of side 360 for each."""
    images = rng.normal(size=(64, 4, 4, 40)).astype(np.float32)
    _, peak = cost(lambda: LocalWhitening().apply(images))
    assert peak < 40 * MIB
    few = LocalWhitening().apply(images[:2])
    assert np.array_equal(LocalWhitening().apply(images)[:2], few)
