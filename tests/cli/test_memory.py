"""Extraction takes as much memory for many images as for few."""

import re
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


LAYER = "filters=16,patch=3,subsampling=2,kernel=exp,sigma=0.6"


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


def peak(done):
    """The most memory of a command that was run `through` SMALL, in MiB."""
    return int(done.stdout.splitlines()[-1]) / 2**20


LARGE = "filters=64,patch=3,subsampling=4,kernel=exp,sigma=0.6"


def test_a_given_memory_holds_for_the_whole_command(works, refused, tmp_path, rng):
    """Above the peak of a tiny job: what must be held is counted before, and refused with what suffices."""
    labels = np.arange(600) % 3
    images = (rng.normal(size=(600, 32, 32, 3)) * 40 + 128 + 9 * labels[:, None, None, None]).clip(0, 255)
    images = images.astype(np.uint8)
    np.savez(tmp_path / "many.npz", images=images, labels=labels)
    np.savez(tmp_path / "few.npz", images=images[:30], labels=labels[:30])
    tiny = ("--layer", LAYER, "--preprocess", "none", "--patches", "500")
    base = peak(works("fit", "few.npz", "-o", "few.ckn", *tiny, through=SMALL))
    fit = ("fit", "many.npz", "-o", "many.ckn", "--layer", LARGE, "--patches", "4000")
    said = refused(*fit, "--memory", "64MiB", words=("--memory is 64 MiB",))
    enough = re.search(r"--memory is 64 MiB; the classifier.*give --memory (\d+)MiB", said)
    assert enough
    assert not (tmp_path / "many.ckn").exists()
    memory = int(enough[1])
    assert peak(works(*fit, "--memory", f"{memory}MiB", through=SMALL)) - base < memory
    for command, output in (("predict", "p.csv"), ("extract", "f.npy")):
        done = works(command, "many.ckn", "many.npz", "-o", output, "--memory", "96MiB", through=SMALL)
        assert peak(done) - base < 96


def test_a_preset_is_refused_before_the_work_where_its_memory_does_not_suffice(refused, tmp_path, rng):
    np.savez(tmp_path / "x.npz", images=rng.normal(size=(200, 32, 32, 3)), labels=np.arange(200) % 2)
    said = refused("fit", "x.npz", "-o", "m.ckn", "--preset", "best", "--memory", "64MiB", words=())
    assert re.search(r"--memory is 64 MiB; .* would take .*: give --memory \d+MiB, fewer filters", said)


def test_gram_is_refused_before_images_are_whitened(refused, tmp_path, rng):
    np.savez(tmp_path / "x.npz", images=rng.normal(size=(8, 40, 40, 3)).astype(np.float32))
    said = refused("gram", "x.npz", "-o", "K.npy", "--preprocess", "zca", "--memory", "64MiB", words=())
    assert re.search(r"preprocessing takes \d+ MiB.*give --memory \d+MiB", said)
    assert list(tmp_path.iterdir()) == [tmp_path / "x.npz"]
