"""Tiles over processes of this machine: the same matrix, and nobody else can talk to them."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from factories import make_images, make_spec

from ckncuda.backend import get_backend
from ckncuda.errors import InvalidSpec
from ckncuda.exact import ExactKernel, workers
from ckncuda.exact.cluster import ClusterUnavailable
from ckncuda.exact.job import GramJob
from ckncuda.exact.workers import LocalWorkers
from ckncuda.images.sources import ArrayImages

LAYER = make_spec()
NUMPY = {"name": "numpy", "threads": 1}


@pytest.fixture(scope="module")
def job():
    images = ArrayImages(make_images(np.random.default_rng(0), 20, 8, 8, 1))
    return GramJob(ExactKernel([LAYER]), images, tile=8)


@pytest.fixture(scope="module")
def expected(job):
    return {str(tile): block for tile, block in job.blocks(job.tiling, get_backend(**NUMPY))}


def children():
    """The workers that live."""
    every = psutil.Process().children(recursive=True)
    return [child for child in every if any("spawn_main" in word for word in child.cmdline())]


def same(found, expected):
    found = {str(tile): block for tile, block in found}
    assert found.keys() == expected.keys()
    for tile, block in found.items():
        np.testing.assert_array_equal(block, expected[tile])


def test_the_same_blocks_by_processes_that_listen_nowhere(job, expected):
    """Another user of the machine has nothing to connect to; what computes for whoever asks runs his code."""
    before = set(listening(psutil.Process()))
    with LocalWorkers(2, job, NUMPY) as ours:
        blocks = ours.blocks(job.tiling)
        found = [next(blocks)]
        assert len(children()) == 2
        every = [psutil.Process(), *psutil.Process().children(recursive=True)]
        assert {place for process in every for place in listening(process)} == before
        same([*found, *blocks], expected)
    assert children() == []


def listening(process):
    """Where somebody else could connect to a process: ports, and sockets that have a name."""
    return [s.laddr for s in process.net_connections("all") if s.laddr]


def test_a_worker_that_is_killed_changes_nothing(job, expected):
    with LocalWorkers(1, job, NUMPY) as ours:
        blocks = ours.blocks(job.tiling)
        found = [next(blocks)]
        children()[0].kill()
        same([*found, *blocks], expected)


def test_a_tile_that_ends_its_workers_ends_the_work(job, monkeypatch):
    monkeypatch.setattr(workers, "FAILURES", 1)
    monkeypatch.setattr(LocalWorkers, "_send", killing(LocalWorkers._send))
    with LocalWorkers(1, job, NUMPY) as ours:
        words = (
            "a tile has ended 2 workers, .*exit status -9: probably for lack of memory: give a smaller --tile"
        )
        with pytest.raises(ClusterUnavailable, match=words):
            list(ours.blocks(job.tiling))


def killing(send):
    def then_kill(self, worker, tile):
        send(self, worker, tile)
        worker.process.kill()

    return then_kill


def test_workers_that_do_not_start(job, monkeypatch, capfd):
    monkeypatch.setattr(workers, "FAILURES", 0)
    monkeypatch.setattr(
        sys, "path", [path for path in sys.path if "lib/python" in path and "site" not in path]
    )
    with LocalWorkers(1, job, NUMPY) as ours:
        with pytest.raises(ClusterUnavailable, match="exit status 1: it failed to start"):
            list(ours.blocks(job.tiling))
    capfd.readouterr()  # what it says


def test_what_a_worker_refuses_is_said_here(job):
    with LocalWorkers(1, job, {"name": "abacus"}) as ours:
        with pytest.raises(InvalidSpec, match="there is no backend 'abacus'"):
            list(ours.blocks(job.tiling))


def test_no_workers(job):
    with pytest.raises(InvalidSpec, match="workers is 0"):
        LocalWorkers(0, job, NUMPY)


def test_an_interrupt_ends_them_at_once(job):
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt), LocalWorkers(2, job, NUMPY):
        while len(children()) < 2 and time.monotonic() < begin + 1:
            time.sleep(0.01)  # a process that has just begun has no command line yet
        assert len(children()) == 2
        for child in children():
            child.send_signal(signal.SIGINT)  # as a terminal does, and they are deaf
        time.sleep(0.1)
        assert len(children()) == 2
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert time.monotonic() - begin < 3
    assert children() == []


def test_an_error_that_does_not_bear_to_be_sent():
    class Local(Exception):
        pass

    assert isinstance(workers._sendable(Local("why")), RuntimeError)
    assert "why" in str(workers._sendable(Local("why")))


HERE = """
import numpy as np
from ckncuda import ExactKernel, LayerSpec, Linear
from ckncuda.exact.job import GramJob
from ckncuda.exact.workers import LocalWorkers
from ckncuda.images.sources import ArrayImages

if __name__ == "__main__":
    layer = LayerSpec(filters=1, patch=3, subsampling=2, kernel=Linear())
    job = GramJob(ExactKernel([layer]), ArrayImages(np.ones((3, 8, 8, 1))), tile=3)
    with LocalWorkers(1, job, {"name": "numpy", "threads": 1}) as ours:
        print(len(list(ours.blocks(job.tiling))))
"""


def test_workers_run_nothing_that_lies_in_the_current_folder(tmp_path):
    """It may be anybody's, such as /tmp, and hold what is named as modules are."""
    (tmp_path / "elsewhere").mkdir()
    script = tmp_path / "elsewhere" / "script.py"
    script.write_text(HERE)
    (tmp_path / "here").mkdir()
    for name in ("multiprocessing", "selectors", "struct", "random", "numpy", "ckncuda"):
        (tmp_path / "here" / f"{name}.py").write_text(f"open('ran {name}', 'w')\nraise ImportError('{name}')")
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path / "here",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert [path.name for path in (tmp_path / "here").glob("ran *")] == []
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
