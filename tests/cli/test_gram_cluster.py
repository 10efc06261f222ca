"""`ckn gram --workers`: the same matrix, whatever becomes of the workers."""

import contextlib
import json
import os
import signal
import time

import numpy as np
import psutil
import pytest
from factories import make_images, make_spec
from gram_files import chunks, wait_for_chunks

from ckncuda.exact import gram

GRAM = ("gram", "x.npy", "-o", "K.npy", "--tile", "8", "--preprocess", "none", "--json")
GRAM += ("--layer", "patch=3,subsampling=2,kernel=exp,sigma=0.6")
TILES = 325


@pytest.fixture(scope="module")
def alone():
    """Images, and their matrix as one process computes it."""
    images = make_images(np.random.default_rng(0), 200, 8, 8, 3)
    return images, gram(images, [make_spec()], tile=8, backend="numpy")


def workers_of(process):
    """The processes of a local cluster of its own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        return [child for child in children if any("spawn_main" in word for word in child.cmdline())]
    return []


@pytest.fixture
def begun(tmp_path, alone, start):
    """`ckn gram` over two workers, with some tiles written and many to come."""
    np.save(tmp_path / "x.npy", alone[0])
    process = start(*GRAM, "--workers", "2")
    wait_for_chunks(process, tmp_path / "K.npy.part", 11)
    return process


def test_no_port_is_opened_to_which_somebody_else_could_connect(begun):
    every = [psutil.Process(begun.pid), *psutil.Process(begun.pid).children(recursive=True)]
    assert [place for process in every for place in process.net_connections("inet")] == []


def test_a_worker_that_is_killed_changes_nothing(begun, alone, tmp_path):
    workers = workers_of(begun)
    assert len(workers) == 2
    workers[0].kill()
    assert chunks(tmp_path / "K.npy.part") < 2 * TILES - 100
    stdout, stderr = begun.communicate(timeout=60)
    assert begun.returncode == 0, stderr
    assert "Traceback" not in stderr
    assert json.loads(stdout)["tiles"] == TILES
    assert np.array_equal(np.load(tmp_path / "K.npy"), alone[1])
    assert not (tmp_path / "K.npy.part").exists()


def test_ctrl_c_ends_all_and_keeps_what_there_is(begun, alone, works, tmp_path):
    workers, moment = workers_of(begun), time.monotonic()
    os.killpg(begun.pid, signal.SIGINT)  # as a terminal does
    _, stderr = begun.communicate(timeout=30)
    assert time.monotonic() - moment < 2
    assert begun.returncode == 130
    assert stderr.splitlines()[-1].startswith("Interrupted; the finished tiles are kept in K.npy.part")
    assert "Traceback" not in stderr
    psutil.wait_procs(workers, timeout=10)
    assert not any(worker.is_running() for worker in workers)
    done = works(*GRAM)  # and goes on without a cluster
    assert json.loads(done.stdout)["tiles_found"] > 0
    assert np.array_equal(np.load(tmp_path / "K.npy"), alone[1])
