"""Exact kernels in the host's memory against `backend/reference.py`, and against golden files."""

import ast
import logging
from dataclasses import dataclass

import numpy as np
import pytest
from factories import SMOOTH_KERNELS
from hypothesis import given, settings
from hypothesis import strategies as st

from ckncuda import ArcCosine, Exponential, InversePolynomial, Linear, Polynomial, Series
from ckncuda.backend import numpy as numpy_backend
from ckncuda.backend.numpy import NumpyBackend
from ckncuda.backend.operations import NormedMaps
from ckncuda.backend.reference import ReferenceBackend
from ckncuda.errors import InvalidSpec
from ckncuda.layer import KernelLayer

KINDS = {"float64": 1e-11, "float32, plain": 2e-6, "float32, compiled": 2e-6}
"""How far, relative to the root of the product of the images' own kernels."""

KERNELS = [*SMOOTH_KERNELS, Polynomial(1000, offset=50.0), ArcCosine(0)]
EXP = Exponential(sigma=0.6)
reference = ReferenceBackend()


def spec(kernel=EXP, **options):
    return KernelLayer(**{"patch": 3, "subsampling": 2, "kernel": kernel} | options)


@pytest.fixture(params=KINDS)
def kind(request):
    if request.param == "float32, compiled" and not numpy_backend.has_numba():
        pytest.skip("Numba, the extra `fast`, is not installed")
    return request.param


def backend_of(kind, threads=2):
    return NumpyBackend(threads=threads, compiled=kind == "float32, compiled")


def normed(backend, maps, specs):
    return NormedMaps(maps, backend.patch_norms(maps, specs))


def normal(rng, n, n2, *shape):
    """Images of noise, n and n2 of them."""
    return rng.normal(size=(n, *shape)), rng.normal(size=(n2, *shape))


def check(kind, maps, maps2, specs, tangent=False, symmetric=False):
    """Norms and kernels are those of the reference; returns the kernels."""
    dtype, backend = kind.partition(",")[0], backend_of(kind)
    exact, exact2 = (normed(reference, m.astype(np.float64), specs) for m in (maps, maps2))
    first, second = (normed(backend, m.astype(dtype), specs) for m in (maps, maps2))
    tolerance = KINDS[kind]
    if tangent or any(each.kernel == ArcCosine(0) for each in specs):
        tolerance = np.sqrt(np.finfo(dtype).eps)  # its slope at 1 is infinite: κ_0(1 − ε) = 1 − √(2ε)/π
    for expected, actual in zip(exact.norms, first.norms, strict=True):
        assert actual.dtype == np.float64
        assert np.abs(actual - expected).max() <= 3 * tolerance * np.abs(expected).max()
    gram = backend.gram_block(first, second, specs, tangent=tangent, symmetric=symmetric)
    assert gram.dtype == dtype
    expected = reference.gram_block(exact, exact2, specs, tangent=tangent)
    own, own2 = (
        [reference.gram_block(each, each, specs, tangent=tangent)[0, 0] for each in singles]
        for singles in ([images[i : i + 1] for i in range(len(images))] for images in (exact, exact2))
    )
    assert (np.abs(gram - expected) <= tolerance * np.sqrt(np.multiply.outer(own, own2))).all()
    return gram


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_kernels(kind, kernel, rng):
    check(kind, *normal(rng, 3, 2, 12, 12, 3), [spec(kernel), spec(kernel)])


@pytest.mark.parametrize("tangent", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_depths(kind, depth, tangent, rng):
    check(kind, *normal(rng, 2, 3, 16, 16, 3), [spec(ArcCosine(1))] * depth, tangent)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "valid"},
        {"patch": 2},
        {"patch": 4, "padding": "valid"},
        {"patch": 1},
        {"patch": 5, "subsampling": 3},
        {"patch": (1, 3)},
        {"patch": (4, 1)},
        {"patch": (2, 3), "padding": "valid"},
        {"patch": (3, 2), "alignment": "centered"},
        {"subsampling": 1},
        {"pooling": "average"},
        {"pooling": "strided"},
        {"pooling": "average", "alignment": "centered"},
        {"alignment": "centered"},
        {"alignment": "valid"},
        {"scale": "floored_norm", "norm_floor": 1.0},
    ],
    ids=str,
)
def test_options(kind, options, rng):
    check(kind, *normal(rng, 2, 2, 14, 14, 3), [spec(**options), spec(ArcCosine(1), **options)])


@pytest.mark.parametrize("shape", [(9, 13, 3), (13, 9, 1), (8, 8, 5), (6, 70, 3), (5, 131, 2)], ids=str)
def test_shapes(kind, shape, rng):
    """Rows of positions that fill a panel of columns partly, several times, or more than one panel."""
    check(kind, *normal(rng, 2, 2, *shape), [spec(), spec(ArcCosine(1))])


@pytest.mark.parametrize("tangent", [False, True])
@pytest.mark.parametrize("padding", ["zero", "valid"])
def test_a_sequence_is_an_image_of_height_one(kind, padding, tangent, rng):
    layer = spec(ArcCosine(1), patch=(1, 4), subsampling=1, padding=padding)
    check(kind, *normal(rng, 3, 2, 1, 19, 4), [layer, layer], tangent)


@pytest.mark.parametrize("tangent", [False, True])
def test_tangents_of_patches_that_are_no_squares(kind, tangent, rng):
    layers = [spec(ArcCosine(1), patch=(2, 3)), spec(ArcCosine(1), patch=(3, 1))]
    check(kind, *normal(rng, 2, 3, 9, 12, 2), layers, tangent)


