"""The stand-in for CuPy, and kernels so small that it is known what they do."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cuda_on_cpu import ORDERS, environment

SOURCE = '#line 1 "kernels/toy.cu"\n' + Path(__file__).with_name("toy.cu").read_text()
KERNELS = (
    "arrivals", "shuffles<float>", "shuffles<int>", "shuffles<double>", "shuffles<unsigned>", "votes",
    "half_warps", "reverse", "reverse_without_barrier", "leftovers", "copies<-1>", "copies<0>", "copies<1>",
    "copy_to", "multiply<tf32>", "multiply<bf16>", "multiply<f16>", "rounded", "diverge", "between_blocks",
    "all_blocks", "atomics<int>", "atomics<float>", "atomics<unsigned>", "write_at", "write_shared_at",
    "misaligned", "scale", "many",
)  # fmt: skip


@pytest.fixture(scope="module", name="cp")
def stand_in() -> Iterator[ModuleType]:
    if reason := environment.why_unavailable():
        pytest.skip(reason)
    with environment.installed():
        import cupy

        yield cupy


@pytest.fixture(scope="module")
def toys(cp: Any) -> Any:
    return cp.RawModule(code=SOURCE, options=("--std=c++17", "-DUNUSED=1"), name_expressions=KERNELS)


@pytest.fixture(scope="session")
def toy_source() -> str:
    return SOURCE


@pytest.fixture(params=ORDERS)
def order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every order in which threads and blocks may run."""
    monkeypatch.setenv("CKNCUDA_CPU_ORDER", request.param)
    return str(request.param)
