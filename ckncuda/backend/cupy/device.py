"""The GPU itself: what it can do, kernels compiled for it and their launches."""

import contextlib
import functools
import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckncuda.backend.cupy.availability import why_unavailable
from ckncuda.errors import BackendUnavailable, InvalidSpec
from ckncuda.kernels import source

TENSOR_CORES = 80  # compute capability from which they know TF32 and bfloat16

PRECISIONS = {"float32": "Tf32x3", "tf32": "Tf32", "bfloat16": "Bf16"}
"""C++ names of the precisions; before `TENSOR_CORES`, float32 is ``Fma`` and the others do not exist."""


def describe(precision: str = "float32") -> str:
    """Say for people what computes; only where `why_unavailable` finds nothing."""
    import cupy

    device = cupy.cuda.Device()
    name = cupy.cuda.runtime.getDeviceProperties(device.id)["name"].decode()
    memory = device.mem_info[1] / 2**30
    return f"CuPy {cupy.__version__}, {precision}, {name} with {memory:.0f} GiB"


def compute_capability() -> int:
    """Return that of the current device: 75 for 7.5."""
    import cupy

    return int(cupy.cuda.Device().compute_capability)


@dataclass
class Gpu:
    """The current device, as those see it who launch kernels.

    Attributes
    ----------
    cupy : module
    products : str
        C++ name of how patches are multiplied with anchors.
    multiprocessors : int
    shared_limit : int
        Bytes of shared memory that a block may have.
    """

    cupy: Any
    products: str
    multiprocessors: int
    shared_limit: int

    @classmethod
    def current(cls, precision: str) -> "Gpu":
        """Return the current device, to compute products at one of the `PRECISIONS`.

        Raises
        ------
        BackendUnavailable
            There is no usable GPU, or it does not know the precision.
        InvalidSpec
            There is no such precision.
        """
        if precision not in PRECISIONS:
            raise InvalidSpec(
                f"there is no precision {precision!r}; the precisions are {', '.join(PRECISIONS)}"
            )
        if reason := why_unavailable():
            raise BackendUnavailable(f"the backend cupy cannot run here: {reason}")
        import cupy

        products, capability = PRECISIONS[precision], compute_capability()
        if capability < TENSOR_CORES:
            if precision != "float32":
                raise BackendUnavailable(
                    f"the precision {precision} needs compute capability 8.0 or newer; this GPU has "
                    f"{capability / 10}: use float32"
                )
            products = "Fma"
        attributes = cupy.cuda.Device().attributes
        return cls(
            cupy, products, attributes["MultiProcessorCount"], attributes["MaxSharedMemoryPerBlockOptin"]
        )

    @property
    def tensor_cores(self) -> bool:
        """True if products go through tensor cores."""
        return self.products != "Fma"

    def launch(
        self,
        operation: str,
        parameters: Sequence[str],
        grid: tuple[int, ...],
        threads: int,
        shared: int,
        *arguments: Any,
    ) -> None:
        """Queue a CUDA kernel on the current stream.

        Parameters
        ----------
        operation : str
            The file of ``kernels/`` and the kernel's name.
        parameters : sequence of str
            Its template's.
        grid : tuple of int
            Blocks.
        threads : int
            Of a block.
        shared : int
            Bytes of shared memory of a block.
        *arguments
            The kernel's.
        """
        instantiation = f"{operation}<{', '.join(parameters)}>" if parameters else operation
        kernel = compiled(operation, instantiation)
        if kernel.max_dynamic_shared_size_bytes < shared:
            kernel.max_dynamic_shared_size_bytes = shared
        kernel(grid, (threads,), arguments, shared_mem=shared)


@functools.cache
def compiled(operation: str, instantiation: str) -> Any:
    """Return an instantiation of a CUDA kernel; CuPy keeps it compiled on disk."""
    import cupy

    code = source(operation)
    _announce(f"{cupy.__version__} {compute_capability()} {instantiation} {code}")
    module = cupy.RawModule(code=code, options=("--std=c++17",), name_expressions=(instantiation,))
    return module.get_function(instantiation)


def _announce(what: str) -> None:
    """Say that something will take longer, unless CuPy's folder of compiled kernels has a mark of this."""
    mark: Path | None = None
    try:
        folder = Path(os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache")
        mark = folder / f"ckncuda-{hashlib.sha256(what.encode()).hexdigest()[:16]}"
        if mark.exists():
            return
    except (OSError, RuntimeError):  # no home, or one that is not ours to look into
        mark = None
    logging.getLogger("ckncuda").info("Compiling CUDA kernels: a few seconds, at the first use of each kind")
    if mark is None:
        return
    # A folder that cannot be written to costs the message each time, no more.
    with contextlib.suppress(OSError):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
