"""Numba's inner loops on their own, and how they are kept compiled."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("numba")

from ckncuda.backend.numpy.compiled import cache, dot_product
from ckncuda.backend.numpy.compiled.llvm.product import PANEL
from ckncuda.layer.dot_product import KERNELS


def exponential(x):
    """2^x of each number, by way of a strip of products."""
    strip = np.zeros((1, -(-x.size // PANEL), PANEL), np.float32)
    strip.reshape(-1)[: x.size] = x
    one = np.ones(strip.shape[:2], np.float32)
    dot_product.exponential(strip, one, one, 0.0)
    return strip.reshape(-1)[: x.size]


def test_exponential_is_within_two_units_in_the_last_place():
    x = np.linspace(-120, 0, 2_000_001, dtype=np.float32)
    exact = np.exp2(x.astype(np.float64))
    error = np.abs(exponential(x) - exact) / np.spacing(exact.astype(np.float32))
    assert error.max() <= 2


def test_exponential_of_what_can_only_be_rounding_is_one():
    assert exponential(np.array([0.5, 300.0], np.float32)).tolist() == [1.0, 1.0]


def test_exponential_of_what_is_far_below_is_tiny():
    assert 0 <= exponential(np.array([-1e6, -np.inf], np.float32)).max() < 1e-37


SERIES = {"coefficients": (0.4, 0.6)}
PARAMETERS = {"exp": {"sigma": 0.6}, "poly": {"degree": 5, "offset": 0.5}, "series": SERIES}


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_has_a_compiled_function(name):
    kernel = KERNELS[name](**PARAMETERS.get(name, {}))
    t = np.linspace(-1, 1, 1001, dtype=np.float32)
    row = t.copy()
    dot_product.apply(dot_product.number_of(kernel), dot_product.parameters_of(kernel), row)
    np.testing.assert_allclose(row, kernel.value(t.astype(np.float64)), rtol=1e-5, atol=1e-6)


SMALL = """
import sys
from ckncuda.backend.numpy.compiled import cache
if sys.argv[1:]:
    cache.digest_of_sources = lambda: sys.argv[1]

@cache.compiled
def double(x):
    return 2 * x

kept = cache._record(double)
already = bool(kept and kept._load_index())
assert double(21) == 42
print(already, len(double.stats.cache_hits), len(double.stats.cache_misses))
"""


@pytest.fixture
def process(tmp_path):
    """Runs a module with a small compiled function, in a process of its own and a cache of the test's."""
    (tmp_path / "small.py").write_text(SMALL)

    def run(*arguments):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        command = [sys.executable, tmp_path / "small.py", *arguments]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    return run


def test_what_was_compiled_of_other_sources_is_not_used(process):
    """Else an upgrade of other files than the function's own would go on with the old machine code."""
    compiles, loads = "False 0 1\n", "True 1 0\n"
    assert [process(), process(), process("other"), process("other")] == [compiles, loads, compiles, loads]


def test_what_was_kept_of_types_that_are_gone_is_no_obstacle(process, tmp_path):
    """Numba reads the types of arguments with pickle, and an upgrade may have moved or renamed them."""
    process()
    (index,) = (tmp_path / "cache").rglob("*.nbi")
    version = pickle.loads(index.read_bytes())
    index.write_bytes(pickle.dumps(version) + b"cckncuda.gone\nConstants\n.")
    assert process("other") == "False 0 1\n"


def test_the_digest_is_of_every_file_that_may_be_inlined(tmp_path, monkeypatch):
    room = tmp_path / "compiled"
    (room / "llvm").mkdir(parents=True)
    files = [tmp_path / "winograd.py", room / "cache.py", room / "llvm" / "product.py"]
    for file in files:
        file.write_text("a = 1\n")
    monkeypatch.setattr(cache, "__file__", str(room / "cache.py"))
    digest = cache.digest_of_sources.__wrapped__
    seen = {digest()}
    for file in files:
        file.write_text("a = 2\n")
        seen.add(digest())
    assert len(seen) == 1 + len(files)


def test_nothing_is_kept_where_numba_keeps_its_stamp_elsewhere(monkeypatch):
    def double(x):
        return 2 * x

    assert cache._record(cache.compiled(double)) is not None
    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._load_index", lambda self: {})
    compiled = cache.compiled(double)
    assert cache._record(compiled) is None
    assert compiled.stats.cache_path is None
    assert compiled(21) == 42


def test_compiling_is_announced_where_nothing_is_kept(monkeypatch, caplog):
    """Only then: the announcement is for people who wait."""
    caplog.set_level("INFO", "ckncuda")
    monkeypatch.setattr(cache, "_announce_compilation", cache._announce_compilation.__wrapped__)
    dot_product.apply(0, np.ones(1, np.float32), np.ones(1, np.float32))
    cache.announce.__wrapped__(dot_product.apply)
    assert not caplog.records
    monkeypatch.setattr(cache, "_record", lambda function: None)
    cache.announce.__wrapped__(dot_product.apply)
    assert "Compiling the inner loops with Numba" in caplog.text
