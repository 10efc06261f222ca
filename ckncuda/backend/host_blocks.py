"""Blocks of images through a backend that computes in the host's memory: one after the other."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from numpy.typing import NDArray

from ckncuda.layer import Layer

Encode = Callable[[NDArray[Any], Sequence[Layer], NDArray[Any] | None], NDArray[Any]]


def encode_blocks(
    encode: Encode,
    blocks: Iterable[NDArray[Any]],
    layers: Sequence[Layer],
    out: NDArray[Any] | None,
    then: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
) -> Iterator[NDArray[Any]]:
    """See `ckncuda.backend.Backend.encode_blocks`."""
    done = 0
    for block in blocks:
        encoded = encode(block, layers, None if out is None else out[done : done + len(block)])
        done += len(block)
        del block  # while the next one is read, this one need not be there
        yield encoded if then is None else then(encoded)
        del encoded
