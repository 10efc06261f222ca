"""The way back on a GPU: kernels of our own between the products, tiles and blocks, lack of memory."""

import dataclasses
import itertools
import logging

import gpu
import numpy as np
import pytest
import tolerances
from factories import SMOOTH_KERNELS, make_layer, network_and_images
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ckncuda import ArcCosine, Exponential, Layer
from ckncuda.backend import get_backend
from ckncuda.backend.any_array import encode_backward as plain
from ckncuda.backend.cupy import CupyBackend, encode_backward
from ckncuda.errors import InvalidData, InvalidSpec, OutOfMemory
from ckncuda.layer.dot_product import DotProductKernel

GRADIENTS = tolerances.GRADIENTS["cupy, float32"]


@pytest.fixture
def check_backward(rng, relative_error):
    """Compare gradients of a random upstream, or what was found with it, with the reference's."""

    def check(backend, maps, layers, upstream=None, found=None, **options):
        reference = get_backend("reference")
        if upstream is None:
            upstream = rng.normal(size=reference.encode(maps, layers).shape)
        by_maps, by_anchors = reference.encode_backward(maps, layers, upstream)
        found = found or backend.encode_backward(maps, layers, upstream, **options)
        if options.get("by_maps", True):
            assert relative_error(backend.to_host(found[0]), by_maps) <= GRADIENTS
        else:
            assert found[0] is None
        assert [a.dtype for a in found[1]] == [np.float64] * len(layers)
        for actual, expected in zip(found[1], by_anchors, strict=True):
            assert relative_error(actual, expected) <= GRADIENTS

    return check


@pytest.mark.parametrize("kernel", SMOOTH_KERNELS, ids=repr)
@pytest.mark.parametrize("channels", [3, 4])
def test_every_kernel(device, kernel, channels, rng, check_backward):
    """Channels and filters one at a time, and four."""
    layer = make_layer(channels, rng, kernel=kernel, filters=8 + channels, epsilon=1e-2)
    check_backward(device, rng.normal(size=(3, 9, 8, channels)), [layer])


@pytest.mark.parametrize("patch", [1, 2, (1, 3), (4, 2), 5])
@pytest.mark.parametrize(("padding", "even"), [("zero", "same"), ("zero", "both"), ("valid", "same")])
def test_every_patch_and_padding(device, patch, padding, even, rng, check_backward):
    layer = make_layer(3, rng, patch=patch, padding=padding, even_padding=even, epsilon=1e-2, filters=5)
    check_backward(device, rng.normal(size=(2, 8, 7, 3)), [layer])


@pytest.mark.parametrize("pooling", ["gaussian", "average", "strided"])
@pytest.mark.parametrize("alignment", ["corner", "centered", "valid"])
def test_every_pooling(device, pooling, alignment, rng, check_backward):
    """Odd and even sizes; positions that no pooled one has, and those that three have."""
    for subsampling in (1, 2, 3, 4):
        options = {"pooling": pooling, "alignment": alignment, "subsampling": subsampling, "filters": 4}
        check_backward(device, rng.normal(size=(2, 11, 10, 2)), [make_layer(2, rng, **options)])


@pytest.mark.parametrize("scale", ["norm", "floored_norm"])
@pytest.mark.parametrize("whitening", ["ridge", "root"])
@pytest.mark.parametrize("fused", [True, False])
def test_patches_of_zeros_and_below_the_floor(
    device, scale, whitening, fused, rng, check_backward, monkeypatch
):
    """Below it n is no divisor of t; at 0 nothing goes through the norm. Array operations say the same."""
    if not fused:
        monkeypatch.setattr(encode_backward, "unfused_reason", lambda spec, shape: "of a test")
    layer = make_layer(2, rng, scale=scale, whitening=whitening, norm_floor=0.5, filters=6)
    maps = rng.normal(size=(4, 9, 9, 2))
    maps[0] *= 0.05
    maps[1, :5] = 0
    maps[2] = 0
    check_backward(device, maps, [layer])


def test_a_layer_that_decorrelates_its_outputs(device, rng, check_backward):
    layer = make_layer(2, rng)
    layer = layer.decorrelated(0.25, [rng.normal(size=(400, 12)) * np.linspace(0.1, 1, 12)])
    check_backward(device, rng.normal(size=(2, 8, 8, 2)), [layer])


