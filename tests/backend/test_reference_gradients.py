"""The way back of the reference, against differences of its way forward, in float64, on random networks."""

import numpy as np
import pytest
from factories import SMOOTH_KERNELS, make_layer, make_spec
from hypothesis import given
from hypothesis import strategies as st

from ckncuda import ArcCosine, Exponential, Layer
from ckncuda.backend.reference import ReferenceBackend
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.supervised.optimizers import tangent

REFERENCE = ReferenceBackend()
STEP = 1e-5  # of central differences, whose error is of its square
TOLERANCE = 3e-6  # of the derivative, or of the norm of the gradient times that of the direction


@st.composite
def networks(draw):
    """Draw one to three layers, and images [2, h, w, c] for them."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    shape = (draw(st.integers(5, 7)), draw(st.integers(5, 7)), draw(st.integers(1, 3)))
    images, layers = rng.normal(size=(2, *shape)), []
    for _ in range(draw(st.integers(1, 3))):
        sides = st.integers(1, min(3, *shape[:2]))
        patch = draw(sides) if draw(st.booleans()) else (draw(sides), draw(sides))
        terms = shape[2] * (patch**2 if isinstance(patch, int) else patch[0] * patch[1])
        # √λ has no derivative at 0: as many independent anchor points as there are need as many terms.
        whitening = draw(st.sampled_from(["ridge", "root"])) if terms > 3 else "ridge"
        options = {
            "filters": 3 if whitening == "root" else draw(st.integers(1, 5)),
            "patch": patch,
            "kernel": draw(st.sampled_from(SMOOTH_KERNELS)),
            "padding": draw(st.sampled_from(["zero", "zero", "valid"])),
            "even_padding": draw(st.sampled_from(["same", "both"])),
            "pooling": draw(st.sampled_from(["gaussian", "average", "strided"])),
            "alignment": draw(st.sampled_from(["corner", "centered"])),
            "whitening": whitening,
            "epsilon": draw(st.sampled_from([0.03, 0.3])),
            "norm_floor": draw(st.sampled_from([1e-5, 1e-5, 100.0])),  # below all patches, or above
            "scale": draw(st.sampled_from(["norm", "floored_norm"])),
        }
        height, width, _ = make_spec(**options, subsampling=1).map_shape(shape)
        options["subsampling"] = draw(st.integers(1, min(2, height, width)))
        layer = make_layer(shape[2], rng, **options)
        shape = layer.spec.output_shape(shape)
        layers.append(layer)
        if min(shape[:2]) < 2:
            break
    return images, layers, rng


def value_of(images, layers, upstream):
    return float((REFERENCE.encode(images, layers) * upstream).sum())


def moved(layer, direction, step):
    """Return the layer with anchor points moved, and put back on the sphere."""
    anchors = layer.anchors + step * direction
    anchors /= np.linalg.norm(anchors.reshape(len(anchors), -1), axis=1)[:, None, None, None]
    return Layer.from_anchors(layer.spec, anchors)


def assert_slope(function, gradient, direction):
    slope = (function(STEP) - function(-STEP)) / (2 * STEP)
    expected = float((gradient * direction).sum())
    scale = np.linalg.norm(gradient) * np.linalg.norm(direction) + abs(function(0.0)) * 1e-4
    assert abs(slope - expected) <= TOLERANCE * scale + 1e-8, (slope, expected)


@given(networks())
def test_gradients_are_slopes(drawn):
    images, layers, rng = drawn
    upstream = rng.normal(size=REFERENCE.encode(images, layers).shape)
    by_maps, by_anchors = REFERENCE.encode_backward(images, layers, upstream)
    along = rng.normal(size=images.shape)
    assert_slope(lambda step: value_of(images + step * along, layers, upstream), by_maps, along)
    for number, (layer, gradient) in enumerate(zip(layers, by_anchors, strict=True)):
        direction = tangent(rng.normal(size=layer.anchors.shape), layer.anchors)
        assert gradient.shape == layer.anchors.shape

        def of_moved(step, number=number, layer=layer, direction=direction):
            changed = [*layers[:number], moved(layer, direction, step), *layers[number + 1 :]]
            return value_of(images, changed, upstream)

        assert_slope(of_moved, tangent(gradient, layer.anchors), direction)


def test_what_goes_through_zero_patches_is_nothing(rng):
    layer = make_layer(2, rng, filters=4, patch=3, subsampling=1)
    images = rng.normal(size=(1, 6, 6, 2))
    images[:, 2:5, 2:5] = 0
    by_maps, by_anchors = REFERENCE.encode_backward(images, [layer], rng.normal(size=(1, 6, 6, 4)))
    assert np.isfinite(by_maps).all()
    assert np.isfinite(by_anchors[0]).all()
    blank = REFERENCE.encode_backward(0 * images, [layer], np.ones((1, 6, 6, 4)))
    assert not blank[0].any()


def test_the_gradient_by_images_is_spared_where_nobody_asks(rng):
    layers = [make_layer(1, rng), make_layer(12, rng)]
    images, upstream = rng.normal(size=(2, 8, 8, 1)), rng.normal(size=(2, 2, 2, 12))
    maps, of_all = REFERENCE.encode_backward(images, layers, upstream)
    nothing, of_anchors = REFERENCE.encode_backward(images, layers, upstream, by_maps=False)
    assert maps.shape == images.shape
    assert nothing is None
    assert all(np.array_equal(a, b) for a, b in zip(of_all, of_anchors, strict=True))


def test_a_kernel_without_a_bounded_derivative_is_refused_by_its_layer(rng):
    layers = [make_layer(1, rng), make_layer(12, rng, kernel=ArcCosine(0))]
    with pytest.raises(InvalidSpec, match="layer 2: .* arccos0 is infinite at 1.*exp or arccos1"):
        REFERENCE.encode_backward(np.ones((1, 8, 8, 1)), layers, np.ones((1, 2, 2, 12)))


def test_a_gradient_of_another_shape_is_refused(rng):
    with pytest.raises(InvalidData, match=r"\[1, 8, 8, 12\]; the output .* \[1, 4, 4, 12\]"):
        REFERENCE.encode_backward(np.ones((1, 8, 8, 1)), [make_layer(1, rng)], np.ones((1, 8, 8, 12)))


def test_each_sigma_has_its_slope(rng):
    for sigma in (0.2, 2.0):
        layer = make_layer(1, rng, kernel=Exponential(sigma=sigma), filters=3)
        images, upstream = rng.normal(size=(1, 6, 6, 1)), rng.normal(size=(1, 3, 3, 3))
        _, (gradient,) = REFERENCE.encode_backward(images, [layer], upstream)
        direction = tangent(rng.normal(size=layer.anchors.shape), layer.anchors)
        assert_slope(
            lambda step, layer=layer, direction=direction, images=images, upstream=upstream: value_of(
                images, [moved(layer, direction, step)], upstream
            ),
            tangent(gradient, layer.anchors),
            direction,
        )
