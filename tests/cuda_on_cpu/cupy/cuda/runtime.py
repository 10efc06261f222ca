"""CuPy's `cupy.cuda.runtime`: one device, which `CKNCUDA_CPU_DEVICES=0` takes away."""

import os
from typing import Any

from .. import _memory


class CUDARuntimeError(RuntimeError):
    """An error of CUDA's runtime, by its number."""

    def __init__(self, status: int) -> None:
        names = {100: "cudaErrorNoDevice", 101: "cudaErrorInvalidDevice"}
        self.status = status
        super().__init__(f"{names.get(status, 'cudaErrorUnknown')}: error {status}")

    def __reduce__(self) -> Any:
        return type(self), (self.status,)


def compute_capability() -> tuple[int, int]:
    """`CKNCUDA_CPU_COMPUTE_CAPABILITY`, or that of an H100."""
    digits = os.environ.get("CKNCUDA_CPU_COMPUTE_CAPABILITY", "90")
    return int(digits[:-1]), int(digits[-1])


def getDeviceCount() -> int:  # noqa: N802 (CuPy's name)
    count = int(os.environ.get("CKNCUDA_CPU_DEVICES", "1"))
    if count == 0:
        raise CUDARuntimeError(100)
    return count


def getDevice() -> int:  # noqa: N802
    return 0


def getDeviceProperties(device: int) -> dict[str, Any]:  # noqa: N802
    if device != 0:
        raise CUDARuntimeError(101)
    major, minor = compute_capability()
    return {
        "name": b"CUDA on a CPU",
        "totalGlobalMem": _memory.capacity(),
        "major": major,
        "minor": minor,
        "multiProcessorCount": 4,
        "l2CacheSize": 50 << 20,
    }


def memGetInfo() -> tuple[int, int]:  # noqa: N802
    """Bytes that are free, and all."""
    return _memory.capacity() - _memory.used(), _memory.capacity()


def runtimeGetVersion() -> int:  # noqa: N802
    return 13000


def driverGetVersion() -> int:  # noqa: N802
    return 13000
