import functools
import json
import math

import numpy as np
import pytest
from factories import make_layer, make_spec
from hypothesis import given
from hypothesis import strategies as st

import ckncuda
from ckncuda import Exponential, Layer, LayerSpec, Polynomial, Series
from ckncuda.errors import InvalidSpec
from ckncuda.layer import conventions

spec = functools.partial(make_spec, filters=8)


@pytest.mark.parametrize(
    ("options", "shape", "expected"),
    [
        ({}, (32, 32, 3), (16, 16, 8)),
        ({}, (33, 31, 1), (17, 16, 8)),
        ({"padding": "valid"}, (32, 32, 3), (15, 15, 8)),
        ({"patch": 4}, (32, 32, 3), (16, 16, 8)),
        ({"patch": 4, "padding": "valid"}, (32, 32, 3), (15, 15, 8)),
        ({"subsampling": 1}, (32, 30, 3), (32, 30, 8)),
        ({"alignment": "valid"}, (32, 32, 3), (15, 15, 8)),
        ({"alignment": "valid", "pooling": "average"}, (33, 32, 3), (16, 16, 8)),
    ],
)
def test_output_shape(options, shape, expected):
    assert spec(**options).output_shape(shape) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filters": 0}, "filters is 0"),
        ({"patch": 2.5}, "patch is 2.5"),
        ({"subsampling": True}, "subsampling is True"),
        ({"padding": "same"}, "padding is 'same'; it must be one of zero, valid"),
        ({"pooling": "max"}, "pooling is 'max'"),
        ({"alignment": "left"}, "alignment is 'left'"),
        ({"whitening": "pca"}, "whitening is 'pca'"),
        ({"scale": "none"}, "scale is 'none'"),
        ({"epsilon": -1}, "epsilon is -1"),
        ({"epsilon": math.nan}, "epsilon is nan"),
        ({"norm_floor": 0}, "norm_floor is 0"),
        ({"norm_floor": 1e-50}, "norm_floor is 1e-50; it must be at least 1e-30"),
        ({"kernel": "exp"}, "kernel is 'exp'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InvalidSpec, match=message):
        spec(**options)


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"patch": 9}, (8, 32, 3), "patch of 9x9 is larger than its input of 8x32"),
        ({"subsampling": 9}, (8, 32, 3), "subsampling of 9 is larger than the map of 8x32"),
        ({"subsampling": 5, "alignment": "valid"}, (8, 8, 3), "leaves nothing"),
    ],
)
def test_inputs_that_do_not_fit(options, shape, message):
    with pytest.raises(InvalidSpec, match=message):
        spec(**options).output_shape(shape)


@pytest.mark.parametrize(
    "example",
    [
        spec(),
        spec(kernel=Exponential(quantile=0.1), padding="valid"),
        spec(kernel=Polynomial(2, offset=0.5), **conventions.CHEN),
        spec(kernel=Series([0.5, 0.5]), **conventions.MAIRAL),
    ],
)
def test_dictionary_round_trip_and_repr(example):
    assert LayerSpec.from_dict(json.loads(json.dumps(example.to_dict()))) == example
    assert eval(repr(example), vars(ckncuda)) == example


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filters": 8, "patch": 3}, "needs kernel parameters|sigma"),
        ({"filters": 8, "sigma": 0.6}, "a layer needs patch, subsampling"),
        ({"filters": 8, "patch": 3, "subsampling": 2, "sigma": 0.6, "stride": 2}, "no option 'stride'"),
        ({"filters": 8, "patch": 3, "subsampling": 2, "kernel": "linear", "sigma": 1}, "no option 'sigma'"),
    ],
)
def test_bad_dictionaries(options, message):
    with pytest.raises(InvalidSpec, match=message):
        LayerSpec.from_dict(options)


def test_conventions_name_options_of_layer_spec():
    assert spec(**conventions.CHEN).whitening == "root"
    assert spec(**conventions.MAIRAL).alignment == "centered"
    with pytest.raises(TypeError):
        conventions.CHEN["epsilon"] = 1


@given(p=st.integers(1, 10), seed=st.integers(0, 1000))
def test_embedding_reproduces_the_kernel_between_anchors(p, seed):
    """⟨ψ(z_i), ψ(z_j)⟩ = κ(⟨z_i, z_j⟩) as ε → 0, with ψ(z) = W κ(Z z)."""
    z = np.random.default_rng(seed).normal(size=(p, 3, 3, 2))
    z /= np.linalg.norm(z.reshape(p, -1), axis=1)[:, None, None, None]
    layer = Layer.from_anchors(spec(filters=p, epsilon=0.0), z)
    flat = z.reshape(p, -1)
    gram = layer.spec.kernel.value(flat @ flat.T)
    embedded = layer.projection @ gram
    np.testing.assert_allclose(embedded.T @ embedded, gram, atol=1e-8)


