"""What all backends have in common that compute in the host's memory."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray


class HostBlocks:
    """Blocks of images one after the other, results in host memory, nothing left to wait for."""

    dtype: npt.DTypeLike

    def asarray(self, array: NDArray[Any]) -> NDArray[Any]:
        """See `ckncuda.backend.Backend`; each backend has its own."""
        raise NotImplementedError

    def map_blocks(
        self,
        function: Callable[[NDArray[Any]], NDArray[Any]],
        blocks: Iterable[NDArray[Any]],
        out: NDArray[Any] | None = None,
    ) -> Iterator[NDArray[Any]]:
        """One after the other."""
        done = 0
        for block in blocks:
            result = function(self.asarray(block))
            del block  # while the next one is read, this one need not be there
            if out is not None:
                part = out[done : done + len(result)]
                part[...] = result
                result = part
            done += len(result)
            yield result
            del result

    def empty(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """In the host's memory."""
        return np.empty(shape, self.dtype)

    def wait(self) -> None:
        """Nothing is ever left to do."""

    def to_host(self, array: NDArray[Any]) -> NDArray[Any]:
        """Nothing to do."""
        return array
