"""Exact kernels on a GPU against `backend/reference.py`, and against Gram matrices of another program."""

import ast
import dataclasses
import logging

import gpu
import numpy as np
import pytest
from factories import SMOOTH_KERNELS
from kernel_cases import PAIR_PRECISIONS

from ckncuda import ArcCosine, Exponential, LayerSpec, Polynomial
from ckncuda.backend import get_backend
from ckncuda.backend.cupy import pair_tiling as cuda_pair_tiling
from ckncuda.backend.cupy import pairs as cuda_pairs
from ckncuda.backend.cupy.encode import LEAST_SHARED
from ckncuda.backend.operations import NormedMaps
from ckncuda.errors import OutOfMemory

TOLERANCE = 3e-6
TANGENT = 1e-5  # κ_0 has an infinite slope at 1
RELU = ArcCosine(1)


# Without "cupy" in their names: `make gpu`, which has no time to compile so many kinds, leaves these out.
@pytest.fixture(params=PAIR_PRECISIONS, ids=["tensor cores", "plain arithmetic"])
def device(request):
    with gpu.a_gpu():
        yield gpu.cupy_backend(request.param)


@pytest.fixture
def tensor_cores():
    with gpu.a_gpu():
        yield gpu.cupy_backend(PAIR_PRECISIONS[0])


def layer(**options):
    usual = {"filters": 1, "patch": 3, "subsampling": 2, "kernel": Exponential(sigma=0.6)}
    return LayerSpec(**usual | options)


def images(rng, n, height=8, width=7, channels=3):
    return rng.normal(size=(n, height, width, channels)).astype(np.float32)


def normed(maps, specs):
    return NormedMaps(maps, get_backend("reference").patch_norms(maps, specs))


def check(backend, specs, maps, *, tangent=False, tolerance=None, fused=True):
    """Norms, kernels of different images and of the same, each against the reference."""
    tolerance = tolerance or (TANGENT if tangent else TOLERANCE)
    assert (backend.fused_pairs(maps, specs, tangent) is not None) == fused
    reference = get_backend("reference")
    x, y = normed(maps, specs), normed(maps[:2], specs)
    for found, expected in zip(backend.patch_norms(maps, specs), x.norms, strict=True):
        assert type(found) is np.ndarray
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, atol=tolerance * expected.max())
    for symmetric, other in ((False, y), (True, x)):
        expected = reference.gram_block(x, other, specs, tangent=tangent)
        found = backend.gram_block(x, other, specs, tangent=tangent, symmetric=symmetric)
        assert type(found) is np.ndarray
        assert found.dtype == maps.dtype
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())
        assert not symmetric or np.array_equal(found, found.T)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("kernel", SMOOTH_KERNELS, ids=repr)
def test_every_kernel(device, kernel, depth, rng):
    options = [{}, {"patch": 2}, {"patch": 2, "subsampling": 1}][:depth]
    check(device, [layer(kernel=kernel, **own) for own in options], images(rng, 3))


def test_arccosine_of_degree_zero(device, rng):
    """Its slope is infinite at 1, where an image's patches meet themselves."""
    check(device, [layer(kernel=ArcCosine(0)), layer()], images(rng, 2), tolerance=1e-3)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_tangents(device, depth, rng):
    specs = [layer(kernel=RELU, alignment="valid"), layer(kernel=RELU), layer(kernel=RELU, patch=1)][:depth]
    check(device, specs, images(rng, 3, 10, 9), tangent=True)


@pytest.mark.parametrize("tangent", [False, True])
@pytest.mark.parametrize("padding", ["zero", "valid"])
@pytest.mark.parametrize("patch", [1, 2, 4, 5])
@pytest.mark.parametrize("subsampling", [1, 2, 3])
def test_every_patch_padding_and_subsampling(tensor_cores, padding, patch, subsampling, tangent, rng):
    spec = layer(kernel=RELU, padding=padding, patch=patch, subsampling=subsampling)
    second = layer(kernel=RELU, padding="zero", patch=min(patch, 2), subsampling=1)
    check(tensor_cores, [spec, second], images(rng, 2, 11, 10, 2), tangent=tangent)


