"""A `ckn` that runs in this process or in its own, tiny images in every format, and models of `ckn fit`."""

import contextlib
import io
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import warnings
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import threadpoolctl
from factories import write_challenge_csv

from ckncuda.cli.main import main

LAYER = "filters=4,patch=3,subsampling=2,kernel=exp,sigma=0.6"
TINY = ("--layer", LAYER, "--patches", "500", "--preprocess", "none", "--image-shape", "12x12x3")
CKN = (sys.executable, "-m", "ckncuda.cli")
NEWS = (
    *("Fitting on ", "Searching on ", "Extracting features of ", "Predicting ", "Evaluating "),
    *("Measuring with ", "Comparing ", "Kernel: ", "No labels: ", "Preprocessing: "),
    *("Compiling the inner loops with Numba: ", "Note: "),
)


class Finished(NamedTuple):
    """The end of a process."""

    rc: int
    stdout: str
    stderr: str

    @property
    def told(self):
        """The one JSON object of standard output."""
        return json.loads(self.stdout)


def environment(**changes):
    """Our own environment, but with the project's variables unset, and BLAS held to one thread.

    Tests run side by side, and threads of BLAS that wait for a busy core make tiny products 100 times slower.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CKNCUDA_")}
    return kept | {"OPENBLAS_NUM_THREADS": "1"} | changes


def process_of_ckn(*arguments, env, through=(), **options):
    """Run `ckn` to its end in a process of its own, which takes most of a second to start."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 120} | options
    command = [*through, *CKN, *map(str, arguments)]
    done = subprocess.run(command, env=environment(**env), text=True, check=False, **options)
    return Finished(done.returncode, done.stdout, done.stderr)


def call_of_ckn(*arguments, cwd, env):
    """Run `ckn` to its end in this process, which afterwards is as it was before."""
    root, project = logging.getLogger(), logging.getLogger("ckncuda")
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    # --threads is a limit of the whole process, whose tests are then slow on busy cores.
    limits = threadpoolctl.threadpool_limits(limits={})
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), limits:
        for name in [name for name in os.environ if name.startswith("CKNCUDA_")]:
            patch.delenv(name)
        for name, value in env.items():
            patch.setenv(name, value)
        patch.chdir(cwd or os.getcwd())
        patch.setattr(sys, "argv", ["ckn", *map(str, arguments)])
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        patch.setattr(tempfile, "tempdir", None)
        patch.setattr(root, "handlers", [])
        patch.setattr(project, "level", project.level)
        patch.setattr(warnings, "showwarning", warnings.showwarning)
        warnings.simplefilter("default")
        for ignored in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", ignored)  # as Python does where no test runner says otherwise
        try:
            with pytest.raises(SystemExit) as end:
                main()
        finally:
            signal.set_wakeup_fd(-1)
            for name, handler in handlers.items():
                signal.signal(name, handler)
    texts = [stream.buffer.getvalue().decode() for stream in streams]
    return Finished(end.value.code, *texts)


def run_ckn(*arguments, process=False, cwd=None, env=None, **options):
    """Run `ckn` to its end: in this process, or in its own where variables or options of one are given."""
    env = env or {}
    own = process or options or any(not name.startswith(("CKNCUDA_", "TMPDIR")) for name in env)
    return (process_of_ckn if own else call_of_ckn)(*arguments, cwd=cwd, env=env, **options)


@pytest.fixture(scope="session")
def tiny():
    return TINY


@pytest.fixture(scope="session")
def layer():
    return LAYER


@pytest.fixture(scope="session")
def ckn():
    return run_ckn


@pytest.fixture
def works(tmp_path):
    """Run `ckn` in the test's own folder; it must succeed."""

    def run(*arguments, **options):
        done = run_ckn(*arguments, cwd=tmp_path, **options)
        assert done.rc == 0, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def fitted(tmp_path_factory):
    """Fit a model for tests to share; return where it lies."""

    def run(*arguments):
        path = tmp_path_factory.mktemp("fitted") / "model.ckn"
        done = run_ckn("fit", *arguments, "-o", path)
        assert done.rc == 0, done.stderr
        return path

    return run


def _attentive():
    """Take signals that whoever runs the tests had told them to ignore, as nohup does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def start(tmp_path):
    """Start `ckn` in the test's own folder and a group of processes of its own; it ends with the test."""
    started = []

    def start(*arguments):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        own = {"cwd": tmp_path, "env": environment(TMPDIR=str(tmp_path)), "start_new_session": True}
        process = subprocess.Popen([*CKN, *map(str, arguments)], **pipes, **own, preexec_fn=_attentive)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def refused(tmp_path, listing):
    """Run `ckn` in the test's own folder; it must refuse as bad input is refused, with these words.

    Exit code 2, one message, no traceback, nothing on standard output, and every file as it was.
    """

    def run(*arguments, words, folder=tmp_path, env=None, **options):
        before = listing(folder)
        env = {"TMPDIR": str(tmp_path)} | (env or {})
        done = run_ckn(*arguments, cwd=tmp_path, env=env, **options)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.rc == 2, done
        assert done.stdout == ""
        lines = [line for line in done.stderr.splitlines() if line and not line.startswith(NEWS)]
        if lines[0].startswith("Usage: "):
            del lines[:2]  # and where there is help
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("Error: "), done.stderr
        for word in words:
            assert word in lines[0]
        assert listing(folder) == before
        return lines[0]

    return run


@pytest.fixture(scope="session")
def limited_files():
    """Let no file grow beyond a size within a block: as a full disk, but everywhere."""

    @contextlib.contextmanager
    def limit(size):
        old = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))  # Python ignores SIGXFSZ, the write fails
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)

    return limit


@pytest.fixture(scope="session")
def adds_up():
    """Check that the seconds of the stages make up the total, but for moments between them."""

    def check(seconds):
        *stages, total = seconds.values()
        assert min(stages) >= 0
        assert 0.9 * total - 0.1 < sum(stages) <= total

    return check


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """40 images of 12x12x3 in four classes, whose brightness tells them apart, and the files that hold them.

    Those of ``bytes_npy`` are others: uint8 of the same shape, without labels.
    """
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(7)
    labels = np.arange(40) % 4
    images = rng.normal(size=(40, 12, 12, 3)) * 0.2
    images[:, ::2] += labels[:, None, None, None] * 0.5
    images[:, 1::2] -= 0.5
    images = images.round(4).astype(np.float32)
    found = SimpleNamespace(images=images, labels=labels)
    found.csv, found.labels_csv = folder / "Xtr.csv", folder / "Ytr.csv"
    found.npy, found.npz, found.bytes_npy = (folder / name for name in ("x.npy", "xy.npz", "bytes.npy"))
    write_challenge_csv(found.csv, images)
    rows = "".join(f"{i},{label}\n" for i, label in enumerate(labels, 1))
    found.labels_csv.write_text("Id,Prediction\n" + rows)
    np.save(found.npy, images)
    np.savez(found.npz, images=images, labels=labels)
    np.save(found.bytes_npy, rng.integers(0, 256, images.shape, np.uint8))
    return found


@pytest.fixture(scope="session")
def model(data, fitted):
    """A model of the tiny network with a classifier, for images of 12x12x3."""
    return fitted(data.csv, "--labels", data.labels_csv, *TINY)


@pytest.fixture(scope="session")
def network(data, fitted):
    """A model of the tiny network without a classifier."""
    return fitted(data.npy, *TINY)
