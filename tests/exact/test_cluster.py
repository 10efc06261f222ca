"""Tiles over a Dask cluster: the same matrix, whatever becomes of the workers."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import cloudpickle
import numpy as np
import psutil
import pytest
from distributed import Client, LocalCluster

from ckncuda import Exponential, LayerSpec
from ckncuda.backend import get_backend
from ckncuda.errors import InvalidSpec
from ckncuda.exact import ExactKernel
from ckncuda.exact import cluster as distributed
from ckncuda.exact.cluster import ClusterUnavailable, distributed_blocks, local_cluster, remote_cluster
from ckncuda.exact.job import GramJob
from ckncuda.images.sources import ArrayImages

LAYER = LayerSpec(filters=1, patch=3, subsampling=2, kernel=Exponential(sigma=0.6))
GRAM = [sys.executable, "-m", "ckncuda.cli", "gram", "x.npy", "--tile", "8", "--preprocess", "none"]
GRAM += ["--layer", "patch=3,subsampling=2,kernel=exp,sigma=0.6"]
TILES = 325


class Deadly(ExactKernel):
    """Ends whoever computes it."""

    def block(self, *arguments, **options):
        os._exit(1)


@pytest.fixture
def job(rng):
    images = ArrayImages(rng.normal(size=(20, 8, 8, 1)).astype(np.float32))
    return GramJob(ExactKernel([LAYER]), images, tile=8)


@pytest.fixture
def threads():
    """A scheduler and a worker in threads of this process, which takes no time to start."""
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp", dashboard_address=None
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def environment():
    """Without the project's own variables, BLAS held to one thread."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CKNCUDA_")}
    return kept | {"OPENBLAS_NUM_THREADS": "1"}


def test_the_same_blocks_as_without_a_cluster(job, threads):
    expected = {str(tile): block for tile, block in job.blocks(job.tiling, get_backend("numpy"))}
    with remote_cluster(threads.scheduler_address) as client:
        found = dict(
            (str(tile), block)
            for tile, block in distributed_blocks(client, job, job.tiling, {"name": "numpy"})
        )
    assert found.keys() == expected.keys()
    for tile, block in found.items():
        np.testing.assert_array_equal(block, expected[tile])


def test_few_tiles_are_on_their_way_at_a_time(job, threads):
    begun = []

    def tiles():
        for tile in job.tiling:
            begun.append(tile)
            yield tile

    with remote_cluster(threads.scheduler_address) as client:
        blocks = distributed_blocks(client, job, tiles(), {"name": "numpy"})
        for number, _ in enumerate(blocks):
            assert len(begun) <= number + distributed.AHEAD * 2
    assert len(begun) == 6


def test_a_worker_of_another_version_is_refused(job, threads, monkeypatch):
    monkeypatch.setattr(distributed, "_version", lambda: "0.0.1")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with pytest.raises(ClusterUnavailable, match=r"the worker tcp://.* has ckncuda 0\.0\.1, this process"):
        with remote_cluster(threads.scheduler_address):
            pass


def test_what_a_worker_refuses_is_said_here(job, threads):
    with remote_cluster(threads.scheduler_address) as client:
        with pytest.raises(InvalidSpec, match="there is no backend 'abacus'"):
            list(distributed_blocks(client, job, job.tiling, {"name": "abacus"}))


def test_a_scheduler_without_workers(monkeypatch):
    monkeypatch.setattr(distributed, "CONNECT", 0.5)
    with LocalCluster(n_workers=0, processes=False, protocol="tcp", dashboard_address=None) as cluster:
        with pytest.raises(ClusterUnavailable, match="has no workers; start some with: dask worker tcp://"):
            with remote_cluster(cluster.scheduler_address):
                pass


def test_nothing_answers(monkeypatch):
    monkeypatch.setattr(distributed, "CONNECT", 0.5)
    with pytest.raises(
        ClusterUnavailable, match="no Dask scheduler answers at tcp://127.0.0.1:9 within 0.5 s"
    ):
        with remote_cluster("tcp://127.0.0.1:9"):
            pass


