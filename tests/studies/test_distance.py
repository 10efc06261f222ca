"""Networks with anchor points approach their exact kernel."""

import itertools

import numpy as np
import pytest

from ckncuda import CKN, ArcCosine, Exponential, LayerSpec
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.exact import ExactKernel, gram
from ckncuda.studies.distance import network_distance, nystrom_distances
from ckncuda.studies.plots import draw_distances

EXP = Exponential(sigma=0.6)


@pytest.fixture(scope="module")
def images():
    """Small ones whose neighbouring pixels are alike."""
    images = np.random.default_rng(0).normal(size=(60, 9, 9, 1))
    for axis in (1, 2):
        images += 0.7 * np.roll(images, 1, axis)
    return images.astype(np.float32)


@pytest.mark.parametrize("kernel", [EXP, ArcCosine(1)], ids=str)
def test_the_more_anchor_points_the_closer_to_the_exact_kernel(images, kernel):
    layers = [LayerSpec(1, 2, 2, kernel, epsilon=1e-6)] * 2
    distances = nystrom_distances(images, layers, [8, 32, 128], seed=0, backend="numpy")
    found = [each.distance for each in distances]
    assert all(more < 0.7 * fewer for fewer, more in itertools.pairwise(found))
    assert found[-1] < found[0] / 6


def test_the_distance_is_that_of_the_gram_matrices(images):
    layers = [LayerSpec(8, 3, 2, EXP)]
    network = CKN(layers).fit(images, seed=0, backend="numpy")
    features = network.transform(images, backend="numpy").reshape(len(images), -1).astype(np.float64)
    exact = gram(images, layers, dtype=np.float64, backend="numpy")
    expected = np.linalg.norm(features @ features.T - exact) / np.linalg.norm(exact)
    assert network_distance(network, images, backend="numpy").distance == pytest.approx(expected, rel=1e-4)


def test_each_number_of_anchor_points_is_one_network(images):
    (one,) = nystrom_distances(images, [LayerSpec(1, 3, 2, EXP)], [8], seed=3, backend="numpy")
    network = CKN([LayerSpec(8, 3, 2, EXP)]).fit(images, seed=3, backend="numpy")
    assert one.filters == (8,)
    assert one.distance == network_distance(network, images, backend="numpy").distance


@pytest.mark.parametrize("options", [{"tangent": True}, {"flip": True}])
def test_kernels_that_no_network_approximates(images, options):
    with pytest.raises(InvalidSpec, match="leave"):
        nystrom_distances(images, ExactKernel([LayerSpec(1, 3, 2, ArcCosine(1))], **options), [4])


def test_decorrelation_is_refused(images):
    network = CKN([LayerSpec(8, 3, 2, EXP, decorrelation=0.25)]).fit(images, seed=0, backend="numpy")
    with pytest.raises(InvalidSpec, match="decorrelation"):
        network_distance(network, images, backend="numpy")


@pytest.mark.parametrize(("count", "words"), [(1, "only 1 image"), (5, "the 5 images are all alike")])
def test_images_that_do_not_differ(images, count, words):
    with pytest.raises(InvalidData, match=words):
        nystrom_distances(np.repeat(images[:1], count, axis=0), [LayerSpec(1, 3, 2, EXP)], [4])


def test_plot(images, tmp_path):
    layers = [LayerSpec(8, 3, 2, EXP)]
    distances = nystrom_distances(images[:10], layers, [4, 8], seed=0, backend="numpy")
    draw_distances(distances, str(tmp_path / "distance.png"), "distances", given=distances[0])
    assert (tmp_path / "distance.png").read_bytes().startswith(b"\x89PNG")
