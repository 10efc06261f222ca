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
seeds = st.integers(0, 1000)


@pytest.mark.parametrize("backend", TOLERANCE)
@given(seed=seeds, subsampling=st.integers(2, 4))
def test_pooling_before_or_after_the_projection_agrees(backend, seed, subsampling):
    rng = np.random.default_rng(seed)
    layer = make_layer(2, rng, subsampling=subsampling)
    maps = rng.normal(size=(2, 9, 8, 2))
    rows, columns = layer.spec.pooling_matrices(maps.shape[1:])
    projected_first = np.einsum(
        "ih,jw,nhwp->nijp", rows, columns, unpooled_map(maps, layer) @ layer.projection.T
    )
    engine = get_backend(backend)
    actual = engine.encode(engine.asarray(maps), [layer])
    np.testing.assert_allclose(
        actual, projected_first, atol=TOLERANCE[backend] * np.abs(projected_first).max()
    )


@pytest.mark.parametrize("backend", TOLERANCE)
@given(seed=seeds)
def test_patches_of_zeros_map_to_zero(backend, seed):
    rng = np.random.default_rng(seed)
    layer = make_layer(2, rng, subsampling=1)
    maps = np.zeros((2, 9, 9, 2))
    maps[:, :3] = rng.normal(size=(2, 3, 9, 2))
    engine = get_backend(backend)
    encoded = engine.encode(engine.asarray(maps), [layer])
    assert np.array_equal(encoded[:, 4:], np.zeros_like(encoded[:, 4:]))
    assert np.abs(encoded[:, :3]).min() > 0


def test_a_floored_norm_keeps_patches_of_zeros_above_zero(rng):
    layer = make_layer(2, rng, **conventions.CHEN)
    assert np.abs(get_backend("reference").encode(np.zeros((1, 8, 8, 2)), [layer])).max() > 0


@pytest.mark.parametrize("backend", TOLERANCE)
@pytest.mark.parametrize("pooling", ["gaussian", "average", "strided"])
@given(seed=seeds, s=st.integers(1, 3))
def test_shifting_the_image_by_s_shifts_the_interior_of_the_map_by_one(backend, pooling, seed, s):
    rng = np.random.default_rng(seed)
    layer = make_layer(2, rng, subsampling=s, pooling=pooling)
    wide = rng.normal(size=(1, 12 * s + s, 12 * s, 2))
    engine = get_backend(backend)
    first = engine.encode(engine.asarray(wide[:, : 12 * s]), [layer])
    shifted = engine.encode(engine.asarray(wide[:, s:]), [layer])
    interior = slice(3, 9)  # farther from the border than a filter and a patch reach
    np.testing.assert_allclose(
        shifted[:, interior], first[:, 4:10], atol=TOLERANCE[backend] * np.abs(first).max(), rtol=0
    )


@pytest.mark.parametrize("backend", TOLERANCE)
@given(seed=seeds, factor=st.floats(0.01, 100))
def test_a_layer_is_homogeneous(backend, seed, factor):
    """Twice the contrast, twice the feature: n(u) κ(t(u)) is of degree one."""
    rng = np.random.default_rng(seed)
    layer = make_layer(2, rng)
    maps = rng.normal(size=(1, 8, 8, 2))
    engine = get_backend(backend)
    once, scaled = (engine.encode(engine.asarray(m), [layer]) for m in (maps, factor * maps))
    np.testing.assert_allclose(scaled, factor * once, atol=10 * TOLERANCE[backend] * np.abs(scaled).max())


@given(seed=seeds)
def test_features_of_a_patch_that_is_an_anchor_reproduce_the_kernel(seed):
    """⟨ψ(x), ψ(z_j)⟩ = ‖x‖ κ(⟨z_j, x⟩/‖x‖) for the anchors z_j, as ε → 0."""
    rng = np.random.default_rng(seed)
    layer = make_layer(2, rng, subsampling=1, padding="valid", epsilon=0.0)
    patch = rng.normal(size=(1, 3, 3, 2))
    encoded = get_backend("reference").encode(patch, [layer])[0, 0, 0]
    anchors = get_backend("reference").encode(layer.anchors, [layer])[:, 0, 0]
    norm = np.linalg.norm(patch)
    cosines = layer.anchors.reshape(len(layer.anchors), -1) @ patch.ravel() / norm
    np.testing.assert_allclose(anchors @ encoded, norm * layer.spec.kernel.value(cosines), atol=1e-7)
