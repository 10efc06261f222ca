"""The way back on a CPU, plain and compiled, against the definition; threads, blocks of images, memory."""

import threading
import tracemalloc

import numpy as np
import pytest
from factories import make_layer
from hypothesis import assume, given
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
)
from ckncuda.backend import get_backend
from ckncuda.backend import numpy as numpy_backend
from ckncuda.backend.numpy import backend as numpy_module
from ckncuda.backend.numpy.encode_backward import Ways
from ckncuda.errors import CknError, InvalidData
from ckncuda.layer.dot_product import KERNELS, DotProductKernel

ROOMS = [False, True]
rooms = pytest.mark.parametrize("compiled", ROOMS, ids=["plain", "compiled"])
TOLERANCE = 2e-5
SMOOTH = [
    Exponential(sigma=0.6),
    Exponential(sigma=1.5),
    Polynomial(degree=1, offset=0.5),
    Polynomial(degree=2),
    Polynomial(degree=3, offset=1),
    Polynomial(degree=5, offset=0.5),
    InversePolynomial(),
    Linear(),
    Series((0.2, 0.3, 0.5)),
]


def room(compiled, threads=2, memory=None):
    if compiled and not numpy_backend.has_numba():
        pytest.skip("Numba, the extra `fast`, is not installed")
    return numpy_backend.NumpyBackend(threads, memory, compiled=compiled)


def stack(rng, channels, specs):
    layers = []
    for spec in specs:
        options = {f: getattr(spec, f) for f in spec.__dataclass_fields__}
        layers.append(make_layer(channels, rng, **options))
        channels = spec.filters
    return layers


def gradient_of_reference(maps, layers, rng):
    reference = get_backend("reference")
    upstream = rng.normal(size=reference.encode(maps, layers).shape)
    return upstream, *reference.encode_backward(maps, layers, upstream)


def assert_close(found, expected, tolerance=TOLERANCE, floor=1e-12):
    for actual, exact in zip([found[0], *found[1]], [expected[0], *expected[1]], strict=True):
        assert actual.shape == exact.shape
        assert np.linalg.norm(actual - exact) <= tolerance * np.linalg.norm(exact) + floor


specs = st.builds(
    LayerSpec,
    filters=st.sampled_from([1, 3, 16, 17, 64, 70]),
    patch=st.sampled_from([1, 2, 3, 3, 3, 4, 5, (1, 3), (3, 2), (4, 1)]),
    subsampling=st.integers(1, 3),
    kernel=st.sampled_from(SMOOTH),
    padding=st.sampled_from(["zero", "zero", "valid"]),
    even_padding=st.sampled_from(["same", "both"]),
    pooling=st.sampled_from(["gaussian", "average", "strided"]),
    alignment=st.sampled_from(["corner", "centered", "valid"]),
    whitening=st.sampled_from(["ridge", "root"]),
    epsilon=st.just(0.1),  # of less, W enlarges float32's rounding
    scale=st.sampled_from(["norm", "floored_norm"]),
    norm_floor=st.sampled_from([1e-5, 1.0]),  # of the greater, many patches are dark
)


@rooms
@given(
    stacked=st.lists(specs, min_size=1, max_size=3),
    channels=st.sampled_from([1, 2, 3, 3, 16, 20, 64]),
    size=st.tuples(st.integers(1, 4), st.integers(3, 13), st.integers(3, 13)),
    seed=st.integers(0, 1000),
)
def test_gradients_are_those_of_the_definition(compiled, stacked, channels, size, seed):
    rng = np.random.default_rng(seed)
    try:
        layers = stack(rng, channels, stacked)
        maps = rng.normal(size=(*size, channels)).astype(np.float32)
        upstream, *expected = gradient_of_reference(maps, layers, rng)
    except CknError:  # such layers do not fit such maps
        assume(False)
    found = room(compiled).encode_backward(maps, layers, upstream.astype(np.float32))
    # Of anchor points that are nearly dependent, gradients are differences of what is much larger.
    assert_close(found, expected, 2e-4)


@rooms
def test_arccos1_up_to_its_square_root(compiled, rng):
    layers = stack(rng, 3, [LayerSpec(20, 3, 2, ArcCosine(1)), LayerSpec(9, 3, 2, ArcCosine(1))])
    maps = rng.normal(size=(5, 12, 11, 3)).astype(np.float32)
    upstream, *expected = gradient_of_reference(maps, layers, rng)
    assert_close(room(compiled).encode_backward(maps, layers, upstream.astype(np.float32)), expected)