@pytest.mark.parametrize("precision", gpu.PRECISIONS)
def test_two_layers_at_every_precision(device, precision, rng, relative_error):
    """The products of the way back are of float32 always; the way forward, of the maps between."""
    network, images = network_and_images(rng, 5)
    upstream = rng.normal(size=(5, 3, 3, 8))
    expected = get_backend("reference").encode_backward(images, network.layers, upstream)
    backend = gpu.cupy_backend(precision)
    by_maps, by_anchors = backend.encode_backward(images, network.layers, upstream)
    most = tolerances.GRADIENTS[precision]
    assert relative_error(backend.to_host(by_maps), expected[0]) <= most
    for actual, of_layer in zip(by_anchors, expected[1], strict=True):
        assert relative_error(actual, of_layer) <= most


def test_gradients_by_the_anchors_alone(device, rng, check_backward):
    network, images = network_and_images(rng, 5)
    check_backward(device, images, network.layers, by_maps=False)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_blocks_and_tiles(device, monkeypatch, size, rng, check_backward):
    """A gradient that is a function is asked for block after block, with the output of each."""
    network, images = network_and_images(rng, 10)
    upstream = rng.normal(size=(10, 3, 3, 8)).astype(np.float32)
    expected = device.to_host(device.encode(images, network.layers))
    asked = []

    def function(encoded, which):
        asked.append(which)
        np.testing.assert_allclose(device.to_host(encoded), expected[which], atol=1e-5)
        return device.asarray(upstream[which])

    monkeypatch.setattr(device.way_back, "images_of", lambda *_: size)
    monkeypatch.setattr(
        encode_backward, "TILE_BYTES", 2 * plain.bytes_per_image(network.layers[0].spec, (12, 10, 3))
    )
    found = device.encode_backward(device.asarray(images), network.layers, function)
    check_backward(device, images, network.layers, upstream, found)
    assert [which.start for which in asked] == [0, *(which.stop for which in asked[:-1])]
    assert max(which.stop - which.start for which in asked) <= size
    again = device.encode_backward(images, network.layers, upstream)
    assert device.to_host(found[0]).tobytes() == device.to_host(again[0]).tobytes()
    assert [a.tobytes() for a in found[1]] == [a.tobytes() for a in again[1]]


def test_blocks_follow_from_the_memory_that_was_asked_for(device, rng):
    """Not from what is free: sums of other blocks have other last bits."""
    network, _ = network_and_images(rng)
    shapes = [(32, 32, 3), (16, 16, 12), (8, 8, 8)]
    sizes = [device.way_back.images_of(network.layers, shapes, memory << 20) for memory in (1, 16, 2048)]
    assert 1 < sizes[0] < sizes[1] < sizes[2]
    assert sizes[1] * 4 * (32 * 32 * 3 * 3 + 16 * 16 * 12 + 8 * 8 * 8) < 16 << 20
    assert device.way_back.images_of(network.layers, [(5000, 5000, 3), *shapes[1:]], 1 << 20) == 1


@pytest.mark.parametrize("most", [0, 2, 5])
def test_out_of_memory_halves_the_block_and_asks_nothing_twice(
    device, monkeypatch, most, rng, check_backward
):
    """It fails on the way back, when the gradient is known already."""
    import cupy

    network, images = network_and_images(rng)
    upstream = rng.normal(size=(23, 3, 3, 8))
    whole, asked, failed = device.way_back.block, [], []

    def limited(between, *arguments):
        if len(between[0]) > most:
            failed.append(len(between[0]))
            raise cupy.cuda.memory.OutOfMemoryError(1, 2, 3)
        return whole(between, *arguments)

    def function(encoded, which):
        asked.extend(range(which.start, which.stop))
        return upstream[which]

    monkeypatch.setattr(device.way_back, "block", limited)
    if not most:
        with pytest.raises(OutOfMemory, match="one image of 12x10x3 does not fit the GPU's memory"):
            device.encode_backward(images, network.layers, function)
        return
    found = device.encode_backward(images, network.layers, function)
    check_backward(device, images, network.layers, upstream, found)
    assert asked == list(range(23))
    failed.clear()
    device.encode_backward(images, network.layers, function)
    assert not failed  # what was learned holds


