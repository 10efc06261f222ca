"""What all backends have in common that compute in the host's memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from ckncuda.layer import Layer


class HostBlocks:
    """Blocks of images one after the other, results in host memory, nothing left to wait for."""

    dtype: npt.DTypeLike

    def encode(
        self, maps: NDArray[Any], layers: Sequence[Layer], out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """See `ckncuda.backend.Backend`; each backend has its own."""
        raise NotImplementedError

    def encode_blocks(
        self,
        blocks: Iterable[NDArray[Any]],
        layers: Sequence[Layer],
        out: NDArray[Any] | None = None,
        then: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
    ) -> Iterator[NDArray[Any]]:
        """One after the other."""
        done = 0
        for block in blocks:
            encoded = self.encode(block, layers, None if out is None else out[done : done + len(block)])
            done += len(block)
            del block  # while the next one is read, this one need not be there
            yield encoded if then is None else then(encoded)
            del encoded

    def empty(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """In the host's memory."""
        return np.empty(shape, self.dtype)

    def wait(self) -> None:
        """Nothing is ever left to do."""

    def to_host(self, array: NDArray[Any]) -> NDArray[Any]:
        """Nothing to do."""
        return array
