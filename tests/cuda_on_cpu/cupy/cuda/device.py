"""CuPy's `cupy.cuda.device`: the one device there is."""

from typing import Any

from .._streams import synchronize_all
from . import runtime


class Device:
    """A device by its number, 0."""

    def __init__(self, device: int = 0) -> None:
        self.id = int(device)

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *_: Any) -> None: ...

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return self.id

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def use(self) -> "Device":
        runtime.setDevice(self.id)
        return self

    def synchronize(self) -> None:
        synchronize_all()

    @property
    def compute_capability(self) -> str:
        return "".join(map(str, runtime.compute_capability()))

    @property
    def mem_info(self) -> tuple[int, int]:
        return runtime.memGetInfo()

    @property
    def attributes(self) -> dict[str, int]:
        major, minor = runtime.compute_capability()
        return {
            "MultiProcessorCount": 4,
            "MaxSharedMemoryPerBlock": 48 << 10,
            "MaxSharedMemoryPerBlockOptin": 227 << 10,
            "MaxSharedMemoryPerMultiprocessor": 228 << 10,
            "ReservedSharedMemoryPerBlock": 1 << 10,
            "MaxThreadsPerBlock": 1024,
            "MaxThreadsPerMultiProcessor": 2048,
            "MaxRegistersPerBlock": 65536,
            "MaxRegistersPerMultiprocessor": 65536,
            "MaxGridDimX": 2**31 - 1,
            "MaxGridDimY": 65535,
            "MaxGridDimZ": 65535,
            "WarpSize": 32,
            "L2CacheSize": 50 << 20,
            "ClockRate": 1_980_000,
            "ComputeCapabilityMajor": major,
            "ComputeCapabilityMinor": minor,
        }