@rooms
@pytest.mark.parametrize("scale", ["norm", "floored_norm"])
@pytest.mark.parametrize("channels", [2, 3, 32])
def test_patches_of_zeros_and_dark_ones_beside_bright_ones(compiled, scale, channels, rng):
    layers = stack(rng, channels, [LayerSpec(20, 3, 2, Exponential(sigma=0.6), scale=scale, norm_floor=1e-3)])
    maps = rng.normal(size=(5, 13, 12, channels)).astype(np.float32)
    maps[0] = 0
    maps[1, :7] = 0
    maps[2] *= 1e-6
    maps[3, 5:] *= 1e-5
    upstream, *expected = gradient_of_reference(maps, layers, rng)
    found = room(compiled).encode_backward(maps, layers, upstream.astype(np.float32))
    assert np.isfinite(found[0]).all()
    assert_close(found, expected)
    for image in (1, 2, 4):
        assert_close((found[0][image], []), (expected[0][image], []), 1e-4)


def layers_and_maps(rng, n=21):
    kernels = [Exponential(sigma=0.6), Polynomial(degree=2), Exponential(sigma=0.8)]
    specs = [
        LayerSpec(p, k, s, q) for p, k, s, q in zip((20, 24, 70), (3, 1, 3), (2, 1, 2), kernels, strict=True)
    ]
    return stack(rng, 3, specs), rng.normal(size=(n, 14, 13, 3)).astype(np.float32)


@rooms
@pytest.mark.parametrize("images", [None, 7], ids=["one block", "blocks"])
def test_no_bit_depends_on_the_number_of_threads(compiled, images, rng, monkeypatch):
    monkeypatch.setattr(numpy_module, "usable_cores", lambda: 8)
    layers, maps = layers_and_maps(rng)
    upstream = rng.normal(size=(21, 4, 4, 70)).astype(np.float32)
    ways = Ways([layer.spec for layer in layers], maps.shape[1:], room(compiled)._way_back)
    memory = None if images is None else 2 * 8 * images * ways.bytes_per_image()  # an eighth is of blocks
    one, *others = (
        room(compiled, threads, memory).encode_backward(maps, layers, upstream) for threads in (1, 2, 5)
    )
    for other in others:
        np.testing.assert_array_equal(one[0], other[0])
        for expected, actual in zip(one[1], other[1], strict=True):
            np.testing.assert_array_equal(expected, actual)


@rooms
def test_a_gradient_by_the_anchors_alone_is_the_same(compiled, rng):
    layers, maps = layers_and_maps(rng)
    upstream = rng.normal(size=(21, 4, 4, 70)).astype(np.float32)
    both = room(compiled).encode_backward(maps, layers, upstream)
    none, anchors = room(compiled).encode_backward(maps, layers, upstream, by_maps=False)
    assert none is None
    for expected, actual in zip(both[1], anchors, strict=True):
        np.testing.assert_allclose(actual, expected, atol=2e-6 * np.abs(expected).max())


@rooms
def test_little_memory_means_blocks_for_which_the_upstream_is_asked_in_turn(compiled, rng):
    layers, maps = layers_and_maps(rng)
    upstream = rng.normal(size=(21, 4, 4, 70)).astype(np.float32)
    seen = []

    def function(encoded, images):
        seen.append((images, len(encoded)))
        return upstream[images]

    whole = room(compiled).encode_backward(maps, layers, upstream)
    parts = room(compiled, memory=1).encode_backward(maps, layers, function)
    assert seen == [(slice(i, i + 1), 1) for i in range(21)]
    assert_close(parts, whole, 2e-6)


@rooms
def test_blocks_of_images_are_summed_in_float64(compiled, rng):
    """One image after the other: a sum in float32 would no longer see the later ones."""
    layers = stack(rng, 3, [LayerSpec(4, 3, 4, Exponential(sigma=0.6))])
    maps = np.repeat(rng.normal(size=(1, 4, 4, 3)).astype(np.float32), 40, axis=0)
    upstream = np.full((40, 1, 1, 4), 2.0**-30, np.float32)
    upstream[0] = 1
    _, (found,) = room(compiled, memory=1).encode_backward(maps, layers, upstream)
    _, (of_one,) = room(compiled).encode_backward(maps[:1], layers, upstream[:1])
    np.testing.assert_allclose(found, of_one * (1 + 39 * 2.0**-30), rtol=1e-12, atol=0)


