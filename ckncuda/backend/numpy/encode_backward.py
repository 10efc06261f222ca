"""The way back through layers on a CPU: images in shares, on all threads, and sums over them."""

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.numpy.threads import Threads
from ckncuda.layer.layer import Layer
from ckncuda.layer.spec import LayerSpec
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
    plan : function
        Returns, for a specification and a shape, the room's module ``encode_backward``, of weights_of, Sums and
        layer_backward, and its plan.
    threads : Threads
    by_maps : bool
        Whether the gradient by the images is asked for.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        shape: Shape,
        plan: Callable[[LayerSpec, Shape], tuple[ModuleType, Any]],
        threads: Threads,
        by_maps: bool,
    ) -> None:
        self._layers, self._threads, self._shapes = layers, threads, [shape]
        self._ways: list[tuple[ModuleType, Any]] = []
        for layer in layers:
            self._ways.append(plan(layer.spec, self._shapes[-1]))
            self._shapes.append(self._ways[-1][1].output_shape)
        self._sums_bytes = sum(steps.Sums.bytes_of(plan) for steps, plan in self._ways)
        shares = max(1, min(SHARES, SUMS_BYTES // max(1, self._sums_bytes)))
        self._sums = [[steps.Sums(plan) for steps, plan in self._ways] for _ in range(shares)]

        def weights(number: int) -> Any:
            steps, plan = self._ways[number]
            return steps.weights_of(layers[number], plan, by_maps or number > 0)

        self._weights = self._of_each_layer(weights)

    def _of_each_layer(self, function: Callable[[int], Any]) -> list[Any]:
        """Call a function with the number of each layer, on all threads."""
        results: list[Any] = [None] * len(self._layers)

        def one(number: int) -> None:
            results[number] = function(number)

        self._threads.run(one, ((number,) for number in reversed(range(len(results)))))  # the largest first
        return results

    def bytes_per_image(self) -> int:
        """Count the bytes of an image's maps between layers, and of gradients by two of them."""
        sizes = [math.prod(shape) for shape in self._shapes]
        return 4 * (sum(sizes) + 2 * max(sizes))

    def tile_bytes(self) -> int:
        """Count the bytes of all threads' tiles, and of the sums."""
        tiles = self._threads.count * sum(plan.tile_bytes() for _, plan in self._ways)
        return tiles + self._sums_bytes * len(self._sums)

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
        for number in reversed(range(len(self._ways))):
            (steps, plan), below, encoded = self._ways[number], maps[number], maps[number + 1]
            by_below = buffer(f"gradient {number % 2}", below.shape) if number else out
            for start in range(0, len(below), plan.images_per_tile):
                tile = slice(start, start + plan.images_per_tile)
                target = None if by_below is None else by_below[tile]
                steps.layer_backward(
                    *(below[tile], encoded[tile], gradient[tile], plan, self._weights[number]),
                    *(sums[number], target, buffer),
                )
            if by_below is not None:
                gradient = by_below

    def by_anchors(self) -> list[NDArray[np.float64]]:
        """Return the gradients by the anchor points [filters, height, width, channels] of each layer."""

        def one_layer(number: int) -> NDArray[np.float64]:
            layer, none = self._layers[number], np.zeros(())
            by_anchors = sum((share[number].by_anchors() for share in self._sums), none)
            outputs = sum((share[number].outputs() for share in self._sums), none)
            # Gᵀ P = (Gᵀ X') W^{-T}: W is of full rank, being regularised, and no worse than K^{-1/2}.
            by_projection = np.linalg.solve(layer.projection, outputs.T).T
            gradient: NDArray[np.float64] = by_anchors + layer.projection_backward(by_projection)
            return gradient

        return self._of_each_layer(one_layer)