@pytest.mark.parametrize("address", ["localhost", "tcp://host", "http://host:80"])
def test_what_is_no_address(address):
    with pytest.raises(InvalidSpec, match="is not the address of a Dask scheduler, such as tcp://host:8786"):
        with remote_cluster(address):
            pass


def test_a_tile_that_ends_its_workers_ends_the_work(job, monkeypatch):
    monkeypatch.setattr(distributed, "FAILURES", 0)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    deadly = GramJob(Deadly([LAYER]), job.images, tile=20)
    with local_cluster(1) as client:
        with pytest.raises(ClusterUnavailable, match="a tile has ended 1 workers.*give a smaller --tile"):
            list(distributed_blocks(client, deadly, deadly.tiling, {"name": "numpy", "threads": 1}))


def test_a_cluster_of_no_workers():
    with pytest.raises(InvalidSpec, match="workers is 0"), local_cluster(0):
        pass


def workers_of(process):
    """The processes of a local cluster of its own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        return [child for child in children if any("spawn_main" in word for word in child.cmdline())]
    return []


def chunks(folder):
    return sum(1 for path in folder.glob("K.npy.part/c/*/*") if path.suffix == "")


def wait_until(condition, process):
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, environment):
    """A folder with images, x.npy, and their matrix as one process computes it, alone.npy."""
    folder = tmp_path_factory.mktemp("alone")
    images = np.random.default_rng(0).normal(size=(200, 8, 8, 3))
    np.save(folder / "x.npy", images.astype(np.float32))
    subprocess.run([*GRAM, "-o", "alone.npy"], cwd=folder, env=environment, check=True, capture_output=True)
    return folder


@pytest.fixture
def begun(tmp_path, alone, environment):
    """`ckn gram` over two workers, with some tiles written and many to come."""
    (tmp_path / "x.npy").symlink_to(alone / "x.npy")
    process = subprocess.Popen(
        [*GRAM, "-o", "K.npy", "--workers", "2", "--json"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        wait_until(lambda: chunks(tmp_path) > 10, process)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_worker_that_is_killed_changes_nothing(begun, alone, tmp_path):
    workers = workers_of(begun)
    assert len(workers) == 2
    workers[0].kill()
    written = chunks(tmp_path)
    assert written < 2 * TILES - 100
    stdout, stderr = begun.communicate(timeout=60)
    assert begun.returncode == 0, stderr
    assert "Traceback" not in stderr
    assert json.loads(stdout)["tiles"] == TILES
    assert (tmp_path / "K.npy").read_bytes() == (alone / "alone.npy").read_bytes()
    assert not (tmp_path / "K.npy.part").exists()


def test_ctrl_c_ends_all_and_keeps_what_there_is(begun, alone, tmp_path, environment):
    workers = workers_of(begun)
    os.killpg(begun.pid, signal.SIGINT)  # as a terminal does
    _, stderr = begun.communicate(timeout=30)
    assert begun.returncode == 130
    assert stderr.splitlines()[-1].startswith("Interrupted; the finished tiles are kept in K.npy.part")
    assert "Traceback" not in stderr
    psutil.wait_procs(workers, timeout=10)
    assert not any(worker.is_running() for worker in workers)
    done = subprocess.run(  # and goes on without a cluster
        [*GRAM, "-o", "K.npy", "--json"], cwd=tmp_path, env=environment, check=True, capture_output=True
    )
    assert json.loads(done.stdout)["tiles_found"] > 0
    assert (tmp_path / "K.npy").read_bytes() == (alone / "alone.npy").read_bytes()


def test_a_scheduler_that_goes_away(job, threads, monkeypatch):
    monkeypatch.setattr(distributed, "CONNECT", 1.0)
    with remote_cluster(threads.scheduler_address) as client:
        assert isinstance(client, Client)
        blocks = distributed_blocks(client, job, job.tiling, {"name": "numpy"})
        next(blocks)
        threads.close()
        with pytest.raises(ClusterUnavailable, match="the connection to the scheduler is lost"):
            list(blocks)
