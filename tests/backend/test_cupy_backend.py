"""What the CUDA backend does around its kernels: tiles, blocks, streams, memory, arrays of others."""

import dataclasses
import logging
import subprocess
import sys

import gpu
import numpy as np
import pytest
from factories import make_images, make_layer, make_spec

from ckncuda import CKN, Exponential, Layer, Linear, load
from ckncuda.backend import get_backend
from ckncuda.backend.arrays import to_host
from ckncuda.backend.cupy import CupyBackend, encode, product
from ckncuda.backend.cupy.encode_tiling import MAP_STRIDE, Tiling, tiling
from ckncuda.errors import BackendUnavailable, InvalidData, InvalidSpec, OutOfMemory
from ckncuda.layer.dot_product import DotProductKernel

LIMIT = 227 << 10
TOLERANCE = 2e-5


@pytest.fixture
def device():
    with gpu.a_gpu():
        yield CupyBackend()


@pytest.fixture
def check(relative_error):
    """Asserts that a backend's maps, or those that were found, are the reference's."""

    def check(backend, maps, layers, tolerance=TOLERANCE, found=None):
        found = backend.encode(backend.asarray(maps), layers) if found is None else found
        assert relative_error(to_host(found), get_backend("reference").encode(maps, layers)) <= tolerance

    return check


@pytest.mark.parametrize("subsampling", [1, 2, 3, 5])
@pytest.mark.parametrize("alignment", ["corner", "centered", "valid"])
def test_few_images_are_cut_into_tiles_of_rows(device, monkeypatch, subsampling, alignment, rng, check):
    """The seams must not show."""
    layer = make_layer(3, rng, subsampling=subsampling, alignment=alignment)
    laid_out = tiling(layer.spec, (66, 20, 3), device.gpu.products, LIMIT)
    monkeypatch.setattr(device.gpu, "multiprocessors", 1000)
    assert laid_out.tile_rows(2, 1000) < laid_out.pooled_height
    check(device, rng.normal(size=(2, 66, 20, 3)), [layer])


@pytest.mark.parametrize("subsampling", [1, 2, 4])
def test_wide_images_are_cut_into_tiles_of_columns(device, subsampling, rng, check):
    layer = make_layer(3, rng, subsampling=subsampling)
    laid_out = tiling(layer.spec, (9, 300, 3), device.gpu.products, LIMIT)
    assert laid_out.tile_columns < laid_out.pooled_width
    check(device, rng.normal(size=(1, 9, 300, 3)), [layer])


@pytest.mark.parametrize("images", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [3, 5, 8])
def test_small_maps_share_a_block(device, images, size, rng, check):
    layer = make_layer(5, rng, filters=70)
    assert tiling(layer.spec, (size, size, 5), device.gpu.products, LIMIT).group >= 2
    check(device, rng.normal(size=(images, size, size, 5)), [layer])


@pytest.mark.parametrize("channels", [31, 32, 33, 34, 68, 100])
def test_many_channels_come_in_parts(device, channels, rng, check):
    check(device, rng.normal(size=(2, 6, 7, channels)), [make_layer(channels, rng)])


@pytest.mark.parametrize("channels", [40, 64])
def test_little_shared_memory_means_smaller_tiles(device, monkeypatch, channels, rng, check):
    layer = make_layer(channels, rng, patch=7, subsampling=3)
    shape = (24, 24, channels)
    large, small = (tiling(layer.spec, shape, device.gpu.products, kib << 10) for kib in (227, 64))
    assert isinstance(small, Tiling)
    assert small.shared_bytes(device.gpu.products) <= 64 << 10
    assert small != large
    monkeypatch.setattr(device.gpu, "shared_limit", 64 << 10)
    check(device, rng.normal(size=(2, *shape)), [layer])


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
    device, options, reason, scale, rng, check, caplog
):
    layer = make_layer(2, rng, scale=scale, **options)
    maps = rng.normal(size=(3, 71, 72, 2))
    assert reason in str(encode.unfused_reason(layer.spec, (71, 72, 2)))
    with caplog.at_level(logging.INFO, "ckncuda"):
        check(device, maps, [layer])
    assert f"A layer takes array operations: {reason}" in caplog.text


def test_array_operations_take_some_images_at_a_time(device, monkeypatch, rng, check):
    monkeypatch.setattr("ckncuda.backend.any_array.encode.AT_ONCE", 100_000)
    layer = make_layer(2, rng, kernel=Cosine())
    check(device, rng.normal(size=(7, 12, 13, 2)), [layer])


