"""Every operation on every backend against `backend/reference.py`."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckncuda import (
    ArcCosine,
    Exponential,
    InversePolynomial,
    Layer,
    LayerSpec,
    Linear,
    Polynomial,
    Series,
    conventions,
)
from ckncuda.backend import get_backend
from ckncuda.backend import numpy as numpy_backend
from ckncuda.errors import InvalidSpec

# Norm of the difference over the norm of the reference, by backend.
TOLERANCE = {"numpy": 2e-5}

KERNELS = [
    Exponential(sigma=0.6),
    Polynomial(2),
    Polynomial(3, offset=1.0),
    InversePolynomial(),
    ArcCosine(1),
    Linear(),
    Series([0.2, 0.3, 0.5]),
]


@pytest.fixture(params=TOLERANCE)
def backend(request):
    return get_backend(request.param, threads=2)


def make_layer(channels, rng, **options):
    defaults = {"filters": 12, "patch": 3, "subsampling": 2, "kernel": Exponential(sigma=0.6)}
    spec = LayerSpec(**defaults | options)
    anchors = rng.normal(size=(spec.filters, spec.patch, spec.patch, channels))
    anchors /= np.linalg.norm(anchors.reshape(spec.filters, -1), axis=1)[:, None, None, None]
    return Layer.from_anchors(spec, anchors)


def check(backend, layer, maps, relative_error):
    expected = get_backend("reference").encode(maps, layer)
    actual = backend.to_host(backend.encode(backend.asarray(maps), layer))
    assert actual.shape == expected.shape == (len(maps), *layer.spec.output_shape(maps.shape[1:]))
    assert relative_error(actual, expected) <= TOLERANCE[backend.name]


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_every_kernel(backend, kernel, rng, relative_error):
    check(backend, make_layer(3, rng, kernel=kernel), rng.normal(size=(5, 12, 12, 3)), relative_error)


def test_arccosine_of_degree_zero(backend, rng, relative_error):
    """Its slope is infinite at ±1: patches here stay away from the anchors, as real ones do."""
    check(backend, make_layer(3, rng, kernel=ArcCosine(0)), rng.normal(size=(5, 12, 12, 3)), relative_error)


@pytest.mark.parametrize("padding", ["zero", "valid"])
@pytest.mark.parametrize("patch", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("subsampling", [1, 2, 3])
def test_every_patch_padding_and_subsampling(backend, padding, patch, subsampling, rng, relative_error):
    layer = make_layer(2, rng, padding=padding, patch=patch, subsampling=subsampling)
    check(backend, layer, rng.normal(size=(3, 11, 14, 2)), relative_error)


@pytest.mark.parametrize("pooling", ["gaussian", "average", "strided"])
@pytest.mark.parametrize("alignment", ["corner", "centered", "valid"])
@pytest.mark.parametrize("subsampling", [2, 3, 4])
def test_every_pooling_and_alignment(backend, pooling, alignment, subsampling, rng, relative_error):
    layer = make_layer(2, rng, pooling=pooling, alignment=alignment, subsampling=subsampling)
    check(backend, layer, rng.normal(size=(2, 13, 12, 2)), relative_error)


@pytest.mark.parametrize("convention", [conventions.CHEN, conventions.MAIRAL], ids=["CHEN", "MAIRAL"])
def test_conventions_on_images_with_empty_patches(backend, convention, rng, relative_error):
    maps = rng.normal(size=(3, 12, 12, 3))
    maps[1] = 0
    maps[2, :6] = 0
    check(backend, make_layer(3, rng, **convention), maps, relative_error)


@given(
    n=st.integers(1, 7),
    height=st.integers(3, 20),
    width=st.integers(3, 20),
    channels=st.integers(1, 5),
    filters=st.integers(1, 20),
    patch=st.integers(1, 4),
    subsampling=st.integers(1, 5),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_any_shape(relative_error, n, height, width, channels, filters, patch, subsampling, seed):
    rng = np.random.default_rng(seed)
    layer = make_layer(channels, rng, filters=filters, patch=patch, subsampling=subsampling)
    try:
        layer.spec.output_shape((height, width, channels))
    except InvalidSpec:
        return
    for name in TOLERANCE:
        check(
            get_backend(name, threads=2), layer, rng.normal(size=(n, height, width, channels)), relative_error
        )


@pytest.mark.parametrize("padding", ["zero", "valid"])
@pytest.mark.parametrize("alignment", ["corner", "centered", "valid"])
def test_large_images_in_bands_of_rows(monkeypatch, padding, alignment, rng, relative_error):
    """With a tiny tile every image is cut into bands; the seams must not show."""
    monkeypatch.setattr(numpy_backend, "TILE_BYTES", 4096)
    layer = make_layer(3, rng, padding=padding, alignment=alignment, subsampling=3)
    backend = get_backend("numpy", threads=2)
    maps = rng.normal(size=(2, 40, 37, 3))
    assert len(backend._plan(layer, maps.shape[1:]).row_bands) > 2
    check(backend, layer, maps, relative_error)


def test_no_images_at_all(backend, rng):
    layer = make_layer(3, rng)
    assert backend.encode(np.empty((0, 12, 12, 3), np.float32), layer).shape == (0, 6, 6, 12)


def test_features_do_not_depend_on_threads_or_neighbours(rng):
    """Bytes, not tolerances: an image's features are its own."""
    layer = make_layer(3, rng)
    maps = rng.normal(size=(23, 12, 12, 3)).astype(np.float32)
    whole = get_backend("numpy", threads=1).encode(maps, layer)
    assert np.array_equal(get_backend("numpy", threads=3).encode(maps, layer), whole)


@pytest.mark.parametrize("n", [1, 2047, 2048, 5000])
def test_nearest_anchor(backend, n, rng):
    patches, anchors = rng.normal(size=(n, 27)), rng.normal(size=(50, 27))
    patches /= np.linalg.norm(patches, axis=1, keepdims=True)
    anchors /= np.linalg.norm(anchors, axis=1, keepdims=True)
    expected, cosines = get_backend("reference").nearest_anchor(patches, anchors)
    index, cosine = backend.nearest_anchor(backend.asarray(patches), backend.asarray(anchors))
    np.testing.assert_allclose(cosine, cosines, atol=1e-6)
    # Where two anchors are equally near up to rounding, either may be taken.
    np.testing.assert_allclose((patches * anchors[index]).sum(axis=1), cosines, atol=1e-6)
    assert np.mean(index == expected) > 0.999


def test_blocks_fit_the_memory(backend, rng):
    layers = [make_layer(3, rng), make_layer(12, rng)]
    small = get_backend(backend.name, threads=2, memory=64 << 20).images_per_block(layers, (512, 512, 3))
    large = get_backend(backend.name, threads=2, memory=1 << 30).images_per_block(layers, (512, 512, 3))
    assert 1 <= small < large
    # Before the first layer there is the reading and the padding of the images themselves.
    bare = get_backend(backend.name, threads=2, memory=64 << 20).images_per_block([], (512, 512, 3))
    assert 1 <= bare <= (64 << 20) // (4 * 512 * 512 * 3)