@pytest.mark.parametrize("tangent", [False, True])
@pytest.mark.parametrize("padding", ["zero", "valid"])
@pytest.mark.parametrize(("first", "second"), [((1, 4), (1, 3)), ((3, 1), (2, 1)), ((2, 3), (3, 2))], ids=str)
def test_patches_of_any_height_and_width(tensor_cores, first, second, padding, tangent, rng):
    specs = [layer(kernel=RELU, padding=padding, patch=patch) for patch in (first, second)]
    check(tensor_cores, specs, images(rng, 2, 11, 12, 2), tangent=tangent)


@pytest.mark.parametrize("tangent", [False, True])
def test_sequences_as_images_of_height_one(device, tangent, rng):
    specs = [layer(kernel=RELU, patch=(1, 3), subsampling=1), layer(kernel=RELU, patch=(1, 2), subsampling=1)]
    check(device, specs, images(rng, 2, 1, 19, 4), tangent=tangent)


@pytest.mark.parametrize("pooling", ["gaussian", "average", "strided"])
@pytest.mark.parametrize("alignment", ["corner", "centered", "valid"])
@pytest.mark.parametrize("subsampling", [2, 3, 4])
def test_every_pooling_and_alignment(tensor_cores, pooling, alignment, subsampling, rng):
    options = {"pooling": pooling, "alignment": alignment}
    specs = [layer(patch=2, subsampling=subsampling, **options), layer(patch=2, **options)]
    height, width = {2: (13, 12), 3: (17, 16), 4: (23, 20)}[subsampling]
    check(tensor_cores, specs, images(rng, 2, height, width, 1))


@pytest.mark.parametrize("pooling", ["gaussian", "average", "strided"])
@pytest.mark.parametrize("alignment", ["corner", "centered", "valid"])
def test_every_pooling_without_tensor_cores(pooling, alignment, rng):
    with gpu.a_gpu():
        backend = gpu.cupy_backend(PAIR_PRECISIONS[1])
        specs = [layer(subsampling=3, pooling=pooling, alignment=alignment)]
        check(backend, specs, images(rng, 2, 13, 11, 2))


@pytest.mark.parametrize("tangent", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 5, 19])
def test_channels(device, channels, tangent, rng):
    check(device, [layer(kernel=RELU)], images(rng, 2, 5, 6, channels), tangent=tangent)


@pytest.mark.parametrize("tangent", [False, True])
@pytest.mark.parametrize("shape", [(3, 9), (9, 3), (4, 17), (3, 33), (2, 66), (40, 3)])
def test_shapes(device, shape, tangent, rng):
    """Narrow maps share a warp; wide ones take several, side by side; tall ones come in tiles."""
    specs = [layer(kernel=RELU, patch=2, subsampling=1), layer(kernel=RELU, patch=2)]
    check(device, specs, images(rng, 2, *shape, 1), tangent=tangent)


def test_patches_of_many_terms(device, rng):
    """Where all are positive, errors of one sign add up: tensor cores cut sums off."""
    maps = rng.random(size=(2, 3, 4, 64)).astype(np.float32)
    check(device, [layer()], maps)
    check(device, [layer(kernel=RELU)], maps, tangent=True)


@pytest.mark.parametrize("tangent", [False, True])
def test_little_shared_memory_means_smaller_tiles(tensor_cores, monkeypatch, tangent, rng):
    specs = [layer(kernel=RELU, subsampling=1), layer(kernel=RELU, subsampling=1)]
    maps = images(rng, 2, 12, 12, 1)
    large = cuda_pair_tiling.tilings(specs, maps.shape[1:], tangent, 227 << 10)
    limit = max(t.shared_bytes() for t in large) - 1
    small = cuda_pair_tiling.tilings(specs, maps.shape[1:], tangent, limit)
    assert sum(t.tile_rows for t in small) < sum(t.tile_rows for t in large)
    monkeypatch.setattr(tensor_cores.gpu, "shared_limit", limit)
    check(tensor_cores, specs, maps, tangent=tangent)