def network_and_images(rng, n=23):
    layers = [make_layer(3, rng), make_layer(12, rng, filters=8)]
    return CKN.from_layers(layers), make_images(rng, n, 12, 10, 3)


@pytest.mark.parametrize("block", [1, 4, 5, 100])
def test_blocks_are_copied_while_others_are_computed(device, monkeypatch, block, rng, check):
    """Blocks of unequal size, more than there are slots: no memory may be used before it is free."""
    network, images = network_and_images(rng)
    monkeypatch.setattr(device, "images_per_block", lambda layers, shape: block)
    check(device, images, network.layers, found=network.transform(images, backend=device))
    parts = [maps for _, maps in network.transform_blocks(images, backend=device)]
    check(device, images, network.layers, found=np.concatenate(parts))


def test_bytes_are_scaled_on_the_device(device, rng, check):
    network, images = network_and_images(rng)
    images = np.clip(100 + 50 * images, 0, 255).astype(np.uint8)
    check(device, images, network.layers, found=network.transform(images, backend=device))


def test_an_interrupted_stream_leaves_nothing_under_way(device, monkeypatch, rng):
    network, images = network_and_images(rng)
    monkeypatch.setattr(device, "images_per_block", lambda layers, shape: 5)

    class Broken:
        shape, dtype = images.shape, images.dtype

        def read(self, start, stop):
            if start >= 10:
                raise KeyboardInterrupt
            return images[start:stop]

    with pytest.raises(KeyboardInterrupt):
        network.transform(Broken(), backend=device)
    assert network.transform(images, backend=device).shape == (23, 3, 3, 8)


def test_what_is_under_way_is_waited_for_after_an_exception(device, monkeypatch, rng):
    """The device must not write to host memory that has been given back."""
    from ckncuda.backend.cupy import memory as cuda_blocks

    network, images = network_and_images(rng)
    events = []
    for name in ("begin", "end"):
        whole = getattr(cuda_blocks._Slot, name)

        def noted(slot, *arguments, name=name, whole=whole):
            events.append((name, slot))
            return whole(slot, *arguments)

        monkeypatch.setattr(cuda_blocks._Slot, name, noted)

    def blocks():
        yield images[:5]
        yield images[5:10]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(device.map_blocks(lambda block: device.encode(block, network.layers), blocks()))
    for slot in {slot for _, slot in events}:
        assert [name for name, other in events if other is slot][-1] == "end"


def test_a_layer_prepared_on_one_stream_serves_on_another(device, rng, check):
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
    check(device, images, network.layers, found=encoded)


def test_images_on_the_device_stay_there(device, rng, check):
    network, images = network_and_images(rng)
    on_device = device.asarray(images)
    features = network.transform(on_device, backend=device)
    assert type(features) is type(on_device)
    check(device, images, network.layers, found=features)


def test_images_on_the_device_are_checked_as_others_are(device, rng):
    network, images = network_and_images(rng)
    on_device = device.asarray(images)
    for backend in ("numpy", "reference"):
        with pytest.raises(InvalidData, match="the images are on a GPU, .* use the backend cupy"):
            network.transform(on_device, backend=backend)
    assert network.transform(on_device[:0], backend=device).shape == (0, 3, 3, 8)
    with pytest.raises(InvalidData, match="images are of type int32; give uint8"):
        network.transform(on_device.astype(np.int32), backend=device)
    on_device[3, 0, 0, 0] = np.nan
    with pytest.raises(InvalidData, match="images 0 to 22 hold NaN or infinite values"):
        network.transform(on_device, backend=device)


def test_bytes_on_the_device_need_not_lie_in_order(device, rng, check):
    network, _ = network_and_images(rng)
    images = rng.integers(0, 256, size=(5, 3, 12, 10), dtype=np.uint8)
    planar = device._on_device(images).transpose(0, 2, 3, 1)
    for maps in (planar, planar[::-1][::-1]):
        found = device.encode(maps, network.layers)
        check(device, images.transpose(0, 2, 3, 1), network.layers, found=found)