@rooms
@pytest.mark.parametrize("memory", [None, 1])
def test_no_layers_pass_the_gradient_on(compiled, memory, rng):
    maps = rng.normal(size=(5, 4, 4, 3)).astype(np.float32)
    by_maps, by_anchors = room(compiled, memory=memory).encode_backward(maps, [], 2 * maps)
    np.testing.assert_array_equal(by_maps, 2 * maps)
    assert by_anchors == []
    assert room(compiled).encode_backward(maps, [], maps, by_maps=False) == (None, [])


@pytest.mark.parametrize("name", ["reference", "plain", "compiled"])
def test_a_gradient_of_bytes_is_no_image(name, rng):
    """Of pixels 255 would be 1."""
    backend = get_backend(name) if name == "reference" else room(name == "compiled")
    layers, maps = layers_and_maps(rng, 2)
    expected = backend.encode_backward(maps, layers, np.ones((2, 4, 4, 70), np.float32))
    for upstream in (np.ones((2, 4, 4, 70), np.uint8), lambda out, _: np.ones(out.shape, np.uint8)):
        found = backend.encode_backward(maps, layers, upstream)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1][1], expected[1][1])


@rooms
def test_memory_is_what_is_counted(compiled, rng):
    layers, maps = layers_and_maps(rng, 400)
    room(compiled).encode_backward(maps[:2], layers, lambda encoded, images: encoded)  # compiles
    backend, blocks = room(compiled), []

    def upstream(encoded, images):
        blocks.append(len(encoded))
        return encoded

    tracemalloc.start()
    backend.encode_backward(maps, layers, upstream, by_maps=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert blocks == [400]
    shape, specs = maps.shape[1:], [layer.spec for layer in layers]
    ways = Ways(specs, shape, backend._way_back)
    workspace, _ = backend._bytes(specs, shape)
    counted = ways.workspace_bytes(2) + workspace + ways.bytes_per_image() * blocks[0]
    assert peak <= counted <= 5 * peak
    assert peak <= backend.bytes_at_once(specs, shape, backend.memory_budget, back=True)


@rooms
def test_eight_threads_that_share_a_backend_get_the_results_of_one(compiled, rng):
    shared = room(compiled)
    layers, maps = layers_and_maps(rng)
    upstream = rng.normal(size=(21, 4, 4, 70)).astype(np.float32)
    expected = room(compiled).encode_backward(maps, layers, upstream)
    results = {}

    def work(number):
        results[number] = [shared.encode_backward(maps, layers, upstream) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for by_maps, by_anchors in (result for number in range(8) for result in results[number]):
        np.testing.assert_array_equal(by_maps, expected[0])
        for one, other in zip(by_anchors, expected[1], strict=True):
            np.testing.assert_array_equal(one, other)


@rooms
def test_an_upstream_that_goes_back_itself_does_not_disturb(compiled, rng):
    backend = room(compiled)
    layers, maps = layers_and_maps(rng, 5)
    upstream = rng.normal(size=(5, 4, 4, 70)).astype(np.float32)
    expected = backend.encode_backward(maps, layers, upstream)

    def nested(encoded, images):
        backend.encode_backward(2 * maps, layers, upstream)
        return upstream

    found = backend.encode_backward(maps, layers, nested)
    np.testing.assert_array_equal(found[1][1], expected[1][1])


@rooms
@pytest.mark.parametrize(("channels", "patch"), [(3, 3), (24, 3), (2, (2, 3))])
def test_a_large_image_goes_back_in_bands(compiled, channels, patch, rng, monkeypatch):
    module = f"ckncuda.backend.numpy.{'compiled' if compiled else 'plain'}.encode_backward"
    backend = room(compiled)
    layers = stack(rng, channels, [LayerSpec(20, patch, 2, Exponential(sigma=0.6))])
    maps = rng.normal(size=(3, 37, 18, channels)).astype(np.float32)
    upstream, *expected = gradient_of_reference(maps, layers, rng)
    monkeypatch.setattr(f"{module}.tiles.MAX_TILE_BYTES" if compiled else f"{module}.TILE_BYTES", 1 << 12)
    assert len(backend._way_back(layers[0].spec, maps.shape[1:])[1].row_bands) > 2
    assert_close(backend.encode_backward(maps, layers, upstream.astype(np.float32)), expected)


@rooms
def test_outputs_that_are_decorrelated(compiled, rng):
    layers, maps = layers_and_maps(rng)
    outputs = get_backend("reference").encode(maps, layers).reshape(-1, 70)
    layers[-1] = layers[-1].decorrelated(0.25, [outputs])
    upstream, *expected = gradient_of_reference(maps, layers, rng)
    assert_close(room(compiled).encode_backward(maps, layers, upstream.astype(np.float32)), expected)


@rooms
def test_no_images_have_gradients_of_zero(compiled, rng):
    layers, maps = layers_and_maps(rng, 2)
    by_maps, by_anchors = room(compiled).encode_backward(
        maps[:0], layers, np.zeros((0, 4, 4, 70), np.float32)
    )
    assert by_maps.shape == (0, 14, 13, 3)
    assert [a.shape for a in by_anchors] == [layer.anchors.shape for layer in layers]
    assert not any(a.any() for a in by_anchors)


@rooms
def test_arrays_of_any_layout_are_taken(compiled, rng):
    layers, maps = layers_and_maps(rng, 4)
    upstream = rng.normal(size=(4, 4, 4, 70)).astype(np.float32)
    expected = room(compiled).encode_backward(maps, layers, upstream)
    maps, upstream = np.asfortranarray(maps), np.asfortranarray(upstream).astype(np.float64)
    maps.flags.writeable = upstream.flags.writeable = False
    found = room(compiled).encode_backward(maps, layers, upstream)
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[0].flags.c_contiguous  # for which the loops are compiled


@rooms
def test_a_gradient_of_another_shape_is_refused(compiled, rng):
    layers, maps = layers_and_maps(rng, 4)
    with pytest.raises(InvalidData, match=r"\[4, 4, 4, 70\]"):
        room(compiled).encode_backward(maps, layers, np.zeros((4, 4, 3, 70), np.float32))


class Cubic(DotProductKernel):
    """A κ that nobody has compiled."""

    name = "cubic"

    def _write(self, t, out):
        np.multiply(t * t, t, out=out)

    def derivative(self, t):
        return 3 * t * t


def test_what_is_not_compiled_goes_the_plain_way_beside_layers_that_are(rng):
    anchors = make_layer(20, rng, filters=30).anchors
    first = make_layer(3, rng, filters=20)
    second = Layer.from_anchors(LayerSpec(30, 3, 2, Cubic()), anchors)
    maps = rng.normal(size=(5, 12, 12, 3)).astype(np.float32)
    upstream, *expected = gradient_of_reference(maps, [first, second], rng)
    backend = room(True)
    ways = [backend._way_back(layer.spec, (8, 8, 20))[0].__name__.split(".")[3] for layer in (first, second)]
    assert ways == ["compiled", "plain"]
    assert_close(backend.encode_backward(maps, [first, second], upstream.astype(np.float32)), expected)


def test_every_derivative_that_is_bounded_is_compiled():
    derivatives = pytest.importorskip("ckncuda.backend.numpy.compiled.derivatives")
    parameters = {
        "exp": {"sigma": 0.6},
        "poly": {"degree": 5, "offset": 0.5},
        "series": {"coefficients": (0.4, 0.6)},
    }
    kernels = [KERNELS[name](**parameters.get(name, {})) for name in KERNELS]
    t = np.linspace(-1, 1, 1001, dtype=np.float32)
    for kernel in kernels:
        assert derivatives.has_derivative(kernel) == kernel.bounded_derivative
        if kernel.bounded_derivative and kernel.name != "exp":
            row, numbers = t.copy(), numpy_backend.compiled.dot_product.parameters_of(kernel)
            derivatives.apply_derivative(derivatives.number_of(kernel), numbers, row)
            np.testing.assert_allclose(row, kernel.derivative(t.astype(np.float64)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("filters", "channels"), [(64, 64), (17, 16), (5, 33), (130, 20)])
def test_filters_are_transformed_bit_for_bit_as_by_numpy(filters, channels, dtype, rng):
    compiled = pytest.importorskip("ckncuda.backend.numpy.compiled.filters")
    from ckncuda.backend.numpy.compiled.llvm.product import packed
    from ckncuda.backend.numpy.winograd import transformed_filters

    anchors = make_layer(channels, rng, filters=filters).anchors.astype(dtype)
    panels = compiled.transformed_panels(anchors)
    np.testing.assert_array_equal(panels, packed(transformed_filters(anchors)))
    back = compiled.transposed_panels(panels)
    whole = np.moveaxis(panels, 0, 2).reshape(36, channels, -1)  # [36, channels, panels · PANEL]
    again = back.transpose(2, 1, 4, 0, 3).reshape(36, -1, whole.shape[2])[:, :channels]
    np.testing.assert_array_equal(again, whole)
