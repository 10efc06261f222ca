"""The parity suite on a GPU: a process that loses the GPU is replaced, and how each test ended is kept."""

import json
import os
import subprocess
import sys
from pathlib import Path

import gpu_faults
import pytest
from cuda_on_cpu import environment

TESTS = Path(__file__).parents[1]
BENCH = TESTS.parent / "bench" / "gpu"

LOSES = """
import os, pytest

@pytest.mark.parametrize("i", range(3))
def test_before(i):
    pass

def launch(name):
    import cupy, numpy as np
    code = f'extern "C" __global__ void {name}(float* x) {{ *x = 1; }}'
    x = cupy.zeros(1, np.float32)
    cupy.RawKernel(code, name)((1,), (1,), (x,))
    assert float(x[0]) == 1

def test_that_loses_the_gpu():
    try:
        launch("broken")
    except Exception as error:  # as ours are: the cause is behind
        raise ValueError("the layer did not come to its end") from error

@pytest.mark.parametrize("i", range(6))
def test_after(i):
    launch("whole")
"""


def run(folder, *options, status="broken:700", out=None):
    """Run pytest on a file, with the stand-in for CuPy, as `make gpu` does."""
    if reason := environment.why_unavailable():
        pytest.skip(reason)
    paths = [str(TESTS), str(BENCH), *environment.environment()["PYTHONPATH"].split(os.pathsep)]
    variables = environment.environment() | {
        "PYTHONPATH": os.pathsep.join(paths),
        "CKNCUDA_CPU_STICKY": status,
    }
    variables |= {"OUT": str(out)} if out else {}
    variables = {k: v for k, v in variables.items() if not k.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "gpu_faults", *options]
    done = subprocess.run(
        [*command, "."], cwd=folder, env=variables, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(LOSES)
    return tmp_path / "tests"


class CUDARuntimeError(RuntimeError):
    """As CuPy's."""

    def __init__(self, status):
        self.status = status


@pytest.mark.parametrize("status", [*gpu_faults.STICKY, 2, 35, 98, 100, 701])
def test_which_errors_take_the_gpu_with_them(status):
    """Too little memory or a launch out of its limits does not: the next one has a GPU again."""
    error = CUDARuntimeError(status)
    behind, hidden = ValueError(), ValueError()
    behind.__cause__, hidden.__context__ = error, behind
    behind.__context__ = hidden  # a circle, as careless handlers make them
    expected = status if status in (700, 702, 710, 714, 715, 716, 717, 718, 719) else None
    assert [gpu_faults.sticky_status(e) for e in (error, behind, hidden)] == [expected] * 3
    assert gpu_faults.sticky_status(ValueError(status)) is None


def test_a_worker_that_loses_the_gpu_is_replaced(folder):
    pytest.importorskip("xdist")
    error = 716
    status, said = run(folder, "-n", "1", status=f"broken:{error}")
    assert status == 1
    assert "9 passed" in said, said
    failed = [line for line in said.splitlines() if line.startswith("FAILED")]
    assert failed
    assert all("test_that_loses_the_gpu" in line for line in failed)
    assert "the layer did not come to its end" in said  # with its traceback, not only as a crash
    assert f"CUDA's error {error}: this process has lost the GPU and ends" in said


def test_without_workers_the_run_stops_and_says_why(folder):
    status, said = run(folder, "-p", "no:xdist")
    assert status == 2
    assert "3 passed" in said
    assert "1 failed" in said
    assert "CUDA's error 700: this process has lost the GPU; run the rest in a new one" in said


def test_each_outcome_is_kept_and_no_test_is_run_twice(folder):
    pytest.importorskip("xdist")
    out = folder.parent / "out"
    out.mkdir()
    status, said = run(folder, "-p", "gpu_parity", "-n", "1", "-k", "before or loses", out=out)
    assert status == 1, said
    kept = json.loads((out / "parity.json").read_text())
    lost = "test_it.py::test_that_loses_the_gpu"
    assert {unit: found["passed"] for unit, found in kept.items()} == {
        **{f"test_it.py::test_before[{i}]": True for i in range(3)}, lost: False
    }  # fmt: skip
    assert "the layer did not come to its end" in kept[lost]["why"]
    options = "-p", "gpu_parity", "-p", "no:xdist"
    status, said = run(folder, *options, out=out)
    assert "6 passed" in said, said
    assert said.splitlines()[-1] == "9 of 10 well"
    assert status == 1  # of what failed before
    assert [path.name for path in out.iterdir()] == ["parity.json"]
    status, said = run(folder, *options, out=out)
    assert (status, said.splitlines()[-1]) == (1, "9 of 10 well")