@pytest.mark.parametrize("tangent", [False, True])
@pytest.mark.parametrize("scale", ["norm", "floored_norm"])
@pytest.mark.parametrize("norm_floor", [1e-5, 1.0, 100.0])
def test_zeros_and_dark_patches(device, scale, norm_floor, tangent, rng):
    maps = images(rng, 4, 9, 8)
    maps[1] = 0
    maps[2, :5] = 0
    maps[3] *= 1e-3
    specs = [layer(kernel=RELU, scale=scale, norm_floor=norm_floor) for _ in range(2)]
    check(device, specs, maps, tangent=tangent)
    if scale == "norm":
        x = NormedMaps(maps, device.patch_norms(maps, specs))
        gram = device.gram_block(x, x, specs, tangent=tangent, symmetric=True)
        assert (gram[1] == 0).all()
        assert (gram[:, 1] == 0).all()


def test_large_and_small_numbers(device, rng):
    """Halves hold cosines only, whose range is known."""
    maps = images(rng, 3, 8, 8)
    maps[0] *= 1e6
    maps[1] *= 1e-2
    specs = [layer(), layer()]
    x = NormedMaps(maps, device.patch_norms(maps, specs))
    found = device.gram_block(x, x, specs)
    expected = get_backend("reference").gram_block(x, x, specs)
    np.testing.assert_allclose(found, expected, rtol=2e-6)


@pytest.mark.parametrize("symmetric", [False, True])
def test_images_and_pairs_come_in_parts(tensor_cores, monkeypatch, symmetric, rng):
    """The seams must not show; bytes, not tolerances."""
    specs, maps = [layer(), layer()], images(rng, 7, 6, 6, 1)
    x = NormedMaps(maps, tensor_cores.patch_norms(maps, specs))
    y = x if symmetric else x[:5]
    whole = tensor_cores.gram_block(x, y, specs, symmetric=symmetric)
    monkeypatch.setattr(cuda_pairs, "IMAGES_AT_ONCE", 3)
    monkeypatch.setattr(cuda_pairs, "PAIRS_AT_ONCE", 2)
    assert np.array_equal(tensor_cores.gram_block(x, y, specs, symmetric=symmetric), whole)
    for found, expected in zip(tensor_cores.patch_norms(maps, specs), x.norms, strict=True):
        assert np.array_equal(found, expected)


def out_of_memory_above(backend, monkeypatch, specs, maps, pairs):
    """Let a layer fail for more pairs than this, as a device does whose memory is full."""
    import cupy

    kernels = backend.fused_pairs(maps, specs, False)
    whole = kernels._next

    def limited(number, x, y, i, *others):
        if len(i) > pairs:
            raise cupy.cuda.memory.OutOfMemoryError(1, 2, 3)
        return whole(number, x, y, i, *others)

    monkeypatch.setattr(kernels, "_next", limited)


def test_pairs_that_do_not_fit_the_memory_go_through_in_halves(tensor_cores, monkeypatch, rng):
    specs, maps = [layer(), layer()], images(rng, 3, 6, 6, 1)
    x = NormedMaps(maps, tensor_cores.patch_norms(maps, specs))
    whole = tensor_cores.gram_block(x, x, specs)
    out_of_memory_above(tensor_cores, monkeypatch, specs, maps, 2)
    assert np.array_equal(tensor_cores.gram_block(x, x, specs), whole)
    out_of_memory_above(tensor_cores, monkeypatch, specs, maps, 0)
    with pytest.raises(OutOfMemory, match="the maps of one pair of images do not fit the GPU's memory"):
        tensor_cores.gram_block(x, x, specs)


def test_no_images_at_all(tensor_cores, rng):
    specs = [layer(), layer()]
    none, some = normed(images(rng, 1), specs)[:0], normed(images(rng, 2), specs)
    assert tensor_cores.gram_block(none, some, specs).shape == (0, 2)
    assert tensor_cores.gram_block(some, none, specs).shape == (2, 0)
    assert [n.shape for n in tensor_cores.patch_norms(none.maps, specs)] == [(0, 8, 7), (0, 4, 4)]


TOO_WIDE = "layer 1: its map is 257 positions wide; the fused kernel takes up to 256"


class Own(Polynomial):
    """A kernel of a user's own, of which CUDA knows nothing."""

    device_name = None