@pytest.mark.parametrize("name", ["cupy, float32", "cupy, float32 without tensor cores"])
def test_thousands_of_terms_of_one_sign(device, name, rng, check):
    """Tensor cores cut sums off: where all terms are positive, errors of one sign add up."""
    backend = gpu.cupy_backend(name)
    for kernel in (Exponential(sigma=0.4), Linear()):
        anchors = rng.random(size=(6, 3, 3, 512))
        anchors /= np.linalg.norm(anchors.reshape(6, -1), axis=1)[:, None, None, None]
        layer = Layer.from_anchors(make_spec(filters=6, kernel=kernel), anchors)
        layer = dataclasses.replace(layer, projection=np.eye(6))
        check(backend, rng.random(size=(1, 6, 6, 512)), [layer], 1e-5)
    patches = rng.random(size=(20, 4608))
    patches /= np.linalg.norm(patches, axis=1)[:, None]
    _, cosines = backend.nearest_anchor(backend.asarray(patches), backend.asarray(patches[::-1].copy()))
    np.testing.assert_allclose(backend.to_host(cosines), 1, atol=3e-6)


@pytest.mark.parametrize("scale", ["norm", "floored_norm"])
@pytest.mark.parametrize("precision", gpu.PRECISIONS)
def test_what_is_not_a_number_stays_so(device, scale, precision, rng):
    backend, layer = gpu.cupy_backend(precision), make_layer(3, rng, scale=scale)
    maps = make_images(rng, 2, 6, 6, 3)
    maps[1] = np.nan
    encoded = backend.to_host(backend.encode(backend.asarray(maps), [layer]))
    assert np.isfinite(encoded[0]).all()
    assert np.isnan(encoded[1]).all()


@pytest.mark.parametrize("channels", [3, 4])
def test_a_view_that_is_not_aligned_is_taken(device, channels, rng, check):
    """Parts of another library's array may begin anywhere; copies of 16 bytes may not."""
    maps = make_images(rng, 4, 7, 7, channels)
    padded = device.asarray(np.concatenate([np.zeros(1, np.float32), maps.ravel()]))
    view = padded[1:].reshape(maps.shape)
    layer = make_layer(channels, rng)
    check(device, maps, [layer], found=device.encode(view, [layer]))
    patches = device.asarray(np.concatenate([np.zeros(1, np.float32), maps.ravel()]))[1:].reshape(-1, 28)
    nearest, _ = device.nearest_anchor(patches, patches[:5])
    on_host = maps.reshape(-1, 28)
    assert np.array_equal(device.to_host(nearest), (on_host @ on_host[:5].T).argmax(axis=1))


def test_torch_tensors_are_taken_through_dlpack(device):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no GPU")
    rng = np.random.default_rng(0)
    network, images = network_and_images(rng)
    tensor = torch.from_numpy(images).cuda()
    features = network.transform(tensor, backend=device)
    assert features.is_cuda
    np.testing.assert_allclose(
        features.cpu().numpy(), network.transform(images, backend="numpy"), rtol=1e-3, atol=1e-4
    )


def out_of_memory_above(device, monkeypatch, images):
    """Let a layer fail for more images than this, as a device does whose memory is full."""
    import cupy

    whole = device.encoder.encode

    def limited(maps, layer):
        if len(maps) > images:
            raise cupy.cuda.memory.OutOfMemoryError(1, 2, 3)
        return whole(maps, layer)

    monkeypatch.setattr(device.encoder, "encode", limited)


def test_out_of_memory_halves_the_block_and_goes_on(device, monkeypatch, rng, check):
    network, images = network_and_images(rng)
    out_of_memory_above(device, monkeypatch, 3)
    check(device, images, network.layers)
    assert device.images_per_block(network.layers, (12, 10, 3)) <= 3


def test_an_image_that_does_not_fit_is_said(device, monkeypatch, rng):
    network, images = network_and_images(rng)
    out_of_memory_above(device, monkeypatch, 0)
    with pytest.raises(OutOfMemory, match="one image of 12x10x3 does not fit the GPU's memory"):
        device.encode(device.asarray(images), network.layers)


@pytest.mark.parametrize("free", [300, 450, 700, 1500])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_a_device_that_is_nearly_full_takes_smaller_blocks(device, monkeypatch, free, dtype, rng, check):
    """Real allocations fail here, wherever they are made; in KiB, for 23 images of 3 KiB and maps of 48."""
    network = CKN.from_layers([make_layer(3, rng, filters=48, subsampling=1)])
    images = (255 * rng.random(size=(23, 16, 16, 3))).astype(dtype)
    device.encode(device.asarray(images[:1]), network.layers)  # the anchors are there
    monkeypatch.setattr(device, "images_per_block", lambda layers, shape: 23)
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()
    taken = device_memory() - cupy.cuda.Device().mem_info[0]
    monkeypatch.setenv("CKNCUDA_CPU_DEVICE_MEMORY", str(taken + (free << 10)))
    check(device, images, network.layers, found=network.transform(images, backend=device))