@pytest.mark.parametrize("free", [2000, 3000, 4500])
def test_a_device_that_is_nearly_full_takes_smaller_blocks(device, monkeypatch, free, rng, check_backward):
    """Real allocations fail here, wherever they are made; in KiB, for 23 images of some 300 each."""
    import cupy

    if "on a CPU" not in gpu.device_name():
        pytest.skip("the memory of a real GPU is not set by a variable")
    layers = [make_layer(3, rng, filters=48, subsampling=1)]
    images = rng.normal(size=(23, 16, 16, 3)).astype(np.float32)
    upstream = rng.normal(size=(23, 16, 16, 48)).astype(np.float32)
    device.encode_backward(images[:1], layers, upstream[:1])  # the anchors are there
    cupy.get_default_memory_pool().free_all_blocks()
    free_before, size = cupy.cuda.Device().mem_info
    monkeypatch.setenv("CKNCUDA_CPU_DEVICE_MEMORY", str(size - free_before + (free << 10)))
    check_backward(device, images, layers, upstream)
    assert device._most_back


def test_blocks_keep_to_the_memory_that_was_asked_for(device, monkeypatch, rng):
    """With as much on the device nothing is halved: maps, gradients, tiles and sums are counted."""
    import cupy

    if "on a CPU" not in gpu.device_name():
        pytest.skip("the memory of a real GPU is not set by a variable")
    layers = [make_layer(3, rng, filters=16), make_layer(16, rng, filters=20)]
    images = rng.normal(size=(40, 24, 24, 3)).astype(np.float32)
    upstream = rng.normal(size=(40, 6, 6, 20)).astype(np.float32)
    memory = 1 << 20
    backend = CupyBackend(memory)
    backend.encode_backward(images[:1], layers, upstream[:1])  # plans and anchors are there
    cupy.get_default_memory_pool().free_all_blocks()
    free_before, size = cupy.cuda.Device().mem_info
    monkeypatch.setenv("CKNCUDA_CPU_DEVICE_MEMORY", str(size - free_before + memory))
    backend.encode_backward(images, layers, upstream, by_maps=False)
    assert not backend._most_back
    shapes = [(24, 24, 3), (12, 12, 16), (6, 6, 20)]
    assert 2 < backend.way_back.images_of(layers, shapes, memory) < 40


class Cosine(DotProductKernel):
    """A kernel of a user's own, of which CUDA knows nothing."""

    name = "own"

    def _write(self, t, out):
        np.multiply(t, t, out=out)

    def derivative(self, t):
        return 2 * t


def test_what_cuda_does_not_know_takes_array_operations_and_says_so(device, rng, caplog, check_backward):
    layers = [make_layer(2, rng, kernel=Cosine(), filters=3), make_layer(3, rng)]
    with caplog.at_level(logging.INFO, "ckncuda"):
        check_backward(device, rng.normal(size=(3, 9, 9, 2)), layers)
    assert "A layer's way back takes array operations: the kernel own has no CUDA form" in caplog.text
    reasons = [encode_backward.unfused_reason(layer.spec, (9, 9, 2)) for layer in layers]
    assert [reason is None for reason in reasons] == [False, True]
    assert "kernels divide up to 1048576" in str(
        encode_backward.unfused_reason(layers[1].spec, (3, 1 << 20, 2))
    )


@pytest.mark.parametrize("kernel", SMOOTH_KERNELS, ids=repr)
@pytest.mark.parametrize(
    "options",
    [
        {"patch": (2, 3), "even_padding": "both", "alignment": "centered", "scale": "floored_norm"},
        {"subsampling": 1, "padding": "valid"},
    ],
)
def test_array_operations_are_a_layersway_back_on_a_cpu_too(kernel, options, rng, relative_error):
    reference, layer = get_backend("reference"), make_layer(2, rng, kernel=kernel, epsilon=1e-2, **options)
    maps = rng.normal(size=(3, 9, 8, 2)).astype(np.float32)
    encoded = reference.encode(maps, [layer]).astype(np.float32)
    upstream, out = rng.normal(size=encoded.shape).astype(np.float32), np.empty_like(maps)
    weights, steps = plain.weights_of(layer, maps), plain.ArraySteps(layer.spec, maps.shape[1:], maps)
    (sums,) = plain.no_sums([weights])
    plain.layer_backward(maps, encoded, upstream, weights, steps, sums, out)
    by_maps, (by_anchors,) = reference.encode_backward(maps, [layer], upstream)
    assert relative_error(out, by_maps) <= GRADIENTS
    assert relative_error(plain.by_anchors_of(layer, *sums), by_anchors) <= GRADIENTS


