import numpy as np
import pytest

from ckncuda import Exponential, LayerSpec
from ckncuda.backend import get_backend
from ckncuda.backend.reference import extract_patches
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.network.anchors import normalized, patches_at, spherical_kmeans


def sphere(rng, n, d, dtype=np.float32):
    x = rng.normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype)


@pytest.mark.parametrize("patch", [1, 2, 3, 4])
@pytest.mark.parametrize("padding", ["zero", "valid"])
def test_patches_are_those_of_the_forward_pass(rng, patch, padding):
    maps = rng.normal(size=(3, 7, 6, 2))
    spec = LayerSpec(filters=1, patch=patch, subsampling=1, kernel=Exponential(sigma=1), padding=padding)
    everywhere = extract_patches(maps, spec)
    image, y, x = np.unravel_index(np.arange(everywhere[..., 0].size), everywhere.shape[:3])
    assert np.array_equal(patches_at(maps, spec, image, y, x), everywhere.reshape(-1, everywhere.shape[3]))


def test_normalized_drops_patches_without_direction_and_closes_up_over_many_blocks(rng):
    patches = rng.normal(size=(5003, 7)).astype(np.float32)
    patches[rng.random(5003) < 0.3] = 0
    patches[rng.random(5003) < 0.1] *= np.float32(1e-7)
    kept = patches[np.linalg.norm(patches, axis=1) > 1e-5]
    unit = normalized(patches)
    np.testing.assert_allclose(unit, kept / np.linalg.norm(kept, axis=1)[:, None], rtol=1e-6)
    assert unit.base is patches  # no second array as large as the patches


def test_patches_that_cannot_be_normalized():
    with pytest.raises(InvalidSpec, match="all 5 patches have a norm below 1e-05.*nothing to learn"):
        normalized(np.zeros((5, 4), np.float32))
    with pytest.raises(InvalidData, match="too large.*float32; scale the images down"):
        with np.errstate(over="ignore"):
            normalized(np.full((5, 4), 1e30, np.float32))


def test_kmeans_finds_separated_clusters(rng):
    centres = np.eye(6, dtype=np.float32)
    patches = normalized(np.repeat(centres, 50, axis=0) + 0.05 * rng.normal(size=(300, 6)).astype(np.float32))
    found = spherical_kmeans(patches, 6, get_backend("numpy"), np.random.default_rng(3))
    cosines = found @ centres.T
    # Lloyd's iterations may merge two clusters; from this seed they do not.
    assert sorted(cosines.argmax(axis=1)) == list(range(6))
    assert cosines.max(axis=1).min() > 0.99


def test_kmeans_ends_where_lloyd_ends(rng):
    """Every centre is the normalised mean of the patches that are nearest to it."""
    patches = sphere(rng, 400, 5)
    backend = get_backend("numpy")
    centres = spherical_kmeans(patches, 7, backend, np.random.default_rng(0), max_iterations=500)
    nearest = (patches @ centres.T).argmax(axis=1)
    for j in range(7):
        mean = patches[nearest == j].sum(axis=0)
        assert mean @ centres[j] / np.linalg.norm(mean) > 0.999


def test_kmeans_is_monotone(rng):
    patches = sphere(rng, 1000, 6)
    backend = get_backend("numpy")
    means = []
    for iterations in (1, 2, 4, 8, 16):
        centres = spherical_kmeans(patches, 20, backend, np.random.default_rng(0), max_iterations=iterations)
        means.append(backend.nearest_anchor(patches, centres)[1].mean())
    assert means == sorted(means)


def test_an_empty_cluster_takes_the_worst_fitting_patch():
    """Five equal patches and one far away: two of three centres start equal, and one of them is empty."""
    patches = np.array([[1, 0]] * 40 + [[0, 1]], dtype=np.float32)
    for seed in range(20):
        centres = spherical_kmeans(patches, 2, get_backend("numpy"), np.random.default_rng(seed))
        assert sorted(centres.tolist()) == [[0, 1], [1, 0]]


def test_centres_are_unit_vectors_even_when_patches_cancel():
    patches = np.array([[1, 0], [-1, 0]] * 20, dtype=np.float32)
    centres = spherical_kmeans(patches, 1, get_backend("numpy"), np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, rtol=1e-6)


def test_kmeans_is_reproducible_on_any_number_of_threads(rng):
    patches = sphere(rng, 9000, 27)
    backends = (get_backend("numpy", threads=threads) for threads in (1, 2, 3, 1))
    results = [spherical_kmeans(patches, 32, each, np.random.default_rng(5)) for each in backends]
    assert len({centres.tobytes() for centres in results}) == 1


def test_more_clusters_than_patches(rng):
    with pytest.raises(InvalidSpec, match="20 filters were asked for, but there are only 10 patches"):
        spherical_kmeans(sphere(rng, 10, 4), 20, get_backend("numpy"), rng)
