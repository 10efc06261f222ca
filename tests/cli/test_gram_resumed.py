"""`ckn gram` after kills, interrupts, failing disks and damage: it goes on, and the matrix is the same."""

import os
import random
import signal
import time

import numpy as np
import pytest
from factories import make_spec
from gram_files import chunks, wait_for_chunks
from gram_files import read as stored

from ckncuda.exact import gram

LAYER = "patch=3,subsampling=2,kernel=exp,sigma=0.6"
SPEC = make_spec(filters=1)
MANY = ("gram", "x.npy", "--tile", "12", "--preprocess", "none", "--threads", "1", "--layer", LAYER)
TILES = 136


@pytest.fixture
def many(tmp_path, rng):
    """Images for a second of work or two in 136 tiles."""
    np.save(tmp_path / "x.npy", rng.normal(size=(192, 8, 8, 3)).astype(np.float32))


@pytest.mark.parametrize(("output", "kills"), [("K.zarr", 4), ("K.npy", 2)])
def test_kills_at_random_moments_change_no_bit(works, many, start, tmp_path, listing, output, kills):
    works(*MANY, "-o", f"whole-{output}")
    moments = random.Random(output)
    part = tmp_path / f"{output}.part"
    for kill in range(kills):
        process = start(*MANY, "-o", output)
        if kill % 3 == 0:  # before the first tile, or a little later: while it starts, reads, verifies
            time.sleep(moments.uniform(0, 0.8))
        else:
            wait_for_chunks(process, part, moments.randint(1, 12))
            time.sleep(moments.uniform(0, 0.01))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / output).exists()
    assert 1 <= works(*MANY, "-o", output, "--json").told["tiles_found"] < TILES
    before, after = tmp_path / f"whole-{output}", tmp_path / output
    assert listing(before) == listing(after)
    assert before.is_dir() or before.read_bytes() == after.read_bytes()
    assert not part.exists()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_interrupted_it_says_what_it_keeps(many, start, works, tmp_path, name):
    process = start(*MANY, "-o", "K.npy")
    part = tmp_path / "K.npy.part"
    wait_for_chunks(process, part, 5)
    process.send_signal(getattr(signal, name))
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stdout == ""
    assert "Traceback" not in stderr
    kept = "Interrupted; the finished tiles are kept in K.npy.part, and the same command goes on with them."
    assert stderr.splitlines()[-1] == kept
    assert sorted(os.listdir(tmp_path)) == ["K.npy.part", "x.npy"]
    damaged = next(path for path in part.glob("c/*/*") if path.suffix == "")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    there = chunks(part)
    done = works(*MANY, "-o", "K.npy")
    (plan,) = (line for line in done.stderr.splitlines() if line.startswith("Plan: "))
    assert f"of {TILES} tiles are finished and verified" in plan
    assert int(plan.split("; ")[1].split()[0]) <= (there + 1) // 2
    expected = gram(np.load(tmp_path / "x.npy"), [SPEC], tile=12)
    np.testing.assert_array_equal(stored(tmp_path / "K.npy"), expected)


def test_a_corrupted_tile_of_a_finished_matrix_is_recomputed(works, data, tmp_path, listing):
    arguments = ("gram", data.npy, "-o", "K.zarr", "--tile", 16, "--layer", LAYER)
    works(*arguments)
    whole = listing(tmp_path)
    assert "Plan: all 6 tiles are finished and verified" in works(*arguments).stderr
    chunk = tmp_path / "K.zarr/c/2/1"
    chunk.write_bytes(b"\0" + chunk.read_bytes()[1:])
    assert "5 of 6 tiles are finished and verified" in works(*arguments).stderr
    assert listing(tmp_path) == whole


def test_two_at_once(many, start, refused, tmp_path):
    process = start(*MANY, "-o", "K.zarr")
    wait_for_chunks(process, tmp_path / "K.zarr.part", 1)
    os.kill(process.pid, signal.SIGSTOP)  # so that no file changes meanwhile
    refused(*MANY, "-o", "K.zarr", words=["another process is computing K.zarr"])


def test_the_beginning_of_another_matrix(ckn, works, refused, data, tmp_path, limited_files):
    first = ("gram", data.npy, "-o", "K.zarr", "--preprocess", "none", "--layer", LAYER)
    too_large = "Error: cannot write K.zarr.part: File too large"
    with limited_files(2000):  # the file of a tile is larger
        done = ckn(*first, "--tile", 32, cwd=tmp_path)
    assert done.stderr.splitlines()[-1] == too_large
    assert os.listdir(tmp_path) == []
    works(*first, "--tile", 32)
    (tmp_path / "K.zarr").rename(tmp_path / "K.zarr.part")
    (tmp_path / "K.zarr.part/c/1/1").unlink()
    with limited_files(2000):
        done = ckn(*first, "--tile", 32, cwd=tmp_path)
    assert done.rc == 2
    kept = "its finished tiles are kept, the same command goes on"
    assert done.stderr.splitlines()[-1] == f"{too_large}; {kept}"
    assert "Traceback" not in done.stderr
    words = ["K.zarr.part holds the beginning of another matrix", "the kernel", "tile: 32 there, 16 here"]
    refused(*first, "--tile", 16, "--flip", words=words)
    works(*first, "--tile", 32)
    np.testing.assert_array_equal(stored(tmp_path / "K.zarr"), gram(data.images, [SPEC], tile=32))
