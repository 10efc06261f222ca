"""A GPU for tests: the machine's own, or the CPU that executes the kernels in its place."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from cuda_on_cpu import environment

from ckncuda.backend.cupy import CupyBackend, unavailability, why_unavailable

PRECISIONS = {
    "cupy, float32": ("float32", None),
    "cupy, float32 without tensor cores": ("float32", "Fma"),
    "cupy, tf32": ("tf32", None),
    "cupy, bfloat16": ("bfloat16", None),
}
"""Precision, and the C++ name of the products that are taken instead of the device's own choice."""

_stand_in: dict[str, Any] = {}  # modules, kept while they are out of sight


@contextlib.contextmanager
def a_gpu() -> Iterator[None]:
    """Let CuPy be used within a block; outside, where there is no GPU, tests see a machine without one."""
    if why_unavailable() is None:
        yield
        return
    if reason := environment.why_unavailable():
        pytest.skip(f"there is no GPU, and {reason}")
    sys.modules.update(_stand_in)
    environment.install()
    unavailability.cache_clear()
    try:
        assert why_unavailable() is None
        yield
    finally:
        sys.path.remove(str(environment.HERE))
        for name in [n for n in sys.modules if n.partition(".")[0] in ("cupy", "cupyx")]:
            _stand_in[name] = sys.modules.pop(name)
        unavailability.cache_clear()


def device_name() -> str:
    """Return the name of the device that tests use, within `a_gpu`."""
    import cupy

    name: bytes = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"]
    return name.decode()


def cupy_backend(name: str, memory: int | None = None) -> CupyBackend:
    """A backend of `PRECISIONS`."""
    precision, products = PRECISIONS[name]
    backend = CupyBackend(memory, precision)
    backend.gpu.products = products or backend.gpu.products
    return backend