def device_memory():
    import cupy

    if "on a CPU" not in gpu.device_name():
        pytest.skip("the memory of a real GPU is not set by a variable")
    return cupy.cuda.Device().mem_info[1]


def test_blocks_are_smaller_where_there_is_less_memory(device):
    rng = np.random.default_rng(0)
    layers = [make_layer(3, rng, filters=64)]
    small, large = (CupyBackend(memory) for memory in (64 << 20, 1 << 30))
    assert 1 <= small.images_per_block(layers, (224, 224, 3)) < large.images_per_block(layers, (224, 224, 3))


def test_precisions(device):
    with pytest.raises(InvalidSpec, match="there is no precision 'half'; the precisions are float32, tf32"):
        CupyBackend(precision="half")
    with pytest.raises(InvalidSpec, match="the backend numpy has no precision 'tf32'"):
        get_backend("numpy", precision="tf32")
    assert get_backend("cupy", precision="tf32").precision == "tf32"
    assert get_backend("auto").name == "cupy"


def test_an_old_gpu_computes_without_tensor_cores(device, monkeypatch, rng, check):
    monkeypatch.setattr("ckncuda.backend.cupy.device.compute_capability", lambda: 75)
    old = CupyBackend()
    assert old.gpu.products == "Fma"
    check(old, rng.normal(size=(2, 9, 9, 3)), [make_layer(3, rng)])
    with pytest.raises(BackendUnavailable, match=r"the precision tf32 needs compute capability 8.0 .* 7.5"):
        CupyBackend(precision="tf32")


def test_the_first_use_of_a_kernel_says_that_it_compiles(device, monkeypatch, tmp_path, rng, caplog):
    from ckncuda.backend.cupy.device import compiled

    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "new"))
    for expected in (1, 0):
        compiled.cache_clear()
        caplog.clear()
        with caplog.at_level(logging.INFO, "ckncuda"):
            device.encode(device.asarray(rng.normal(size=(1, 8, 8, 1))), [make_layer(1, rng)])
        assert caplog.text.count("Compiling CUDA kernels") == expected


def test_a_network_learned_on_the_device_serves_on_the_cpu_and_the_reverse(device, rng, check, tmp_path):
    images = make_images(rng, 30, 12, 12, 3)
    for learned_on, used_on in ((device, "numpy"), ("numpy", device)):
        network = CKN([make_spec()] * 2).fit(images, patches=2000, backend=learned_on)
        network.save(tmp_path / "net.ckn")
        found = load(tmp_path / "net.ckn").network.transform(images, backend=used_on)
        check(device, images, network.layers, found=found)


def learned(images, backend, patches=2000, **options):
    """The layer that a network of one layer learns."""
    return CKN([make_spec(**options)]).fit(images, patches=patches, backend=backend).layers[0]


def test_both_backends_learn_the_same_anchors(device, rng):
    """The same patches are drawn; assignments differ only where two anchors are equally near."""
    images = make_images(rng, 40, 12, 12, 3)
    on_device, on_host = (learned(images, backend, 3000).anchors for backend in (device, "numpy"))
    assert isinstance(on_device, np.ndarray)
    assert np.abs(on_device - on_host).max() < 1e-3


def test_learning_on_the_device_is_reproducible(device, rng):
    images = make_images(rng, 20, 12, 12, 3)
    first, second = (learned(images, device).anchors for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_quantiles_of_distances_are_taken_on_the_device(device, rng):
    images, kernel = make_images(rng, 20, 12, 12, 3), Exponential(quantile=0.1)
    sigmas = [learned(images, backend, kernel=kernel).spec.kernel.sigma for backend in (device, "numpy")]
    assert sigmas[0] == pytest.approx(sigmas[1], rel=1e-5)


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


def test_sums_of_many_patches_lose_nothing(device, rng):
    """In float32 they would: each patch is small beside the sum."""
    patches = (0.1 + 0.01 * rng.normal(size=(50_000, 1))).astype(np.float32)
    sums = device.sum_by_anchor(device.asarray(patches), device.asarray(np.zeros(50_000)), 1)
    np.testing.assert_allclose(device.to_host(sums)[0, 0], patches.sum(dtype=np.float64), rtol=2e-7)


def test_importing_the_backend_needs_no_cupy():
    code = "import sys, ckncuda.backend.cupy; assert 'cupy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
