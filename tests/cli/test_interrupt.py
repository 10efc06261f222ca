"""Ctrl-C and requests to end leave nothing half-written."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

LONG = 60  # seconds that nothing here should take


def _attentive():
    """Take Ctrl-C, which whoever runs the tests may have told them to ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


def takes_signals(process):
    """Wait until a process has taken over what ends it: before, it is Python's that it is not yet ours."""
    status, bit = Path(f"/proc/{process.pid}/status"), 1 << (signal.SIGTERM - 1)
    while process.poll() is None:
        caught = re.search(r"^SigCgt:\s*(\w+)", status.read_text(), re.MULTILINE)
        if caught and int(caught[1], 16) & bit:
            return
        time.sleep(0.0005)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs to see when signals are taken")
@pytest.mark.parametrize("moment", range(20))
def test_an_interrupt_while_things_are_imported_ends_at_once(start, tmp_path, data, listing, moment):
    before = listing(tmp_path)
    name = ("SIGINT", "SIGINT", "SIGTERM", "SIGHUP")[moment % 4]
    process = start("fit", data.npz, "-o", "m.ckn", "--patches", "1000000")
    takes_signals(process)
    time.sleep(0.025 * moment)
    sent = time.monotonic()
    process.send_signal(signal.Signals[name])
    stdout, stderr = process.communicate(timeout=LONG)
    assert process.returncode == 130, stderr
    assert time.monotonic() - sent < 5  # on a busy machine; a second on another
    assert "Traceback" not in stderr
    assert "ignored" not in stderr
    assert stdout == ""
    assert listing(tmp_path) == before


DEAF = """
import sys, time
from ckncuda.cli import commands, main, output
main.DEAF = 0.3

@commands.cli.command()
def long():
    import numpy as np
    output.say("began")
    np.linalg.eigvalsh(np.eye(SIZE) + np.random.default_rng(0).normal(size=(SIZE, SIZE)))
    output.say("ended")

sys.argv = ["ckn", "long"]
main.main()
""".replace("SIZE", "4000")


def test_a_computation_that_hears_no_signal_is_ended_with_the_process():
    """LAPACK does not come back to Python for many seconds."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", DEAF], **pipes, preexec_fn=_attentive)
    assert process.stderr.readline() == "began\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=LONG)
    assert process.returncode == 130, stderr
    assert "Interrupted" in stderr
    assert "ended" not in stderr


TEXTS = {
    "a text": 'exec("import signal; signal.raise_signal(signal.SIGINT)")',
    "a named tuple": "collections.namedtuple = lambda *_: exec(TEXT); collections.namedtuple('a', 'b')",
    "a dataclass": "dataclasses.make_dataclass('A', [('a', int, dataclasses.field(default_factory=list))])",
}
IN_A_TEXT = """
import builtins, collections, dataclasses
from ckncuda.cli import commands, main

TEXT = "import signal; signal.raise_signal(signal.SIGINT)"
run = builtins.exec

def interrupted(source, *names):
    run(TEXT) if isinstance(source, str) else run(source, *names)

@commands.cli.command()
def long():
    dataclasses.exec = interrupted
    HOW

import sys
sys.argv = ["ckn", "long"]
main.main()
"""


@pytest.mark.parametrize("how", TEXTS)
def test_an_interrupt_in_a_text_that_is_executed_has_the_same_status(tmp_path, how):
    """Of a module that is run, Python would report the signal in its place."""
    (tmp_path / "ours.py").write_text(IN_A_TEXT.replace("HOW", TEXTS[how]))
    done = subprocess.run(
        [sys.executable, "-m", "ours"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=LONG,
        preexec_fn=_attentive,
    )
    assert done.returncode == 130, done.stderr
    assert "Interrupted" in done.stderr
