"""Launches repeated under sanitizers, and lines counted: what is wrong is found, what is right passes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import environment, line_coverage, sanitize


def launch_recorded(cp: Any, toys: Any, folder: Path, name: str) -> None:
    x, y = cp.arange(128, dtype=np.float32), cp.zeros(160, np.float32)
    arguments: dict[str, Any] = {
        "reverse": ((1,), (128,), (x, y), 512),
        "reverse_without_barrier": ((1,), (128,), (x, y), 512),
        "copies<0>": ((1,), (32,), (x, y), 640),
        "leftovers": ((5,), (32,), (y,), 128),
        "write_at": ((1,), (32,), (y, np.int32(160)), 0),
        "write_shared_at": ((1,), (32,), (y, np.int32(8)), 32),
        "misaligned": ((1,), (1,), (y,), 0),
        "between_blocks": ((2,), (1,), (y,), 0),
        "all_blocks": ((4,), (32,), (y,), 0),
        "multiply<tf32>": ((3,), (32,), (x.view(np.uint32), x.view(np.uint32)[:64], y[:128], np.int32(2)), 0),
    }
    grid, block, values, shared = arguments[name]
    with sanitize.recorded_to(folder):
        toys.get_function(name)(grid, block, values, shared_mem=shared)
        try:
            cp.cuda.Device().synchronize()
        except cp.KernelFault:
            assert name.startswith(("write", "misaligned"))


@pytest.fixture(params=["address", "thread"])
def sanitizer(request: pytest.FixtureRequest) -> str:
    reason = sanitize.why_unavailable(request.param)
    if reason:
        pytest.skip(reason)
    return str(request.param)


def test_sanitizers_find_nothing_in_right_kernels(cp, toys, tmp_path, sanitizer):
    for name in ("reverse", "copies<0>", "leftovers", "all_blocks"):
        launch_recorded(cp, toys, tmp_path, name)
    done = sanitize.replay(tmp_path, sanitizer)
    assert (done.returncode, done.launches) == (0, 4), done.report


@pytest.mark.parametrize(
    ("name", "sanitizer", "message"),
    [
        ("write_at", "address", "heap-buffer-overflow"),
        ("write_shared_at", "address", "heap-buffer-overflow"),
        ("misaligned", "address", "misaligned address"),
        ("reverse_without_barrier", "thread", "data race"),
        ("between_blocks", "thread", "data race"),
        ("multiply<tf32>", "thread", "data race"),  # all blocks write the same sums
    ],
)
def test_sanitizers_find_what_is_wrong(cp, toys, tmp_path, name, sanitizer, message):
    reason = sanitize.why_unavailable(sanitizer)
    if reason:
        pytest.skip(reason)
    launch_recorded(cp, toys, tmp_path, name)
    done = sanitize.replay(tmp_path, sanitizer)
    assert done.returncode != 0
    assert message in done.report
    assert "toy.cu" in done.report


def test_lines_are_counted(tmp_path):
    if line_coverage.why_unavailable():
        pytest.skip(str(line_coverage.why_unavailable()))
    program = (
        "import cupy, numpy as np, sys\n"
        "module = cupy.RawModule(code=sys.argv[1], name_expressions=['f<3>', 'f<40>'])\n"
        "module.get_function(sys.argv[2])((1,), (8,), (cupy.zeros(8, np.float32),))\n"
        "cupy.cuda.Device().synchronize()"
    )
    source = (
        '#line 1 "kernels/a.cu"\ntemplate <int n> __global__ void f(float* y) {\n    if (threadIdx.x >= n)\n'
        "        y[threadIdx.x] = n;\n    else\n        y[threadIdx.x] = 0;\n}\n"
    )
    variables = {**environment.environment(), **line_coverage.variables(tmp_path)}
    for name, missed in (("f<40>", [3]), ("f<3>", [])):
        subprocess.run([sys.executable, "-c", program, source, name], env=variables, check=True)
        counted = line_coverage.lines(tmp_path)
        assert counted["kernels/a.cu"] == line_coverage.Lines(5 - len(missed), 5, missed)
