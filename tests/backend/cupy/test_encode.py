"""Tiles, parts and packed anchors of the fused kernel, and layers without a fused form."""

import dataclasses
import logging

import gpu
import numpy as np
import pytest
from factories import make_layer, network_and_images

from ckncuda import Exponential, Layer, LayerSpec, Linear
from ckncuda.backend.cupy import encode, pair_tiling, product
from ckncuda.backend.cupy.encode_tiling import MAP_STRIDE, Tiling, tiling
from ckncuda.backend.operations import NormedMaps
from ckncuda.layer.dot_product import DotProductKernel

LIMIT = 227 << 10


@pytest.mark.parametrize("subsampling", [1, 2, 3, 5])
@pytest.mark.parametrize("alignment", ["corner", "centered", "valid"])
def test_few_images_are_cut_into_tiles_of_rows(
    device, monkeypatch, subsampling, alignment, rng, check_encode
):
    """The seams must not show."""
    layer = make_layer(3, rng, subsampling=subsampling, alignment=alignment)
    laid_out = tiling(layer.spec, (66, 20, 3), device.gpu.products, LIMIT)
    monkeypatch.setattr(device.gpu, "multiprocessors", 1000)
    assert laid_out.tile_rows(2, 1000) < laid_out.pooled_height
    check_encode(device, rng.normal(size=(2, 66, 20, 3)), [layer])


@pytest.mark.parametrize("subsampling", [1, 2, 4])
def test_wide_images_are_cut_into_tiles_of_columns(device, subsampling, rng, check_encode):
    layer = make_layer(3, rng, subsampling=subsampling)
    laid_out = tiling(layer.spec, (9, 300, 3), device.gpu.products, LIMIT)
    assert laid_out.tile_columns < laid_out.pooled_width
    check_encode(device, rng.normal(size=(1, 9, 300, 3)), [layer])


@pytest.mark.parametrize("images", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [3, 5, 8])
def test_small_maps_share_a_block(device, images, size, rng, check_encode):
    layer = make_layer(5, rng, filters=70)
    assert tiling(layer.spec, (size, size, 5), device.gpu.products, LIMIT).group >= 2
    check_encode(device, rng.normal(size=(images, size, size, 5)), [layer])


@pytest.mark.parametrize("channels", [31, 32, 33, 34, 68, 100])
def test_many_channels_come_in_parts(device, channels, rng, check_encode):
    check_encode(device, rng.normal(size=(2, 6, 7, channels)), [make_layer(channels, rng)])


@pytest.mark.parametrize("channels", [40, 64])
def test_little_shared_memory_means_smaller_tiles(device, monkeypatch, channels, rng, check_encode):
    layer = make_layer(channels, rng, patch=7, subsampling=3)
    shape = (24, 24, channels)
    large, small = (tiling(layer.spec, shape, device.gpu.products, kib << 10) for kib in (227, 64))
    assert isinstance(small, Tiling)
    assert small.shared_bytes(device.gpu.products) <= 64 << 10
    assert small != large
    monkeypatch.setattr(device.gpu, "shared_limit", 64 << 10)
    check_encode(device, rng.normal(size=(2, *shape)), [layer])


class Cosine(DotProductKernel):
    """A kernel of a user's own, of which CUDA knows nothing."""

    name = "own"

    def _write(self, t, out):
        np.multiply(t, t, out=out)

    def derivative(self, t):
        return 2 * t


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"kernel": Cosine()}, "the kernel own has no CUDA form"),
        ({"subsampling": 70}, "its pooling takes 141 positions of a row"),
    ],
)
@pytest.mark.parametrize("scale", ["norm", "floored_norm"])
def test_what_has_no_fused_form_takes_array_operations_and_says_so(
    device, options, reason, scale, rng, caplog, check_encode
):
    layer = make_layer(2, rng, scale=scale, **options)
    maps = rng.normal(size=(3, 71, 72, 2))
    assert reason in str(encode.unfused_reason(layer.spec, (71, 72, 2)))
    with caplog.at_level(logging.INFO, "ckncuda"):
        check_encode(device, maps, [layer])
    assert f"A layer takes array operations: {reason}" in caplog.text