def test_maps_may_begin_anywhere_and_be_bytes(device, rng, check_backward):
    """Four channels are read at once, where they lie at a multiple of 16 bytes."""
    layer = make_layer(4, rng)
    maps = (255 * rng.random(size=(3, 7, 7, 4))).astype(np.uint8)
    upstream = rng.normal(size=(3, 4, 4, 12)).astype(np.float32)
    shifted = device.asarray(np.concatenate([np.zeros(1, np.float32), (maps / 255).ravel()]))[1:]
    for images in (maps, device._cupy.asarray(maps), shifted.reshape(maps.shape)):
        found = device.encode_backward(images, [layer], upstream)
        check_backward(device, maps / 255, [layer], upstream, found)


def test_no_layers_and_no_images(device, rng):
    maps, upstream = rng.normal(size=(2, 5, 4, 3, 3)).astype(np.float32)
    by_maps, by_anchors = device.encode_backward(maps, [], upstream)
    assert np.array_equal(device.to_host(by_maps), upstream)
    assert by_anchors == []
    layer = make_layer(3, rng)
    by_maps, (of_layer,) = device.encode_backward(maps[:0], [layer], np.zeros((0, 2, 2, 12)))
    assert by_maps.shape == (0, 4, 3, 3)
    assert not of_layer.any()


def test_what_cannot_be_is_refused(device, rng):
    maps, layer = rng.normal(size=(2, 6, 6, 3)), make_layer(3, rng)
    with pytest.raises(InvalidSpec, match="the derivative of the kernel arccos0 is infinite"):
        device.encode_backward(maps, [make_layer(3, rng, kernel=ArcCosine(0))], maps)
    with pytest.raises(InvalidData, match=r"the gradient is of shape \[2, 6, 6, 3\]; .* of \[2, 3, 3, 12\]"):
        device.encode_backward(maps, [layer], maps)
    with pytest.raises(InvalidData, match="the gradient is of shape"):
        device.encode_backward(maps, [layer], lambda encoded, images: encoded[:, 1:])
    with pytest.raises(InvalidData, match="maps have 2 channels; the layer was learned on 3"):
        device.encode_backward(maps[..., :2], [layer], np.zeros((2, 3, 3, 12)))


def test_plans_are_kept_by_value(device, monkeypatch, rng):
    """A training makes a new layer every step."""
    made = []
    whole = encode_backward.FusedSteps.__init__
    monkeypatch.setattr(
        encode_backward.FusedSteps, "__init__", lambda steps, *of: made.append(of) or whole(steps, *of)
    )
    maps, layer = rng.normal(size=(2, 6, 6, 3)), make_layer(3, rng)
    for _ in range(3):
        other = Layer(layer.spec, layer.anchors[::-1].copy(), layer.projection)
        device.encode_backward(maps, [other], np.ones((2, 3, 3, 12)))
    assert len(made) == 1


SPECS = st.fixed_dictionaries(
    {
        "filters": st.integers(2, 5),
        "patch": st.sampled_from([1, 2, 3, (2, 3)]),
        "subsampling": st.integers(1, 3),
        "kernel": st.sampled_from(SMOOTH_KERNELS),
        "padding": st.sampled_from(["zero", "valid"]),
        "even_padding": st.sampled_from(["same", "both"]),
        "pooling": st.sampled_from(["gaussian", "average", "strided"]),
        "alignment": st.sampled_from(["corner", "centered", "valid"]),
        "scale": st.sampled_from(["norm", "floored_norm"]),
        "whitening": st.sampled_from(["ridge", "root"]),
    }
)


def moved(layer, direction, step):
    """The layer with its anchors a step further, not on the sphere but for squares of the step."""
    return Layer.from_anchors(layer.spec, layer.anchors + step * direction)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(specs=st.lists(SPECS, min_size=1, max_size=2), channels=st.integers(2, 4), seed=st.integers(0, 99))
