"""The way back through layers on a CPU: images in shares, on all threads, and sums over them."""

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.numpy.threads import Threads
from ckncuda.layer.layer import Layer
from ckncuda.types import Shape

SHARES = 8  # of a block, at most: as many for any number of threads, on which no bit may depend
SUMS_BYTES = 256 << 20  # of all shares' sums, above which there are fewer shares

Map = NDArray[np.float32]


class WayBack:
    """Gradients by the anchor points of layers, summed over blocks of images.

    Parameters
    ----------
    layers : sequence of Layer
    shape : (height, width, channels)
        Of the images.
    steps : module
        The room's ``encode_backward``: weights_of, Sums and layer_backward.
    plan : function
        Returns the room's plan for a specification and a shape.
    threads : Threads
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        shape: Shape,
        steps: ModuleType,
        plan: Callable[..., Any],
        threads: Threads,
    ) -> None:
        self._layers, self._steps, self._threads = layers, steps, threads
        self._shapes, self._plans = [shape], []
        for layer in layers:
            self._plans.append(plan(layer.spec, self._shapes[-1]))
            self._shapes.append(self._plans[-1].output_shape)
        self._weights = [steps.weights_of(layer) for layer in layers]
        learned = 4 * sum(layer.anchors.size + layer.projection.size for layer in layers)
        shares = max(1, min(SHARES, SUMS_BYTES // max(1, learned)))
        self._sums = [[steps.Sums(weights) for weights in self._weights] for _ in range(shares)]

    def bytes_per_image(self) -> int:
        """Count the bytes of an image's maps between layers, and of gradients by two of them."""
        sizes = [math.prod(shape) for shape in self._shapes]
        return 4 * (sum(sizes) + 2 * max(sizes))

    def tile_bytes(self) -> int:
        """Count the bytes of all threads' tiles, and of the sums."""
        tiles = self._threads.count * max((plan.tile_bytes() for plan in self._plans), default=0)
        learned = sum(layer.anchors.size + layer.projection.size for layer in self._layers)
        return tiles + 4 * learned * len(self._sums)

    def block(self, maps: Sequence[Map], upstream: Map, out: Map | None) -> None:
        """Go back through all layers, from a block's maps between them: its input, … its output.

        The gradient by the input is written to ``out``.
        """
        size = -(-len(upstream) // len(self._sums))

        def share(number: int) -> None:
            images = slice(number * size, (number + 1) * size)
            if len(gradient := upstream[images]):
                own = None if out is None else out[images]
                self._share([below[images] for below in maps], gradient, self._sums[number], own)

        self._threads.run(share, ((number,) for number in range(len(self._sums))))

    def _share(self, maps: Sequence[Map], gradient: Map, sums: list[Any], out: Map | None) -> None:
        buffer = self._threads.buffer
        for number in reversed(range(len(self._plans))):
            plan, below, encoded = self._plans[number], maps[number], maps[number + 1]
            by_below = buffer(f"gradient {number % 2}", below.shape) if number else out
            for start in range(0, len(below), plan.images_per_tile):
                tile = slice(start, start + plan.images_per_tile)
                target = None if by_below is None else by_below[tile]
                self._steps.layer_backward(
                    *(below[tile], encoded[tile], gradient[tile], plan, self._weights[number]),
                    *(sums[number], target, buffer),
                )
            if by_below is not None:
                gradient = by_below

    def by_anchors(self) -> list[NDArray[np.float64]]:
        """Return the gradients by the anchor points [filters, height, width, channels] of each layer."""
        gradients = []
        for number, layer in enumerate(self._layers):
            by_anchors, outputs = (
                sum((getattr(share[number], name).astype(np.float64) for share in self._sums), np.zeros(()))
                for name in ("by_anchors", "outputs")
            )
            # Gᵀ P = (Gᵀ X') W^{-T}: W is of full rank, being regularised, and no worse than K^{-1/2}.
            by_projection = np.linalg.solve(layer.projection, outputs.T).T
            gradients.append(
                by_anchors.reshape(layer.anchors.shape) + layer.projection_backward(by_projection)
            )
        return gradients