@pytest.mark.parametrize(
    ("anchors", "message"),
    [
        (np.ones((8, 3, 3, 2)), "must be of norm 1"),
        (np.full((8, 3, 3, 2), np.nan), "must be of norm 1"),
        (np.ones((7, 3, 3, 2)) / np.sqrt(18), r"shape \[7, 3, 3, 2\].*\[8, 3, 3, channels\]"),
        (np.ones((8, 18)) / np.sqrt(18), "shape"),
        (np.ones((8, 3, 3, 2), int), "int64"),
    ],
)
def test_bad_anchors(anchors, message):
    with pytest.raises(InvalidSpec, match=message):
        Layer.from_anchors(spec(), anchors)


def test_sizes_may_be_numpys_integers():
    spec = LayerSpec(np.int64(4), np.int64(3), np.int32(2), Exponential(sigma=0.6))
    assert spec.patch_shape == (3, 3)
    assert spec == LayerSpec(4, 3, 2, Exponential(sigma=0.6))


@given(seed=st.integers(0, 1000), power=st.sampled_from([0.0, 0.25, 0.5]))
def test_a_gradient_by_the_projection_goes_back_to_anchors_on_the_sphere(seed, power):
    rng = np.random.default_rng(seed)
    layer = make_layer(2, rng, filters=4, epsilon=0.1)
    if power:
        layer = layer.decorrelated(power, [rng.normal(size=(50, 4)) * [1, 2, 3, 4]])
    upstream, direction = rng.normal(size=(4, 4)), rng.normal(size=layer.anchors.shape)
    direction -= (direction * layer.anchors).sum(axis=(1, 2, 3), keepdims=True) * layer.anchors
    held = layer.projection @ layer.spectrum.square_root()  # V, which is 1 without decorrelation

    def value(step):
        anchors = layer.anchors + step * direction
        anchors /= np.linalg.norm(anchors.reshape(4, -1), axis=1)[:, None, None, None]
        plain = Layer.from_anchors(spec(kernel=layer.spec.kernel, filters=4, epsilon=0.1), anchors)
        return float((held @ plain.projection * upstream).sum())

    assert np.isclose(value(0.0), (layer.projection * upstream).sum())
    gradient = layer.projection_backward(upstream)
    slope = (value(1e-5) - value(-1e-5)) / 2e-5
    scale = np.linalg.norm(gradient) * np.linalg.norm(direction)
    assert abs(slope - (gradient * direction).sum()) < 1e-6 * scale + 1e-8


def test_a_spectrum_that_is_kept_is_the_one_that_would_be_computed(rng, monkeypatch):
    plain = make_layer(2, rng)
    kept = Layer.from_anchors(plain.spec, plain.anchors, keep_spectrum=True)
    assert "spectrum" in vars(kept)
    assert "spectrum" not in vars(plain)
    upstream = rng.normal(size=(12, 12))
    expected = plain.projection_backward(upstream)
    monkeypatch.setattr("ckncuda.layer.layer.spectrum_of", None)
    assert np.array_equal(kept.projection_backward(upstream), expected)
    assert np.array_equal(kept.projection, plain.projection)


def test_an_even_patch_with_zeros_on_both_sides_has_a_larger_map():
    assert spec(patch=4, subsampling=1, even_padding="both").output_shape((9, 8, 3)) == (10, 9, 8)
    assert spec(patch=(3, 2), subsampling=1, even_padding="both").output_shape((9, 8, 3)) == (9, 9, 8)
    for same in ({"patch": 3}, {"patch": 4, "padding": "valid"}):
        shapes = [spec(**same, even_padding=even).output_shape((9, 8, 3)) for even in ("same", "both")]
        assert shapes[0] == shapes[1]


def test_older_programs_read_layers_that_do_without_the_new_option():
    assert "even_padding" not in spec(patch=4).to_dict()
    both = spec(patch=4, even_padding="both")
    assert both.to_dict()["even_padding"] == "both"
    assert LayerSpec.from_dict(both.to_dict()) == both
    with pytest.raises(InvalidSpec, match="even_padding is 'left'; it must be one of same, both"):
        spec(even_padding="left")


@pytest.mark.parametrize("power", [0.0, 0.25])
def test_outputs_tell_what_the_pooled_map_would(power, rng):
    layer, pooled, upstream = (
        make_layer(3, rng, filters=9),
        rng.normal(size=(50, 9)),
        rng.normal(size=(50, 9)),
    )
    if power:
        layer = layer.decorrelated(power, [pooled @ layer.projection.T])
    found = layer.outputs_backward(upstream.T @ (pooled @ layer.projection.T))
    np.testing.assert_allclose(found, layer.projection_backward(upstream.T @ pooled), rtol=1e-9, atol=1e-9)
