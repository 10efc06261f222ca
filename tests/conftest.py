"""Settings and fixtures that tests of all rooms share."""

import contextlib
import os
import tracemalloc
from pathlib import Path

# Before NumPy is loaded.  Threads of BLAS that wait for a busy core make small products 100 times slower,
# and tests, with the processes that they start, run side by side.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest
from gpu_faults import pytest_runtest_logreport, pytest_runtest_makereport, pytest_runtest_teardown  # noqa: F401

# Shared data may stand beside the checkout; the project does without it.
SHARED = Path(os.environ.get("CKNCUDA_SHARED", Path(__file__).parents[2] / "shared"))

# A slow machine is no failure; the same examples on every run make a failure repeatable.
hypothesis.settings.register_profile("ckncuda", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("ckncuda")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let campaigns, of which every run of the tests does a small part, be as long as is asked for."""
    group = parser.getgroup("campaigns")
    group.addoption("--fuzz", type=int, default=0, metavar="N", help="mutations of each reader's input")
    group.addoption(
        "--kills", type=int, default=0, metavar="N", help="moments at which each command is killed"
    )
    group.addoption("--signals", type=int, default=0, metavar="N", help="moments at which a signal is sent")


@pytest.fixture(scope="session")
def nursery():
    """A process with the library imported, from which children fork that may crash, hang or be killed."""
    if not hasattr(os, "fork"):
        pytest.skip("children that fork are not known here")
    from nursery import Nursery

    made = Nursery()
    yield made
    made.close()


@pytest.fixture(scope="session")
def shared_file():
    """Return the path of a file of the shared folder, or skip the test that needs it."""

    def path_of(name):
        if not (SHARED / name).exists():
            pytest.skip(f"{name} of the shared data is not beside this checkout")
        return SHARED / name

    return path_of


@pytest.fixture(scope="session")
def relative_error():
    """Return the norm of the difference over the norm of what is expected."""

    def error(actual, expected):
        return float(np.linalg.norm(actual.astype(np.float64) - expected) / np.linalg.norm(expected))

    return error


@pytest.fixture(scope="session")
def listing():
    """List all files below a folder, with what they hold; folders and others with None."""

    def listing(folder):
        return {
            str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
            for path in Path(folder).rglob("*")
        }

    return listing


@pytest.fixture(scope="session")
def peak_memory():
    """Measure the most bytes that Python and NumPy hold within a block: told by what it yields, after it."""

    @contextlib.contextmanager
    def measured():
        held = []
        tracemalloc.start()
        try:
            yield lambda: held[0]
        finally:
            held.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()

    return measured


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)


@pytest.fixture
def device():
    """A backend on a GPU, or on the CPU that stands in for one."""
    import gpu

    from ckncuda.backend import get_backend

    with gpu.a_gpu():
        yield get_backend("cupy")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests have recorded for people."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture
def full_disk():
    """Let no file of this process grow beyond so many bytes, as on a disk that is full."""
    resource = pytest.importorskip("resource", reason="limits of POSIX")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    @contextlib.contextmanager
    def limited(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited
