"""Extraction takes as much memory for many images as for few."""

import subprocess
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


def peak(arguments, folder, environment):
    """The most bytes that a process held."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", PARENT, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return int(done.stdout.splitlines()[-1])


def test_memory_of_extract_does_not_grow_with_the_images(command, environment, works, tmp_path, rng):
    images = rng.normal(size=(4000, 32, 32, 3)).astype(np.float32)  # 49 MB, which are mapped into memory
    np.save(tmp_path / "many.npy", images)
    np.save(tmp_path / "few.npy", images[:400])
    layer = "filters=16,patch=3,subsampling=2,kernel=exp,sigma=0.6"  # 65 MB of features for many
    works("fit", "few.npy", "-o", "m.ckn", "--layer", layer, "--preprocess", "none", "--patches", "2000")
    few, many = (
        peak(
            [*command, "extract", "m.ckn", f"{name}.npy", "-o", f"{name}-features.npy"],
            tmp_path,
            environment(),
        )
        for name in ("few", "many")
    )
    assert np.load(tmp_path / "many-features.npy", mmap_mode="r").shape == (4000, 16 * 16 * 16)
    assert many < 1.1 * few


def test_fit_of_large_images_keeps_to_its_memory(command, environment, tmp_path, rng):
    """Patches, of the first layer and for whitening, are many times the images: few are made at a time."""
    small = rng.normal(size=(60, 28, 28, 3)).repeat(8, axis=1).repeat(8, axis=2)
    np.save(tmp_path / "photos.npy", (120 + 30 * small).clip(0, 255).astype(np.uint8))
    layer = "filters=16,patch=3,subsampling=4,kernel=exp,sigma=0.6"
    options = ["--layer", layer, "--memory", "64MiB", "--patches", "2000"]
    assert peak([*command, "fit", "photos.npy", "-o", "m.ckn", *options], tmp_path, environment()) < 450e6
