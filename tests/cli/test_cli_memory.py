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
    images = rng.integers(0, 256, (4000, 32, 32, 3), np.uint8)
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
    assert many - few < max(0.15 * few, 30e6)
