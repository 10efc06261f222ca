"""CuPy's `cupy.cuda.device`: the one device there is."""

from .._streams import synchronize_all
from . import runtime


class Device:
    """A device by its number, 0."""

    def __init__(self, device: int = 0) -> None:
        self.id = int(device)

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
        return {"MultiProcessorCount": 4, "MaxSharedMemoryPerBlockOptin": runtime.shared_most()}
