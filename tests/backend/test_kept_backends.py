"""Backends that are shared as long as somebody keeps one, in threads and in processes that fork."""

import copy
import gc
import os
import pickle
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ckncuda import backend as module
from ckncuda.backend import KeptBackends, get_backend, shared_backend
from ckncuda.backend.process_lock import ProcessLock


def test_a_name_stands_for_one_backend_while_somebody_keeps_it():
    kept, other = KeptBackends(), KeptBackends()
    assert kept.of("numpy") is other.of("numpy") is shared_backend("numpy")
    assert kept.of("reference") is not kept.of("numpy")
    number = id(kept.of("numpy"))
    del kept
    gc.collect()
    assert id(other.of("numpy")) == number


def test_what_nobody_keeps_is_given_back():
    shared = shared_backend("reference")
    shared.mark = True
    assert shared_backend("reference").mark
    del shared
    gc.collect()
    assert not hasattr(shared_backend("reference"), "mark")


def test_a_backend_that_is_given_is_taken_and_not_kept():
    kept, given = KeptBackends(), get_backend("numpy", threads=1)
    assert kept.of(given) is given
    assert kept.of("numpy") is not given


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda kept: pickle.loads(pickle.dumps(kept))])
def test_copies_begin_with_none(again):
    kept = KeptBackends()
    kept.of("numpy")
    assert vars(again(kept)) == vars(KeptBackends())


def test_many_threads_share_one(monkeypatch):
    """Those that ask while the first one is being made, too."""

    def slowly(name):
        time.sleep(0.05)
        return get_backend(name)

    monkeypatch.setattr(module, "_SHARED", weakref.WeakValueDictionary())
    monkeypatch.setattr(module, "get_backend", slowly)
    kept = [KeptBackends() for _ in range(64)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda each: each.of("numpy"), kept))
    assert len(set(map(id, found))) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("how", ["the lock", "a backend"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_is_forked_in_the_midst_of_it_does_not_wait_for_ever(how, monkeypatch):
    lock, inside, leave = ProcessLock(), threading.Event(), threading.Event()
    monkeypatch.setattr(module, "_SHARING", lock)

    def hold():
        with lock:
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    child = os.fork()
    if not child:
        threading.Timer(10, os._exit, [1]).start()
        if how == "the lock":
            with lock:
                os._exit(0)
        backend = shared_backend("numpy")
        backend.nearest_anchor(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32))
        os._exit(0)
    leave.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
