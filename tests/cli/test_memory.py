"""Extraction takes as much memory for many images as for few."""

import sys

import numpy as np

# A child's peak begins with that of its parent, hence a small parent between pytest and it.
PARENT = """
import os, sys
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
print(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
sys.exit(os.waitstatus_to_exitcode(status))
"""


SMALL = (sys.executable, "-I", "-S", "-c", PARENT)


def test_memory_of_extract_does_not_grow_with_the_images(works, tmp_path, rng):
    images = rng.normal(size=(4000, 32, 32, 3)).astype(np.float32)  # 49 MB, which are mapped into memory
    np.save(tmp_path / "many.npy", images)
    np.save(tmp_path / "few.npy", images[:400])
    layer = "filters=16,patch=3,subsampling=2,kernel=exp,sigma=0.6"  # 65 MB of features for many
    works("fit", "few.npy", "-o", "m.ckn", "--layer", layer, "--preprocess", "none", "--patches", "2000")
    few, many = (
        works("extract", "m.ckn", f"{name}.npy", "-o", f"{name}-features.npy", through=SMALL).stdout
        for name in ("few", "many")
    )
    assert np.load(tmp_path / "many-features.npy", mmap_mode="r").shape == (4000, 16 * 16 * 16)
    assert int(many.splitlines()[-1]) < 1.1 * int(few.splitlines()[-1])


def test_fit_of_large_images_keeps_to_its_memory(works, tmp_path, rng):
    """Patches, of the first layer and for whitening, are many times the images: few are made at a time."""
    small = rng.normal(size=(60, 28, 28, 3)).repeat(8, axis=1).repeat(8, axis=2)
    np.save(tmp_path / "photos.npy", (120 + 30 * small).clip(0, 255).astype(np.uint8))
    layer = "filters=16,patch=3,subsampling=4,kernel=exp,sigma=0.6"
    options = ("--layer", layer, "--memory", "64MiB", "--patches", "2000")
    done = works("fit", "photos.npy", "-o", "m.ckn", *options, through=SMALL)
    assert int(done.stdout.splitlines()[-1]) < 450e6
