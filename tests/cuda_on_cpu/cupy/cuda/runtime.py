"""CuPy's `cupy.cuda.runtime`: one device, which `CKNCUDA_CPU_DEVICES=0` takes away.

Its limits are those of its compute capability.  After an error that CUDA calls sticky, it answers nothing
else in this process.
"""

import os
from typing import Any

from .. import _memory

# KiB of shared memory that a block may have.
_SHARED = {75: 64, 80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227, 110: 227, 120: 99, 121: 99}
_NAMES = {
    35: "cudaErrorInsufficientDriver", 100: "cudaErrorNoDevice", 101: "cudaErrorInvalidDevice",
    700: "cudaErrorIllegalAddress", 716: "cudaErrorMisalignedAddress", 719: "cudaErrorLaunchFailure",
}  # fmt: skip


class CUDARuntimeError(RuntimeError):
    """An error of CUDA's runtime, by its number."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"{_NAMES.get(status, 'cudaErrorUnknown')}: error {status}")

    def __reduce__(self) -> Any:
        return type(self), (self.status,)


def compute_capability() -> tuple[int, int]:
    """`CKNCUDA_CPU_COMPUTE_CAPABILITY`, or that of an H100."""
    digits = os.environ.get("CKNCUDA_CPU_COMPUTE_CAPABILITY", "90")
    return int(digits[:-1]), int(digits[-1])


def shared_most() -> int:
    """Bytes of shared memory that a block may have on a device of this capability."""
    major, minor = compute_capability()
    return _SHARED[10 * major + minor] << 10


class Sticky:
    """The error after which the process has lost its device: `CKNCUDA_CPU_STICKY=KERNEL:STATUS`."""

    status = 0

    @classmethod
    def check(cls, kernel: str = "") -> None:
        """Fail as the device does: at a launch of the kernel named, and at all that follows."""
        name, _, status = os.environ.get("CKNCUDA_CPU_STICKY", "").partition(":")
        if kernel and kernel.partition("<")[0] == name:
            cls.status = int(status)
        if cls.status:
            raise CUDARuntimeError(cls.status)


def getDeviceCount() -> int:  # noqa: N802 (CuPy's name)
    Sticky.check()
    if "driver" in lacking():
        raise CUDARuntimeError(35)
    count = int(os.environ.get("CKNCUDA_CPU_DEVICES", "1"))
    if count == 0:
        raise CUDARuntimeError(100)
    return count


def lacking() -> list[str]:
    """What this installation has not: `CKNCUDA_CPU_LACKS`, of nvrtc, headers, cublas, cusolver and driver."""
    return os.environ.get("CKNCUDA_CPU_LACKS", "").split(",")


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
    Sticky.check()
    return _memory.capacity() - _memory.used(), _memory.capacity()


def runtimeGetVersion() -> int:  # noqa: N802
    return 13000


def driverGetVersion() -> int:  # noqa: N802
    return 12040 if "driver" in lacking() else 13000