def test_array_operations_take_some_images_at_a_time(device, monkeypatch, rng, check_encode):
    monkeypatch.setattr("ckncuda.backend.any_array.encode.AT_ONCE", 100_000)
    layer = make_layer(2, rng, kernel=Cosine())
    check_encode(device, rng.normal(size=(7, 12, 13, 2)), [layer])


def test_a_layer_prepared_on_one_stream_serves_on_another(device, rng, check_encode):
    import cupy

    network, images = network_and_images(rng)
    maps = device.asarray(images)
    cupy.cuda.Device().synchronize()
    first, second = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    with first:
        device.encoder.prepare(network.layers[0], (12, 10, 3))
    with second:
        encoded = device.encode(maps, network.layers)
    second.synchronize()
    check_encode(device, images, network.layers, found=encoded)


def test_a_new_layer_of_a_known_geometry_is_not_planned_anew(device, rng):
    """As each step of a training makes one; what has been packed of a layer goes with it."""
    kept = make_layer(3, rng)
    plan, _ = device.encoder.prepare(kept, (9, 9, 3))
    for _ in range(3):
        other = Layer(kept.spec, kept.anchors[::-1].copy(), kept.projection)
        same, packed = device.encoder.prepare(other, (9, 9, 3))
        assert same is plan
        assert not (packed.anchors == device.encoder.prepare(kept, (9, 9, 3))[1].anchors).all()
    assert device.encoder.prepare(kept, (9, 8, 3))[0] is not plan
    del other
    assert list(device.encoder._packed) == [kept]


def test_a_launch_is_laid_out_once_for_so_many_images(device, monkeypatch, rng):
    """What a kernel is told of its tiles takes longer to make than to launch it."""
    made = []
    whole = Tiling.arguments
    monkeypatch.setattr(Tiling, "arguments", lambda *of: made.append(of[2]) or whole(*of))
    layers = [make_layer(3, rng), make_layer(12, rng)]
    for n in (5, 5, 5, 2, 5, 2):
        device.encode(device.asarray(rng.normal(size=(n, 12, 12, 3))), layers)
    assert made == [5, 5, 2, 2]


def test_a_launch_of_pairs_is_laid_out_once(device, monkeypatch, rng):
    made = []
    whole = dataclasses.astuple
    monkeypatch.setattr(pair_tiling.dataclasses, "astuple", lambda of: made.append(of) or whole(of))
    specs, maps = [make_layer(3, rng).spec, make_layer(12, rng).spec], rng.normal(size=(3, 12, 12, 3))
    maps = maps.astype(np.float32)
    images = NormedMaps(maps, device.patch_norms(maps, specs))
    for _ in range(3):
        device.gram_block(images, images, specs)
    assert len(made) == len(specs)


@pytest.mark.parametrize(
    ("name", "capability"),
    [("cupy, float32", "80"), ("cupy, float32", "90"), ("cupy, float32 without tensor cores", "90")],
)
def test_thousands_of_terms_of_one_sign(device, monkeypatch, name, capability, rng, check_encode):
    """Tensor cores cut sums off: where all terms are positive, errors of one sign add up.

    Without a GPU, as those of a capability do: 4.3e-6 and 1.1e-6 with those of 8.0, half of it from 9.0 on.
    Sums in float32, one term after another, are no better: cosines are 2.3e-6 off.
    """
    monkeypatch.setenv("CKNCUDA_CPU_COMPUTE_CAPABILITY", capability)
    backend = gpu.cupy_backend(name)
    for kernel in (Exponential(sigma=0.4), Linear()):
        spec = LayerSpec(filters=6, patch=3, subsampling=2, kernel=kernel)
        anchors = rng.random(size=(6, 3, 3, 512))
        anchors /= np.linalg.norm(anchors.reshape(6, -1), axis=1)[:, None, None, None]
        layer = dataclasses.replace(Layer.from_anchors(spec, anchors), projection=np.eye(6))
        check_encode(backend, rng.random(size=(1, 6, 6, 512)), [layer], 1e-5)
    patches = rng.random(size=(20, 4608))
    patches /= np.linalg.norm(patches, axis=1)[:, None]
    _, cosines = backend.nearest_anchor(backend.asarray(patches), backend.asarray(patches[::-1].copy()))
    np.testing.assert_allclose(backend.to_host(cosines), 1, atol=5e-6)


