"""Jobs compute a Gram matrix tile by tile, and tell one such matrix from another."""

import numpy as np
import pytest
from factories import make_spec

from ckncuda.backend import get_backend
from ckncuda.exact import ExactKernel, gram
from ckncuda.exact.job import GramJob, seconds_a_pair
from ckncuda.images.preprocess import ZCA
from ckncuda.images.preprocessed import PreprocessedImages, fit_preprocessing
from ckncuda.images.sources import ArrayImages

KERNEL = ExactKernel([make_spec(filters=1)])


@pytest.fixture
def images(rng):
    return ArrayImages(rng.normal(size=(9, 6, 6, 2)).astype(np.float32))


@pytest.mark.parametrize("rectangular", [False, True])
def test_a_job_gives_the_matrix_of_memory(images, rng, rectangular):
    backend = get_backend("numpy", threads=1)
    others = ArrayImages(rng.normal(size=(5, 6, 6, 2)).astype(np.float32)) if rectangular else None
    job = GramJob(KERNEL, images, others, dtype="float64", tile=4)
    expected = gram(images, KERNEL, others, dtype=np.float64, tile=4, backend=backend)
    for tile, block in job.blocks(job.tiling, backend):
        np.testing.assert_array_equal(block, expected[tile.rows, tile.columns])
    assert 0 < seconds_a_pair(job, next(iter(job.tiling)), backend) < 1


def test_identity_tells_matrices_apart(images):
    one = GramJob(KERNEL, images).identity("numpy")
    changed = images.array.copy()
    changed[3, 2, 1, 0] += 1
    others = [
        GramJob(KERNEL, ArrayImages(changed)),
        GramJob(KERNEL, images, images),
        GramJob(KERNEL, images, tile=3),
        GramJob(KERNEL, images, dtype="float64"),
        GramJob(ExactKernel(KERNEL.layers, flip=True), images),
        GramJob(KERNEL, images, preprocessing=fit_preprocessing(images, [ZCA()])),
    ]
    assert one == GramJob(KERNEL, ArrayImages(images.array.copy())).identity("numpy")
    filters = ExactKernel([KERNEL.layers[0].with_anchors(filters=64, epsilon=0.5)])
    assert one == GramJob(filters, images).identity("numpy")
    assert len({str(job.identity("numpy")) for job in others} | {str(one)}) == 7


def test_preprocessing_is_learned_from_the_first_images_alone(images, rng):
    others = ArrayImages(rng.normal(size=(3, 6, 6, 2)).astype(np.float32))
    steps = fit_preprocessing(images, [ZCA(epsilon=0.5)])
    job = GramJob(KERNEL, images, others, steps)
    tile = next(iter(job.tiling))
    maps, other_maps = job.read(tile)
    np.testing.assert_array_equal(maps, PreprocessedImages(images, steps).read(0, 9))
    np.testing.assert_allclose(other_maps, steps[0].apply(others.array), rtol=1e-5, atol=1e-6)