@dataclass(frozen=True)
class Cosine(Linear):
    """κ(t) = t under another name, without a function on any device."""

    name = "cosine"
    device_name = None


def test_a_kernel_without_a_compiled_function_takes_array_operations(kind, rng, caplog):
    with caplog.at_level(logging.INFO, "ckncuda"):
        check(kind, *rng.normal(size=(2, 2, 8, 8, 3)), [spec(Cosine()), spec()])
    said = "An exact kernel takes array operations: the kernel cosine has no compiled function" in caplog.text
    assert said == (kind == "float32, compiled")


@pytest.mark.parametrize("tangent", [False, True])
def test_only_half_of_a_symmetric_matrix_is_computed_and_it_is_the_same(kind, tangent, rng):
    maps = rng.normal(size=(11, 7, 7, 3))
    gram = check(kind, maps, maps, [spec(ArcCosine(1)), spec(ArcCosine(1))], tangent, symmetric=True)
    assert np.array_equal(gram, gram.T)


@pytest.mark.parametrize("tangent", [False, True])
def test_an_image_of_zeros_has_nothing_in_common_with_any(kind, tangent, rng):
    maps = rng.normal(size=(3, 8, 8, 3))
    maps[1] = 0
    maps[2, :4] = 0  # and patches of zeros are no matter
    gram = check(kind, maps, maps, [spec(ArcCosine(1)), spec(ArcCosine(1))], tangent)
    assert not gram[1].any()
    assert not gram[:, 1].any()


def test_images_of_very_different_brightness(kind, rng):
    maps = rng.normal(size=(2, 12, 12, 3)) * np.array([1e-3, 1e3])[:, None, None, None]
    maps[0, :6] *= 1e-3
    check(kind, maps, maps, [spec(), spec()])


def test_neither_threads_nor_neighbours_change_a_bit(kind, rng):
    maps = rng.normal(size=(20, 8, 8, 3)).astype(kind.partition(",")[0])
    specs = [spec(), spec()]
    one, backend = (backend_of(kind, threads) for threads in (1, 3))
    whole = one.gram_block(normed(one, maps, specs), normed(one, maps, specs), specs)
    images = normed(backend, maps, specs)
    parts = [backend.gram_block(images[:7], images, specs), backend.gram_block(images[7:], images, specs)]
    assert np.array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize("scale", ["norm", "floored_norm"])
def test_tangents_of_patches_below_the_floor(kind, scale, rng):
    maps = rng.normal(size=(3, 8, 8, 3)) * 0.1
    maps[0, :4] = 0
    specs = [spec(ArcCosine(1), norm_floor=1.0, scale=scale)] * 2
    check(kind, maps, maps, specs, tangent=True)


@pytest.mark.parametrize("kernel", [Series([0.1] * 10), Polynomial(4), InversePolynomial()], ids=repr)
def test_a_patch_beside_a_much_brighter_one(kind, kernel, rng):
    """Rounding of Winograd's algorithm is that of the brightest patch nearby: no cosine may leave [-1, 1]."""
    maps = rng.random(size=(2, 12, 12, 3)) * 1e-3
    maps[:, 5, 6] *= 1e9
    check(kind, maps, maps, [spec(kernel), spec(kernel)])


@settings(max_examples=15)
@given(
    height=st.integers(5, 20),
    width=st.integers(5, 20),
    channels=st.sampled_from([1, 2, 3, 4]),
    patch=st.integers(1, 4),
    subsampling=st.integers(1, 3),
    padding=st.sampled_from(["zero", "valid"]),
    kernel=st.sampled_from(KERNELS),
    seed=st.integers(0, 1000),
)
def test_any_two_layers(height, width, channels, patch, subsampling, padding, kernel, seed):
    shape = height, width, channels
    specs = [spec(kernel, patch=patch, subsampling=subsampling, padding=padding), spec(patch=2)]
    try:
        specs[1].output_shape(specs[0].output_shape(shape))
    except InvalidSpec:
        return
    images = normal(np.random.default_rng(seed), 2, 1, *shape)
    for kind in KINDS:
        if kind != "float32, compiled" or numpy_backend.has_numba():
            check(kind, *images, specs)


def golden_specs(model):
    layers, kind = ast.literal_eval(model)
    kernels = {"exp": EXP, "relu": ArcCosine(1), "poly2": Polynomial(2)}
    specs = []
    for layer in layers:
        own = {"patch": layer["npatch"], "subsampling": layer["subsampling"], "pooling": layer["pooling"]}
        specs.append(spec(kernels[layer["kernel"]], alignment="valid", norm_floor=1e-6, **own))
    return specs, kind == "ntk"


@pytest.mark.parametrize(
    "name",
    ["exp_2_5", "exp_2_2_2", "relu_2_5", "ntk_2_5", "exp_poly2_2_5", "exp_average_2_4", "exp_strided_2_4"],
)
def test_golden_matrices(kind, name, shared_file):
    """Of Bietti's program, on real images."""
    data = np.load(shared_file("golden/exact_kernels.npz"))
    specs, tangent = golden_specs(str(data[f"model_{name}"]))
    images = data["images"].astype(kind.partition(",")[0])
    backend = backend_of(kind)
    images = normed(backend, images, specs)
    gram = backend.gram_block(images, images, specs, tangent=tangent)
    tolerance = 1e-8 if kind == "float64" else 1e-4
    assert np.abs(gram / data[f"gram_{name}"] - 1).max() <= tolerance