@pytest.mark.parametrize("scale", ["norm", "floored_norm"])
@pytest.mark.parametrize("precision", gpu.PRECISIONS)
def test_what_is_not_a_number_stays_so(device, scale, precision, rng):
    backend, layer = gpu.cupy_backend(precision), make_layer(3, rng, scale=scale)
    maps = rng.normal(size=(2, 6, 6, 3)).astype(np.float32)
    maps[1] = np.nan
    encoded = backend.to_host(backend.encode(backend.asarray(maps), [layer]))
    assert np.isfinite(encoded[0]).all()
    assert np.isnan(encoded[1]).all()


@pytest.mark.parametrize("channels", [3, 4])
def test_a_view_that_is_not_aligned_is_taken(device, channels, rng, check_encode):
    """Parts of another library's array may begin anywhere; copies of 16 bytes may not."""
    maps = rng.normal(size=(4, 7, 7, channels)).astype(np.float32)
    padded = device.asarray(np.concatenate([np.zeros(1, np.float32), maps.ravel()]))
    view = padded[1:].reshape(maps.shape)
    layer = make_layer(channels, rng)
    check_encode(device, maps, [layer], found=device.encode(view, [layer]))
    patches = device.asarray(np.concatenate([np.zeros(1, np.float32), maps.ravel()]))[1:].reshape(-1, 28)
    nearest, _ = device.nearest_anchor(patches, patches[:5])
    on_host = maps.reshape(-1, 28)
    assert np.array_equal(device.to_host(nearest), (on_host @ on_host[:5].T).argmax(axis=1))


def test_constants_of_the_host_are_those_of_the_kernels():
    from ckncuda.kernels import source

    text = source("encode") + source("nearest_anchor")
    for name in ("THREADS", "PATCHES", "ANCHORS", "TERMS"):
        assert f"constexpr int {name} = {getattr(product, name)};" in text
    assert "constexpr int STRIDE = ANCHORS + 8;" in text
    assert product.STRIDE == product.ANCHORS + 8
    assert "constexpr int MAP_STRIDE = ANCHORS + 4;" in text
    assert MAP_STRIDE == product.ANCHORS + 4


@pytest.mark.parametrize("precision", product.WORDS)
def test_anchors_are_packed_without_loss_of_place(precision, rng):
    layer = make_layer(6, rng, filters=70, kernel=Linear())
    laid_out = tiling(layer.spec, (9, 9, 6), precision, LIMIT)
    packed = encode.packed_anchors(layer, laid_out, precision)
    assert packed.shape == (2, laid_out.parts, laid_out.stages, product.WORDS[precision], 64)
    if precision == "Bf16":
        terms = np.stack([packed << 16, packed & np.uint32(0xFFFF0000)], axis=4).reshape(2, -1, 64)
    else:
        terms = packed.reshape(2, -1, 64)
    flat = terms.transpose(0, 2, 1).reshape(128, -1)[:70, : 9 * 6].copy().view(np.float32)
    expected = layer.anchors.reshape(70, -1).astype(np.float32)
    half_a_unit = {"Tf32": 2.0**-11, "Bf16": 2.0**-8}.get(precision, 0)  # rounded, not cut off
    assert (np.abs(flat - expected) <= half_a_unit * np.abs(expected)).all()
