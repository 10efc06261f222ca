"""As many threads as there are cores for them: affinity, quotas of control groups, environment."""

import os

import numpy as np
import pytest
import threadpoolctl
from factories import make_images

from ckncuda.backend import get_backend
from ckncuda.backend.numpy import available_threads, threads, usable_cores
from ckncuda.backend.numpy.threads import cpu_quota
from ckncuda.images.preprocess import LocalWhitening, Standardize
from ckncuda.images.preprocessed import PreprocessedImages
from ckncuda.images.sources import ArrayImages

V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/cpu"
GROUPS = {
    "none": ({}, np.inf),
    "version 2, of a container": ({"proc/self/cgroup": "0::/", f"{V2}/cpu.max": "150000 100000\n"}, 1.5),
    "version 2, no limit": ({"proc/self/cgroup": "0::/", f"{V2}/cpu.max": "max 100000\n"}, np.inf),
    "version 2, of the group": ({"proc/self/cgroup": "0::/a/b\n", f"{V2}/a/b/cpu.max": "200000 100000"}, 2),
    "version 2, of a group above": (
        {
            "proc/self/cgroup": "0::/a/b\n",
            f"{V2}/a/b/cpu.max": "400000 100000",
            f"{V2}/a/cpu.max": "50000 100000",
        },
        0.5,
    ),
    "version 2, beside version 1": (
        {"proc/self/cgroup": "1:name=systemd:/\n0::/s\n", "sys/fs/cgroup/unified/s/cpu.max": "300000 100000"},
        3,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/job\n3:memory:/job\n",
            f"{V1}/job/cpu.cfs_quota_us": "250000\n",
            f"{V1}/job/cpu.cfs_period_us": "100000\n",
        },
        2.5,
    ),
    "version 1, no limit": (
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/\n",
            f"{V1}/cpu.cfs_quota_us": "-1\n",
            f"{V1}/cpu.cfs_period_us": "100000\n",
        },
        np.inf,
    ),
    "version 1, of a container": (  # which sees its own group as the root, under the name outside
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/0123\n",
            f"{V1}/cpu.cfs_quota_us": "100000\n",
            f"{V1}/cpu.cfs_period_us": "100000\n",
        },
        1,
    ),
    "nonsense": ({"proc/self/cgroup": "0::/", f"{V2}/cpu.max": "\n"}, np.inf),
    "no period": ({"proc/self/cgroup": "0::/", f"{V2}/cpu.max": "100000 0"}, np.inf),
    "lines of another form": ({"proc/self/cgroup": "nonsense\n0::/", f"{V2}/cpu.max": "100000 100000"}, 1),
}


@pytest.mark.parametrize("case", GROUPS)
def test_quotas_of_control_groups(tmp_path, case):
    files, expected = GROUPS[case]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == expected


@pytest.mark.parametrize(("quota", "cores"), [(np.inf, 8), (9.5, 8), (8, 8), (2.5, 3), (1, 1), (0.1, 1)])
def test_cores_are_those_of_the_quota(monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert usable_cores() == available_threads() == cores


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2", 2),
        (" 2 ", 2),
        ("2,4", 2),
        ("99", 8),
        ("0", 8),
        ("-1", 8),
        ("", 8),
        ("two", 8),
        ("2.5", 8),
        ("9" * 99, 8),
    ],
)
def test_the_environment_asks_for_fewer(monkeypatch, value, expected):
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert available_threads() == expected


@pytest.mark.parametrize("asked", [1, 2, 3, 16, 10**30])
def test_no_more_threads_than_cores_are_started(monkeypatch, asked):
    monkeypatch.setattr("ckncuda.backend.numpy.backend.usable_cores", lambda: 2)
    backend = get_backend("numpy", threads=asked)
    assert backend._threads.count == min(asked, 2)
    assert backend.options["threads"] == asked


@pytest.mark.parametrize("step", [LocalWhitening(), LocalWhitening(5, 0.5), Standardize()])
def test_preprocessing_has_the_same_bits_on_any_number_of_threads(rng, monkeypatch, step):
    monkeypatch.setattr("ckncuda.backend.numpy.backend.usable_cores", lambda: 3)
    images = ArrayImages(make_images(rng, 50, 17, 14, 3))
    alone = step.apply(images.read(0, 50))
    for count in (1, 2, 3):
        shared = PreprocessedImages(images, (step,), get_backend("numpy", threads=count)).read(0, 50)
        np.testing.assert_array_equal(shared, alone)


def test_products_of_single_images_have_one_thread_of_blas(rng, monkeypatch):
    """Those of BLAS wait for one another by turning round: on busy cores far longer than they compute."""
    import scipy.linalg  # noqa: F401  (brings a BLAS of its own)

    seen, whiten = [], LocalWhitening._whiten

    def watched(self, images):
        seen.extend(
            lib["num_threads"] for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"
        )
        return whiten(self, images)

    monkeypatch.setattr(LocalWhitening, "_whiten", watched)
    monkeypatch.setattr(threads._SINGLE_THREADED_BLAS, "_libraries", None)
    images = ArrayImages(make_images(rng, 20, 12, 12, 3))
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        PreprocessedImages(images, (LocalWhitening(),), get_backend("numpy", threads=2)).read(0, 20)
    assert set(seen) == {1}


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("error", [IndexError, ValueError, MemoryError])
def test_whatever_a_tile_raises_ends_the_work(count, error):
    """The end of the work is told by an IndexError, too: one of a tile is not taken for it."""

    def fails(tile):
        if tile == 3:
            raise error("of a tile")

    with pytest.raises(error, match="of a tile"):
        threads.Threads(count).run(fails, ((tile,) for tile in range(8)))
