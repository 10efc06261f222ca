"""Ctrl-C and requests to end leave nothing half-written."""

import signal
import time

import numpy as np
import pytest
from numpy.lib import format as npy

LONG = 60  # seconds that nothing here should take


@pytest.fixture
def interrupted(start, tmp_path, listing):
    """Start `ckn`, wait until it is at work, send it a signal, and check how it ends."""

    def run(*arguments, announced, signal_, ready):
        before = listing(tmp_path)
        process = start(*arguments)
        assert announced in process.stderr.readline()
        ready()
        assert process.poll() is None  # at work: or the signal would prove nothing
        sent = time.monotonic()
        process.send_signal(signal_)
        stdout, stderr = process.communicate(timeout=LONG)
        assert process.returncode == 130, stderr
        assert time.monotonic() - sent < 10
        assert "Interrupted" in stderr
        assert "Traceback" not in stderr
        assert stdout == ""
        assert listing(tmp_path) == before

    return run


@pytest.fixture(scope="module")
def slow_model(fitted, tmp_path_factory):
    """A model that takes tens of seconds for 30,000 images of 32x32x3."""
    images = tmp_path_factory.mktemp("slow") / "x.npy"
    np.save(images, np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8))
    layer = ("--layer", "filters=128,patch=3,subsampling=2,kernel=exp,sigma=0.6")
    return fitted(images, *layer, *layer, "--patches", "1000", "--preprocess", "none")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_fit_that_is_interrupted_leaves_nothing(interrupted, tmp_path, rng, name):
    np.save(tmp_path / "x.npy", rng.integers(0, 256, (600, 32, 32, 3), np.uint8))
    (tmp_path / "m.ckn").write_bytes(b"what stood here before")
    layer = "filters=512,patch=7,subsampling=2,kernel=exp,sigma=0.6"  # takes several seconds
    fit = ("fit", "x.npy", "-o", "m.ckn", "--layer", layer, "--preprocess", "none")
    interrupted(*fit, announced="Fitting on", signal_=signal.Signals[name], ready=lambda: time.sleep(0.5))


@pytest.mark.parametrize(("name", "output"), [("SIGINT", "f.npy"), ("SIGINT", "f.npz"), ("SIGTERM", "f.npy")])
def test_extract_that_is_interrupted_leaves_nothing(interrupted, slow_model, tmp_path, name, output):
    with open(tmp_path / "x.npy", "wb") as file:  # 30,000 black images, which take no space
        shape = (30_000, 32, 32, 3)
        npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + int(np.prod(shape)))

    def partial_file():
        deadline = time.monotonic() + LONG
        while not any(path.stat().st_size for path in tmp_path.glob("*.part")):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    extract = ("extract", slow_model, "x.npy", "-o", output)
    interrupted(*extract, announced="Extracting", signal_=signal.Signals[name], ready=partial_file)
