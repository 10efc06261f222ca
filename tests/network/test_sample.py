"""The sample that a layer learns from: the patches that were drawn, in whatever blocks and parts."""

import numpy as np
import pytest

from ckncuda import CKN, Exponential, LayerSpec
from ckncuda.backend import get_backend
from ckncuda.images.sources import ArrayImages
from ckncuda.network import network as module
from ckncuda.progress import Report

KERNEL = Exponential(sigma=0.6)
FIRST = LayerSpec(filters=6, patch=3, subsampling=2, kernel=KERNEL)
SECOND = LayerSpec(filters=5, patch=(2, 3), subsampling=1, kernel=KERNEL)
VALID = LayerSpec(filters=5, patch=3, subsampling=1, kernel=KERNEL, padding="valid")
IMAGES = np.random.default_rng(0).normal(size=(37, 9, 7, 2)).astype(np.float32)


def by_definition(layers, spec, patches, backend):
    """Cut the patches out one by one."""
    rng, maps = np.random.default_rng(7), backend.encode(IMAGES, layers) if layers else IMAGES
    shape = maps.shape[1:]
    height, width, _ = spec.map_shape(shape)
    chosen = np.sort(rng.choice(len(maps) * height * width, min(patches, len(maps) * height * width), False))
    padded = np.pad(maps, [(0, 0), *spec.margins, (0, 0)])
    h, w = spec.patch_shape
    places = zip(*np.unravel_index(chosen, (len(maps), height, width)), strict=True)
    return np.array([padded[i, y : y + h, x : x + w].ravel() for i, y, x in places])


@pytest.mark.parametrize("block", [1, 4, 16, 512])
@pytest.mark.parametrize("part", [1, 2000, 8 << 20])
@pytest.mark.parametrize("patches", [6, 40, 500, 10**6])
def test_the_sample_is_that_of_its_definition(monkeypatch, block, part, patches):
    backend = get_backend("numpy", threads=1)
    monkeypatch.setattr(module, "PART_BYTES", part)
    monkeypatch.setattr(type(backend), "images_per_block", lambda *_: block)
    network = CKN([FIRST]).fit(IMAGES, patches=200, backend=backend)
    for layers, spec in (((), FIRST), ((), VALID), (network.layers, SECOND)):
        rng = np.random.default_rng(7)
        sample = module._sample(layers, spec, ArrayImages(IMAGES), patches, backend, rng, Report())
        np.testing.assert_array_equal(sample, by_definition(layers, spec, patches, backend))
