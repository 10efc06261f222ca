"""What the NumPy backend owes to the process it runs in."""

import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import threadpoolctl
from factories import make_images, make_layer

from ckncuda import CKN
from ckncuda.backend import get_backend
from ckncuda.backend.numpy import NumpyBackend
from ckncuda.backend.numpy.threads import _SINGLE_THREADED_BLAS, ThreadBuffer


@pytest.fixture
def network(rng):
    return CKN.from_layers([make_layer(3, rng, filters=8)])


def blas_threads():
    return [lib["num_threads"] for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"]


@pytest.fixture
def two_threads(monkeypatch):
    """BLAS with two threads, whatever the settings of the tests: with one, nothing could be lost."""
    import scipy.linalg  # noqa: F401  (brings a BLAS of its own, which must be there from the beginning)

    monkeypatch.setattr(_SINGLE_THREADED_BLAS, "_libraries", None)  # looked up again
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        assert set(blas_threads()) == {2}
        yield


def test_blas_has_its_threads_again_after_concurrent_calls(network, rng, two_threads):
    images = make_images(rng, 4, 12, 12, 3)
    before = blas_threads()
    backend = get_backend("numpy", threads=1)
    expected = network.transform(images, backend=backend)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: network.transform(images, backend=backend), range(300)))
    assert all(np.array_equal(features, expected) for features in found)
    assert blas_threads() == before


def test_each_tile_has_one_thread_of_blas(network, rng, two_threads, monkeypatch):
    backend, seen = get_backend("numpy", threads=1), []
    array = ThreadBuffer.__call__
    monkeypatch.setattr(ThreadBuffer, "__call__", lambda *a: (seen.extend(blas_threads()), array(*a))[1])
    network.transform(make_images(rng, 4, 12, 12, 3), backend=backend)
    assert set(seen) == {1}


def test_an_error_in_a_tile_is_raised_and_the_backend_goes_on(network, rng, monkeypatch):
    backend = get_backend("numpy", threads=2)
    images = make_images(rng, 300, 12, 12, 3)
    expected = network.transform(images, backend=backend)

    def broken(*arguments):
        raise RuntimeError("a tile failed")

    with monkeypatch.context() as patch:
        patch.setattr(ThreadBuffer, "__call__", broken)
        with pytest.raises(RuntimeError, match="a tile failed"):
            network.transform(images, backend=backend)
    assert np.array_equal(network.transform(images, backend=backend), expected)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_computes(network, rng):
    """Threads do not survive a fork: the child must start its own."""
    backend = get_backend("numpy", threads=2)
    images = make_images(rng, 300, 12, 12, 3)
    network.transform(images, backend=backend)
    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=network.transform, args=(images,), kwargs={"backend": backend})
    child.start()
    child.join(timeout=30)
    exit_code = child.exitcode
    child.kill()
    assert exit_code == 0  # None: it hangs


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("held", ["the lock", "BLAS"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_in_the_midst_of_a_product_has_its_own_blas(held, two_threads):
    """Who held it is not in the child, and does not give the threads back there."""
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with _SINGLE_THREADED_BLAS._lock if held == "the lock" else _SINGLE_THREADED_BLAS:
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    child = os.fork()
    if not child:
        threading.Timer(10, os._exit, [1]).start()
        with _SINGLE_THREADED_BLAS:
            within = set(blas_threads())
        os._exit(0 if (within, set(blas_threads())) == ({1}, {2}) else 2)
    leave.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0  # 1: it waits for ever


@pytest.mark.parametrize("compiled", [False, True])
def test_a_layer_that_is_learned_anew_is_not_planned_anew(compiled, rng):
    """A plan goes by what a layer is, not by what it has learned; its anchors still are its own."""
    if compiled:
        pytest.importorskip("numba")
    backend, maps = NumpyBackend(threads=1, compiled=compiled), make_images(rng, 2, 12, 12, 3)
    for _ in range(3):
        layer = make_layer(3, rng)
        expected = get_backend("reference").encode(maps, [layer])
        np.testing.assert_allclose(backend.encode(maps, [layer]), expected, atol=1e-4)
    assert backend._plan.cache_info().misses == 1
    del layer
    assert len(backend._packed) == 0
