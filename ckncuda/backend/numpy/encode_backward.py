"""The way back through layers on a CPU: images in shares, on all threads, and sums over them."""

import contextlib
import math
from collections import deque
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.numpy.threads import Threads
from ckncuda.backend.numpy.tiles import CACHE_LINE, aligned
from ckncuda.layer.layer import Layer
from ckncuda.layer.spec import LayerSpec
from ckncuda.types import Shape

SHARES = 8  # of a block, at most: as many for any number of threads, on which no bit may depend
SUMS_BYTES = 256 << 20  # of all shares' sums, above which there are fewer shares

SPARE_BYTES = 256 << 20  # kept from call to call, at most
MAX_BLOCK = 512  # images: enough to keep every thread busy, few enough for memory to be used again

Map = NDArray[np.float32]
Total = NDArray[np.float64]


def rounded(numbers: int) -> int:
    """Round up to whole cache lines."""
    return -(-numbers // CACHE_LINE) * CACHE_LINE


class Ways:
    """Modules and plans of a way back through layers of specifications, and the memory it takes.

    Parameters
    ----------
    specs : sequence of LayerSpec
    shape : (height, width, channels)
        Of the images.
    plan : function
        Returns, for a specification and a shape, the room's module ``encode_backward``, of weights_of, Sums,
        layer_backward and totals, and its plan.

    Attributes
    ----------
    each : list of (module, plan)
        A layer each.
    shapes : list of (height, width, channels)
        Of the images, and of the output of each layer.
    ends : list of int
        Where the sums of each layer begin and end in those of a share, in numbers.
    shares : int
        Into which a block of images is cut.
    """

    def __init__(
        self,
        specs: Sequence[LayerSpec],
        shape: Shape,
        plan: Callable[[LayerSpec, Shape], tuple[ModuleType, Any]],
    ) -> None:
        self.shapes, self.each = [shape], list[tuple[ModuleType, Any]]()
        for spec in specs:
            self.each.append(plan(spec, self.shapes[-1]))
            self.shapes.append(self.each[-1][1].output_shape)
        sizes = [rounded(steps.Sums.numbers(plan)) for steps, plan in self.each]
        self.ends: list[int] = np.cumsum([0, *sizes]).tolist()
        self.shares = max(1, min(SHARES, SUMS_BYTES // max(1, 4 * self.ends[-1])))

    def kept_shapes(self) -> list[tuple[int, ...] | None]:
        """Return the shapes of the products that each layer keeps of an image; None where it keeps none."""
        return [plan.kept_shape for _, plan in self.each]

    def bytes_per_image(self) -> int:
        """Count the bytes of an image's maps and kept products, and of gradients by two of the maps."""
        sizes = [math.prod(shape) for shape in self.shapes]
        kept = sum(math.prod(shape) for shape in self.kept_shapes() if shape)
        return 4 * (sum(sizes) + 2 * max(sizes) + kept)

    def workspace_bytes(self, threads: int) -> int:
        """Count the bytes of tiles of so many threads, and of the sums of all shares."""
        tiles = threads * sum(plan.tile_bytes() for _, plan in self.each)
        return int(tiles + 4 * self.ends[-1] * self.shares)

    def images_per_block(self, memory: int) -> int:
        """Count the images that half of the memory holds; the rest is for workspace.

        So their number, on which the last bits of sums depend, is the same for any number of threads.
        """
        return max(1, min(MAX_BLOCK, memory // 2 // self.bytes_per_image()))


class WayBack:
    """Gradients by the anchor points of layers, summed over blocks of images.

    The sums of a block are made in float32, those of all blocks in float64.

    Parameters
    ----------
    layers : sequence of Layer
    ways : Ways
        Of their specifications.
    forward : sequence
        Weights of the way forward, a layer each.
    threads : Threads
    by_maps : bool
        Whether the gradient by the images is asked for.
    spare : deque
        Memory that is kept from call to call: fresh pages cost more than the sums.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        ways: Ways,
        forward: Sequence[Any],
        threads: Threads,
        by_maps: bool,
        spare: deque[Map],
    ) -> None:
        self._layers, self._threads, self._all, self._ways = layers, threads, ways, ways.each
        self._spare, self._memory = spare, aligned(0)
        self._begun: list[list[Any] | None] = [None] * ways.shares
        self._totals: list[tuple[Total, Total]] = []

        def weights(number: int) -> Any:
            steps, plan = self._ways[number]
            return steps.weights_of(layers[number], plan, forward[number], by_maps or number > 0)

        self._weights = self._of_each_layer(weights)

    def _of_each_layer(self, function: Callable[[int], Any]) -> list[Any]:
        """Call a function with the number of each layer, on all threads."""
        results: list[Any] = [None] * len(self._layers)

        def one(number: int) -> None:
            results[number] = function(number)

        self._threads.run(one, ((number,) for number in reversed(range(len(results)))))  # the largest first
        return results

    def _sums(self, number: int) -> list[Any]:
        """Return the sums of a share of a block, zeros at first, a layer each."""
        begun, first = self._begun[number], number * self._all.ends[-1]
        if begun is None:
            begun = self._begun[number] = [
                steps.Sums(plan, self._memory[first + start : first + start + steps.Sums.numbers(plan)])
                for (steps, plan), start in zip(self._ways, self._all.ends, strict=False)
            ]
        return begun

    def make_room(self, images: int) -> None:
        """Take memory for sums and for blocks of so many images: the spare one, where it is large enough."""
        sums = self._all.ends[-1] * len(self._begun)
        inner = [(images, *shape) for shape in self._all.shapes[1:-1]]
        kept = [(images, *shape) if shape else None for shape in self._all.kept_shapes()]
        shapes: list[tuple[int, ...] | None] = [*inner, None, *kept]  # the last map is the caller's
        ends = np.cumsum([sums, *(rounded(math.prod(shape)) if shape else 0 for shape in shapes)]).tolist()
        with contextlib.suppress(IndexError):  # at the first call, or beside another
            self._memory = self._spare.pop()
        if self._memory.size < ends[-1]:
            self._memory = aligned(ends[-1])
        rooms = [
            self._memory[start : start + math.prod(shape)].reshape(shape) if shape else None
            for start, shape in zip(ends, shapes, strict=False)
        ]
        self._maps, self._kept = rooms[: len(self._ways)], rooms[len(self._ways) :]

    def room(self, number: int, images: int) -> tuple[Map | None, Map | None]:
        """Return memory for a layer's output and products, of some images; None where there is none."""
        output, kept = self._maps[number], self._kept[number]
        return None if output is None else output[:images], None if kept is None else kept[:images]

    def block(self, maps: Sequence[Map], kept: Sequence[Map | None], upstream: Map, out: Map | None) -> None:
        """Go back through all layers, from a block's maps between them: its input, … its output.

        ``kept`` are products, of layers of which there are any.

        The gradient by the input is written to ``out``.
        """
        if not self._ways:
            if out is not None:
                out[...] = upstream
            return
        size = -(-len(upstream) // len(self._begun))

        def share(number: int) -> None:
            images = slice(number * size, (number + 1) * size)
            if len(gradient := upstream[images]):
                own = None if out is None else out[images]
                maps_of_share = [below[images] for below in maps]
                products = [None if of_layer is None else of_layer[images] for of_layer in kept]
                self._share(maps_of_share, products, gradient, self._sums(number), own)

        self._threads.run(share, ((number,) for number in range(len(self._begun))))
        self._add_up()

    def _add_up(self) -> None:
        """Add the sums of a block to those of the blocks before."""
        begun = [of_share for of_share in self._begun if of_share is not None]

        def of_layer(number: int) -> tuple[Total, Total]:
            steps, plan = self._ways[number]
            found: tuple[Total, Total] = steps.totals(plan, [of_share[number] for of_share in begun])
            for whole, part in zip(self._totals[number] if self._totals else (), found, strict=False):
                part += whole
            return found

        self._totals = self._of_each_layer(of_layer)
        self._begun = [None] * len(self._begun)

    def _share(
        self,
        maps: Sequence[Map],
        kept: Sequence[Map | None],
        gradient: Map,
        sums: list[Any],
        out: Map | None,
    ) -> None:
        buffer = self._threads.buffer
        for number in reversed(range(len(self._ways))):
            (steps, plan), below, encoded = self._ways[number], maps[number], maps[number + 1]
            by_below = buffer(f"gradient {number % 2}", below.shape) if number else out
            for start in range(0, len(below), plan.images_per_tile):
                tile = slice(start, start + plan.images_per_tile)
                target = None if by_below is None else by_below[tile]
                of_layer = kept[number]
                products = None if of_layer is None else of_layer[tile]
                steps.layer_backward(
                    *(below[tile], encoded[tile], gradient[tile], plan, self._weights[number]),
                    *(sums[number], target, products, buffer),
                )
            if by_below is not None:
                gradient = by_below

    def by_anchors(self) -> list[NDArray[np.float64]]:
        """Return the gradients by the anchor points [filters, height, width, channels] of each layer."""
        if not self._totals:  # there were no images
            self._sums(0)
            self._add_up()

        def one_layer(number: int) -> NDArray[np.float64]:
            layer, (by_anchors, outputs) = self._layers[number], self._totals[number]
            gradient: NDArray[np.float64] = by_anchors + layer.outputs_backward(outputs)
            return gradient

        gradients = self._of_each_layer(one_layer)
        if self._memory.nbytes <= SPARE_BYTES:
            self._spare.append(self._memory)
        return gradients
