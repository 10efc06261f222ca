"""Gram matrices in memory: tiles, mirror images, types, refusals."""

import numpy as np
import pytest

from ckncuda import ArcCosine, Exponential, LayerSpec
from ckncuda.backend import get_backend
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.exact import ExactKernel, gram
from ckncuda.exact.tiles import Tiling

EXP = Exponential(sigma=0.6)


def layers(**options):
    return [LayerSpec(**{"filters": 1, "patch": 3, "subsampling": 2, "kernel": EXP} | options)] * 2


def exact(images, specs, images2=None, **options):
    return gram(images, specs, images2, dtype=np.float64, backend="reference", **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tile", [1, 3, 100])
def test_tiles_make_the_whole(tile, dtype, rng):
    images = rng.normal(size=(7, 8, 8, 3))
    matrix = gram(images, layers(), dtype=dtype, tile=tile, backend="numpy")
    assert matrix.dtype == dtype
    assert np.array_equal(matrix, matrix.T)
    assert np.allclose(matrix, exact(images, layers()), rtol=1e-5 if dtype == np.float32 else 1e-12)


def test_two_sets_of_images(rng):
    images, others = rng.normal(size=(5, 8, 8, 1)), rng.normal(size=(3, 8, 8, 1))
    matrix = gram(images, layers(), others, dtype=np.float64, tile=2, backend="numpy")
    assert np.allclose(matrix, exact(images, layers(), others), rtol=1e-12)


def test_bytes_are_scaled(rng):
    images = rng.integers(0, 256, size=(3, 8, 8, 3), dtype=np.uint8)
    assert np.allclose(gram(images, layers(), backend="numpy"), exact(images / 255, layers()), rtol=1e-5)


# Of 11 columns `corner` is symmetric, of 12 it is not; a patch of 2x2 never is.
@pytest.mark.parametrize("width", [11, 12])
@pytest.mark.parametrize(
    "options", [{}, {"alignment": "centered"}, {"patch": 2}, {"alignment": "valid"}], ids=str
)
def test_flip_is_the_mean_over_mirror_images(width, options, rng):
    images, others = rng.normal(size=(4, 15, width, 2)), rng.normal(size=(2, 15, width, 2))
    specs = layers(**options)[:1]
    expected = sum(
        exact(a, specs, b) for a in (images, images[:, :, ::-1]) for b in (others, others[:, :, ::-1])
    )
    actual = gram(images, specs, others, flip=True, dtype=np.float64, backend="numpy")
    assert np.allclose(actual, expected / 4, rtol=1e-12)
    own = gram(images, specs, flip=True, dtype=np.float64, backend="numpy")
    assert np.array_equal(own, own.T)
    assert np.allclose(own, gram(images, specs, images[:, :, ::-1], flip=True, dtype=np.float64), rtol=1e-12)


@pytest.mark.parametrize(
    ("alignment", "flip", "compared"), [("centered", True, 2), ("corner", True, 4), ("corner", False, 1)]
)
def test_flips_cost_twice_where_pooling_is_symmetric(alignment, flip, compared, rng, monkeypatch):
    backend, counted = get_backend("numpy"), []
    block = backend.gram_block
    monkeypatch.setattr(
        backend, "gram_block", lambda *pairs, **how: counted.append(1) or block(*pairs, **how)
    )
    images = rng.normal(size=(2, 12, 12, 1))
    gram(images, layers(alignment=alignment), images[:1], flip=flip, backend=backend)
    assert len(counted) == compared


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("tangent", [False, True])
def test_gram_matrices_have_no_negative_eigenvalue(tangent, flip, rng):
    images = rng.normal(size=(8, 10, 10, 3))
    specs = layers(kernel=ArcCosine(1))
    matrix = gram(images, specs, tangent=tangent, flip=flip, dtype=np.float64, backend="numpy")
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert eigenvalues[0] > -1e-9 * eigenvalues[-1]


def test_progress_counts_pairs(rng):
    told = []
    images = rng.normal(size=(5, 6, 6, 1))
    gram(images, layers()[:1], tile=2, backend="numpy", progress=lambda *stage: told.append(stage))
    assert told[-1] == ("Gram matrix", 15, 15)
    assert told == sorted(told)


def test_every_pair_is_in_one_tile():
    for tiling in (Tiling(10, None, 4), Tiling(10, 7, 4), Tiling(3, 5, 100)):
        seen = np.zeros(tiling.shape, int)
        for tile in tiling:
            seen[tile.rows, tile.columns] += 1
            if tile.mirrored:
                seen[tile.columns, tile.rows] += 1
        assert (seen == 1).all()
    assert Tiling(10, None, 4).pairs == 55


IMAGES = np.zeros((2, 8, 8, 3))


@pytest.mark.parametrize(
    ("images", "options", "error", "words"),
    [
        (IMAGES, {"dtype": np.float16}, InvalidSpec, "float32 or float64"),
        (IMAGES, {"tile": 0}, InvalidSpec, "tile is 0"),
        (IMAGES, {"specs": []}, InvalidSpec, "at least one layer"),
        (IMAGES, {"tangent": True}, InvalidSpec, "layer 1: .*arccos1"),
        (IMAGES, {"flip": "yes"}, InvalidSpec, "flip"),
        (IMAGES, {"specs": layers(decorrelation=0.2)}, InvalidSpec, "decorrelation"),
        (IMAGES, {"specs": layers(kernel=Exponential(quantile=0.1))}, InvalidSpec, "sigma, not quantile"),
        (IMAGES, {"specs": layers(patch=20)}, InvalidSpec, "layer 1 does not fit"),
        (IMAGES, {"images2": np.zeros((2, 9, 8, 3))}, InvalidData, "8x8x3 and of 9x8x3"),
        (IMAGES, {"images2": np.zeros((2, 8, 8, 3), np.uint8)}, InvalidData, "float64 and uint8"),
        (IMAGES[:0], {}, InvalidData, "no images"),
        (IMAGES * np.nan, {}, InvalidData, "image 0 .*NaN"),
    ],
)
def test_refusals(images, options, error, words):
    options = {"specs": layers(), "backend": "numpy"} | options
    with pytest.raises(error, match=words):
        gram(images, **options)


def test_a_kernel_is_plain_data():
    kernel = ExactKernel(layers(kernel=ArcCosine(1)), tangent=True, flip=True)
    assert ExactKernel.from_dict(kernel.to_dict()) == kernel
    with pytest.raises(InvalidSpec, match="no option sigma"):
        ExactKernel.from_dict(kernel.to_dict() | {"sigma": 1})