def test_finite_differences_of_the_reference(device, specs, channels, seed):
    """What a small step along a direction changes, in float64, is the gradient's product with it."""
    rng, reference, shape = np.random.default_rng(seed), get_backend("reference"), (11, 10, channels)
    layers = []
    for options in specs:
        if options["whitening"] == "root" and not isinstance(options["kernel"], Exponential):
            options = options | {"whitening": "ridge"}  # √λ has no derivative at 0, where K_ZZ has less rank
        layer = make_layer(shape[2], rng, **options | {"epsilon": 0.1})
        try:
            shape = layer.spec.output_shape(shape)
        except InvalidSpec:  # a second layer's patches or steps may be larger than what the first leaves
            assume(False)
        layers.append(layer)
    maps = rng.normal(size=(2, 11, 10, channels))
    upstream = rng.normal(size=(2, *shape))
    by_maps, by_anchors = device.encode_backward(maps, layers, upstream)
    step = 1e-5

    def changes(along_maps, along_anchors):
        ends = (
            reference.encode(
                maps + sign * step * along_maps,
                [moved(layer, d, sign * step) for layer, d in zip(layers, along_anchors, strict=True)],
            )
            for sign in (1, -1)
        )
        return float((upstream * np.subtract(*ends)).sum()) / (2 * step)

    still = [np.zeros(layer.anchors.shape) for layer in layers]
    along = rng.normal(size=maps.shape)
    found = device.to_host(by_maps).astype(np.float64)
    close(changes(along, still), found, along)
    for i, layer in enumerate(layers):
        along = rng.normal(size=layer.anchors.shape)
        along -= (along * layer.anchors).sum(axis=(1, 2, 3), keepdims=True) * layer.anchors
        close(changes(0 * maps, [*still[:i], along, *still[i + 1 :]]), by_anchors[i], along)


def close(change, gradient, direction):
    """Compare a change along a direction with a gradient, on the scale of both."""
    size = np.linalg.norm(gradient) * np.linalg.norm(direction)
    assert abs(change - (gradient * direction).sum()) <= 1e-4 * size


def test_memory_does_not_change_what_small_sums_are(device, rng, relative_error):
    """Blocks of other sizes change last bits alone."""
    network, images = network_and_images(rng)
    upstream = rng.normal(size=(23, 3, 3, 8))
    few = CupyBackend(1 << 17).encode_backward(images, network.layers, upstream)
    many = device.encode_backward(images, network.layers, upstream)
    assert CupyBackend(1 << 17).way_back.images_of(network.layers, [(12, 10, 3)] * 3, 1 << 17) < 23
    for a, b in itertools.chain([(few[0].get(), many[0].get())], zip(few[1], many[1], strict=True)):
        assert relative_error(a, b) <= 1e-6


@pytest.mark.parametrize("width", [1, 7, 8, 9, 17, 26])
@pytest.mark.parametrize("filters", [1, 2, 4, 20, 40])
def test_runs_of_positions(device, monkeypatch, width, filters, rng, check_backward):
    """A row in one run and in several, of one length and of two; one lane and many: the same bits."""
    layer = make_layer(3, rng, filters=filters, subsampling=1, patch=(2, 1), epsilon=0.1)
    maps, upstream = rng.normal(size=(3, 2, width, 3)), rng.normal(size=(3, 2, width, filters))
    found = []
    for multiprocessors in (0, 1000):
        monkeypatch.setattr(device.gpu, "multiprocessors", multiprocessors)
        by_maps, by_anchors = device.encode_backward(maps, [layer], upstream)
        check_backward(device, maps, [layer], upstream, (by_maps, by_anchors))
        found.append((device.to_host(by_maps).tobytes(), by_anchors[0].tobytes()))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("numbers", "multiprocessors", "expected"),
    [
        ((128, 32, 32, 64), 132, (2048, (128, 16, 2, 3))),  # a batch of a training
        ((2000, 32, 32, 64), 132, (8000, (2000, 4, 8, 3))),
        ((1, 4, 5, 3), 132, (1, (1, 5, 1, 2))),
        ((9, 10, 17, 64), 0, (9, (9, 3, 6, 3))),
        ((9, 10, 17, 1), 0, (2, (9, 3, 6, 0))),
        ((9, 10, 17, 33), 0, (34, (9, 3, 6, 5))),
    ],
)
def test_runs_are_as_long_as_there_are_enough(numbers, multiprocessors, expected):
    assert encode_backward.runs_of(*numbers, multiprocessors) == expected


def test_a_projection_that_was_changed_is_taken(device, rng, check_backward):
    """K_ZZ^{-1/2} is what the layer holds, not what its anchors say."""
    layer = make_layer(3, rng)
    same = dataclasses.replace(layer, projection=layer.projection.copy())
    check_backward(device, rng.normal(size=(2, 6, 6, 3)), [same])
