"""What must hold of a layer whatever its anchors: on the reference and, up to float32, on NumPy."""

import numpy as np
import pytest
from factories import make_layer
from hypothesis import given
from hypothesis import strategies as st

from ckncuda.backend import get_backend
from ckncuda.backend.reference import unpooled_map
from ckncuda.layer import conventions

TOLERANCE = {"reference": 1e-11, "numpy": 1e-4}
rngs = st.integers(0, 1000).map(np.random.default_rng)


def encoded(backend, maps, layer):
    engine = get_backend(backend)
    return engine.encode(engine.asarray(maps), [layer])


@pytest.mark.parametrize("backend", TOLERANCE)
@given(rng=rngs, subsampling=st.integers(2, 4))
def test_pooling_before_or_after_the_projection_agrees(backend, rng, subsampling):
    layer = make_layer(2, rng, subsampling=subsampling)
    maps = rng.normal(size=(2, 9, 8, 2))
    rows, columns = layer.spec.pooling_matrices(maps.shape[1:])
    projected = unpooled_map(maps, layer) @ layer.projection.T
    projected_first = np.einsum("ih,jw,nhwp->nijp", rows, columns, projected)
    atol = TOLERANCE[backend] * np.abs(projected_first).max()
    np.testing.assert_allclose(encoded(backend, maps, layer), projected_first, atol=atol)


@pytest.mark.parametrize("backend", TOLERANCE)
@given(rng=rngs)
def test_patches_of_zeros_map_to_zero(backend, rng):
    layer = make_layer(2, rng, subsampling=1)
    maps = np.zeros((2, 9, 9, 2))
    maps[:, :3] = rng.normal(size=(2, 3, 9, 2))
    found = encoded(backend, maps, layer)
    assert not found[:, 4:].any()
    assert np.abs(found[:, :3]).min() > 0


def test_a_floored_norm_keeps_patches_of_zeros_above_zero(rng):
    layer = make_layer(2, rng, **conventions.CHEN)
    assert np.abs(encoded("reference", np.zeros((1, 8, 8, 2)), layer)).max() > 0


@pytest.mark.parametrize("backend", TOLERANCE)
@pytest.mark.parametrize("pooling", ["gaussian", "average", "strided"])
@given(rng=rngs, s=st.integers(1, 3))
def test_shifting_the_image_by_s_shifts_the_interior_of_the_map_by_one(backend, pooling, rng, s):
    layer = make_layer(2, rng, subsampling=s, pooling=pooling)
    wide = rng.normal(size=(1, 12 * s + s, 12 * s, 2))
    first, shifted = (encoded(backend, maps, layer) for maps in (wide[:, : 12 * s], wide[:, s:]))
    # Farther from the border than a filter and a patch reach.
    atol = TOLERANCE[backend] * np.abs(first).max()
    np.testing.assert_allclose(shifted[:, 3:9], first[:, 4:10], atol=atol, rtol=0)


@pytest.mark.parametrize("backend", TOLERANCE)
@given(rng=rngs, factor=st.floats(0.01, 100))
def test_a_layer_is_homogeneous(backend, rng, factor):
    """Twice the contrast, twice the feature: n(u) κ(t(u)) is of degree one."""
    layer = make_layer(2, rng)
    maps = rng.normal(size=(1, 8, 8, 2))
    once, scaled = (encoded(backend, m, layer) for m in (maps, factor * maps))
    np.testing.assert_allclose(scaled, factor * once, atol=10 * TOLERANCE[backend] * np.abs(scaled).max())


@given(rng=rngs)
def test_features_of_a_patch_that_is_an_anchor_reproduce_the_kernel(rng):
    """⟨ψ(x), ψ(z_j)⟩ = ‖x‖ κ(⟨z_j, x⟩/‖x‖) for the anchors z_j, as ε → 0."""
    layer = make_layer(2, rng, subsampling=1, padding="valid", epsilon=0.0)
    patch = rng.normal(size=(1, 3, 3, 2))
    of_patch, anchors = (encoded("reference", m, layer)[:, 0, 0] for m in (patch, layer.anchors))
    norm = np.linalg.norm(patch)
    cosines = layer.anchors.reshape(len(layer.anchors), -1) @ patch.ravel() / norm
    np.testing.assert_allclose(anchors @ of_patch[0], norm * layer.spec.kernel.value(cosines), atol=1e-7)
