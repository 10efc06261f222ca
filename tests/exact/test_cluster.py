"""Tiles over a Dask cluster: the same matrix, whatever becomes of the workers."""

import sys

import cloudpickle
import numpy as np
import pytest
from distributed import Client, LocalCluster
from factories import make_images, make_spec

from ckncuda.backend import get_backend
from ckncuda.errors import InvalidSpec
from ckncuda.exact import ExactKernel
from ckncuda.exact import cluster as distributed
from ckncuda.exact.cluster import ClusterUnavailable, distributed_blocks, remote_cluster
from ckncuda.exact.job import GramJob
from ckncuda.images.sources import ArrayImages

LAYER = make_spec()
# In this process, through no port: other users of the machine could connect to one.
IN_THREADS = {"processes": False, "protocol": "inproc", "dashboard_address": None}


@pytest.fixture
def job(rng):
    images = ArrayImages(make_images(rng, 20, 8, 8, 1))
    return GramJob(ExactKernel([LAYER]), images, tile=8)


@pytest.fixture
def threads():
    """A scheduler and a worker in threads of this process, which takes no time to start."""
    with LocalCluster(n_workers=1, threads_per_worker=2, **IN_THREADS) as cluster:
        yield cluster


def test_the_same_blocks_as_without_a_cluster(job, threads):
    expected = {str(tile): block for tile, block in job.blocks(job.tiling, get_backend("numpy"))}
    with remote_cluster(threads.scheduler_address) as client:
        blocks = distributed_blocks(client, job, job.tiling, {"name": "numpy"})
        found = {str(tile): block for tile, block in blocks}
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
    with pytest.raises(ClusterUnavailable, match=r"the worker inproc://.* has ckncuda 0\.0\.1, this process"):
        with remote_cluster(threads.scheduler_address):
            pass


def test_what_a_worker_refuses_is_said_here(job, threads):
    with remote_cluster(threads.scheduler_address) as client:
        with pytest.raises(InvalidSpec, match="there is no backend 'abacus'"):
            list(distributed_blocks(client, job, job.tiling, {"name": "abacus"}))


def test_a_scheduler_without_workers_and_none_at_all(monkeypatch):
    monkeypatch.setattr(distributed, "CONNECT", 0.5)
    with LocalCluster(n_workers=0, **IN_THREADS) as cluster:
        for address, words in (
            (cluster.scheduler_address, "has no workers; start some with: dask worker inproc://"),
            ("tcp://127.0.0.1:9", "no Dask scheduler answers at tcp://127.0.0.1:9 within 0.5 s"),
        ):
            with pytest.raises(ClusterUnavailable, match=words), remote_cluster(address):
                pass


@pytest.mark.parametrize("address", ["localhost", "tcp://host", "http://host:80"])
def test_what_is_no_address(address):
    message = "is not the address of a Dask scheduler, such as tcp://host:8786"
    with pytest.raises(InvalidSpec, match=message), remote_cluster(address):
        pass


def test_a_scheduler_that_goes_away(job, threads, monkeypatch):
    monkeypatch.setattr(distributed, "CONNECT", 1.0)
    with remote_cluster(threads.scheduler_address) as client:
        assert isinstance(client, Client)
        blocks = distributed_blocks(client, job, job.tiling, {"name": "numpy"})
        next(blocks)
        threads.close()
        with pytest.raises(ClusterUnavailable, match="the connection to the scheduler is lost"):
            list(blocks)