@pytest.mark.parametrize(
    ("options", "shape", "dtype", "reason"),
    [
        ({"kernel": Own(2)}, (6, 6, 1), "float32", "layer 1: the kernel poly has no CUDA form"),
        ({"kernel": RELU}, (6, 6, 1), "float64", "the fused kernels compute in float32, not in float64"),
        ({}, (6, 6, 1), "float64", "the fused kernels compute in float32, not in float64"),
        ({"kernel": RELU}, (3, 257, 1), "float32", TOO_WIDE),
    ],
)
def test_what_has_no_fused_form_takes_array_operations_and_says_so(
    tensor_cores, options, shape, dtype, reason, rng, caplog
):
    maps = images(rng, 2, *shape).astype(dtype)
    with caplog.at_level(logging.INFO, "ckncuda"):
        check(tensor_cores, [layer(**options)], maps, fused=False)
    assert f"An exact kernel takes array operations: {reason}" in caplog.text


def test_reasons_why_there_is_no_fused_form():
    reason = cuda_pair_tiling.tilings([layer(subsampling=1), layer()], (240, 200, 3), False, 227 << 10)
    assert reason == "layer 2: maps of pairs of 240x200 positions have more numbers than a kernel counts"
    reason = cuda_pair_tiling.tilings([layer(), layer(subsampling=17)], (48, 48, 3), False, 227 << 10)
    assert reason == "layer 2: its pooling takes 35 positions of a row; the fused kernel takes up to 33"
    reason = cuda_pair_tiling.tilings([layer()], (32, 32, 3), False, 9 << 10)
    assert reason == "layer 1: its maps need more than the 9 KiB of shared memory that a block may have"


@pytest.mark.parametrize("tangent", [False, True])
@pytest.mark.parametrize("side", [28, 32, 64, 96])
@pytest.mark.parametrize("subsampling", [1, 2, 4])
def test_usual_images_are_fused_on_any_gpu(side, subsampling, tangent):
    specs = [layer(kernel=RELU, subsampling=subsampling), layer(kernel=RELU)]
    assert isinstance(cuda_pair_tiling.tilings(specs, (side, side, 3), tangent, LEAST_SHARED), list)


def test_constants_of_the_host_are_those_of_the_kernels():
    from ckncuda.kernels import source

    products, sums = source("pair_products"), source("pair_sums")
    assert f"constexpr int STEP = {cuda_pair_tiling.STEP};" in products
    for text, kind in ((products, cuda_pair_tiling.ProductTiling), (sums, cuda_pair_tiling.SumTiling)):
        names = [field.name for field in dataclasses.fields(kind)][2:]
        start = text.index("int map_height, int map_width, int pooled_height")
        listed = [part.split()[-1] for part in text[start : text.index(") {", start)].split(",")]
        listed = [name for name in listed if name.isidentifier()]
        assert [name for name in listed if name in names] == names


KERNELS = {"exp": lambda s: Exponential(sigma=s), "relu": lambda s: RELU, "poly2": lambda s: Polynomial(2)}


@pytest.mark.parametrize("products", PAIR_PRECISIONS)
@pytest.mark.parametrize(
    "name",
    ["exp_2_5", "exp_2_2_2", "relu_2_5", "ntk_2_5", "exp_poly2_2_5", "exp_average_2_4", "exp_strided_2_4"],
)
def test_gram_matrices_of_another_program(name, products, shared_file):
    """Bietti's, in float64, of images of 32x32x3; two of them here, and three more on one side."""
    data = np.load(shared_file("golden/exact_kernels.npz"))
    layers, kind = ast.literal_eval(str(data[f"model_{name}"]))
    specs = [
        layer(
            patch=o["npatch"], subsampling=o["subsampling"], kernel=KERNELS[o["kernel"]](o["sigma"]),
            pooling=o["pooling"], alignment="valid", norm_floor=1e-6,
        )
        for o in layers
    ]  # fmt: skip
    maps = data["images"][:5].astype(np.float32)
    with gpu.a_gpu():
        backend = gpu.cupy_backend(products)
        x = NormedMaps(maps, backend.patch_norms(maps, specs))
        found = backend.gram_block(x, x[:2], specs, tangent=kind == "ntk")
    np.testing.assert_allclose(found, data[f"gram_{name}"][:5, :2], rtol=1e-5 if kind == "ntk" else 2e-6)
