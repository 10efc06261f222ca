"""Exact kernels through array operations alone, a pair of images at a time.

u are positions of the first image, v of the second; a map of pairs is [h, w, h2, w2] or, flattened,
[positions, positions2].
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.any_array.patches import flat_patches
from ckncuda.backend.operations import NormedMaps, PairSpec, Specs
from ckncuda.layer.dot_product import Exponential
from ckncuda.layer.geometry import Geometry
from ckncuda.types import Array, Shape

LEAST_LOGARITHM = -80.0  # for log 0: exp of it is negligible, and it meets no infinity


_Scratch = Callable[[str, tuple[int, ...]], Array]
"""The array of a name and a shape, of unknown content, used again: fresh pages cost more than sums."""


def _scratch(like: Array) -> _Scratch:
    """Return scratch arrays of this type, where it is."""
    return functools.cache(lambda name, shape: np.empty_like(like, shape=shape))


@dataclass(frozen=True)
class _Step:
    """A layer on maps of one shape and type."""

    spec: PairSpec
    shape: Shape
    rows: Array  # pooling
    columns: Array

    def pooled(self, pairs: Array, scratch: _Scratch) -> Array:
        """Return A G Aᵀ of pairs that may be flattened: [h', w', h2', w2']."""
        (height, h), (width, w) = self.rows.shape, self.columns.shape
        if self.spec.subsampling == 1:
            return pairs.reshape(h, w, h, w)
        # Leading axes first: those are few products with long rows, and leave little for the others.
        half = scratch("half", (height, w * h * w))
        np.matmul(self.rows, pairs.reshape(h, -1), out=half)
        one_side = scratch("one side", (height, width, h * w))
        np.matmul(self.columns, half.reshape(height, w, h * w), out=one_side)
        pairs = np.matmul(self.rows, one_side.reshape(height * width, h, w))
        pairs = np.matmul(pairs.reshape(-1, w), self.columns.T)
        return pairs.reshape(height, width, height, width)

    def cosines(self, pairs: Array, floored: Array, floored2: Array) -> Array:
        """Compute S / (n n2)."""
        cosines = patch_sums(pairs, self.spec)
        cosines /= floored[:, None]
        cosines /= floored2
        return cosines

    def values(self, cosines: Array, factor: Array, factor2: Array) -> Array:
        """Compute n κ(t) n2, in place of the cosines t."""
        values = self.spec.kernel.value(cosines, out=cosines)
        values *= factor[:, None]
        values *= factor2
        return values

    def factors(self, norms: Array) -> tuple[Array, Array]:
        """Return, flattened, the norms to divide by and those to multiply with, of norms [.., h', w']."""
        norms = norms.reshape(*norms.shape[:-2], -1)
        floored = np.maximum(norms, self.spec.norm_floor)
        return floored, norms if self.spec.scale == "norm" else floored


def steps_of(specs: Specs, shape: Shape, like: Array) -> list[_Step]:
    """Lay the layers out for images of this shape, with pooling of the type of ``like`` and where it is."""
    steps = []
    for spec in specs:
        rows, columns = (
            np.asarray(weights.astype(like.dtype), like=like) for weights in spec.pooling_matrices(shape)
        )
        steps.append(_Step(spec, shape, rows, columns))
        shape = spec.output_shape(shape)
    return steps


class ImagePatches:
    """Patches over their norms, ready for products: pairs of images are computed from them."""

    def __init__(self, images: NormedMaps, steps: Sequence[_Step], tangent: bool, second: bool) -> None:
        first = steps[0]
        maps = np.asarray(images.maps, like=first.rows)
        norms = [np.asarray(n.astype(maps.dtype), like=maps) for n in images.norms]
        self.factors = [step.factors(n) for step, n in zip(steps, norms, strict=True)]
        floored, factor = self.factors[0]
        self.patches = flat_patches(maps, first.spec)
        self.patches /= floored[..., None]
        self.logarithmic = isinstance(first.spec.kernel, Exponential) and not tangent
        if self.logarithmic:
            self.patches = _with_logarithms(self.patches, factor, first.spec.kernel, second)


def _with_logarithms(patches: Array, factor: Array, kernel: Any, second: bool) -> Array:
    """Add two numbers to each patch, so that a product of patches of two images is log(n n' κ(t))."""
    with np.errstate(divide="ignore"):
        logarithm = np.maximum(np.log(factor), LEAST_LOGARITHM)[..., None]
    ones = np.ones_like(logarithm)
    if second:
        return np.concatenate([patches, ones, logarithm], axis=-1)
    patches *= kernel.alpha
    return np.concatenate([patches, logarithm - patches.dtype.type(kernel.alpha), ones], axis=-1)


def _pair(
    x: ImagePatches, i: int, y: ImagePatches, j: int, steps: Sequence[_Step], tangent: bool, scratch: _Scratch
) -> Any:
    """Compute the kernel of image i of x and image j of y."""
    pairs = x.patches[i]
    tangents: Array | None = None
    for number, step in enumerate(steps):
        floored, factor = (each[i] for each in x.factors[number])
        floored2, factor2 = (each[j] for each in y.factors[number])
        if number == 0:
            cosines = scratch("cosines", (len(x.patches[i]), len(y.patches[j])))
            np.matmul(x.patches[i], y.patches[j].T, out=cosines)
        else:
            cosines = step.cosines(pairs, floored, floored2)
        if tangent:
            arriving = cosines if tangents is None else patch_sums(tangents, step.spec)
            divided = (floored, floored2) if tangents is None else None
            pairs, tangents = _with_tangents(cosines, arriving, factor, factor2, divided)
            tangents = step.pooled(tangents, scratch)
        elif number == 0 and x.logarithmic:
            pairs = np.exp(cosines, out=cosines)
        else:
            pairs = step.values(cosines, factor, factor2)
        if not (tangent and number == len(steps) - 1):
            pairs = step.pooled(pairs, scratch)
    return np.einsum("uvuv->", pairs if tangents is None else tangents)


def _with_tangents(
    cosines: Array, arriving: Array, factor: Array, factor2: Array, divided: tuple[Array, Array] | None
) -> tuple[Array, Array]:
    """Compute n κ_1(t) n2, and that plus Θ_patch κ_0(t).

    Where what arrives has been ``divided`` by norms, as the first layer's cosines, they are multiplied in.
    """
    angle = np.pi - np.arccos(np.clip(cosines, -1, 1))
    relu = np.sqrt(np.maximum(1 - cosines * cosines, 0))
    relu += cosines * angle
    relu *= factor[:, None] / np.pi
    relu *= factor2
    angle *= arriving
    angle *= 1 / np.pi
    if divided is not None:
        angle *= divided[0][:, None]
        angle *= divided[1]
    angle += relu
    return relu, angle


def gram_block(
    first: NormedMaps,
    second: NormedMaps,
    steps: Sequence[_Step],
    tangent: bool,
    out: Array,
    diagonal: int | None,
) -> None:
    """Compute the kernels of all pairs, to out [n, n2] where the steps' arrays are.

    With ``diagonal`` the number of the second images' first one less that of the first images', those of
    pairs below the diagonal of the whole matrix are left out.
    """
    x = ImagePatches(first, steps, tangent, second=False)
    y = ImagePatches(second, steps, tangent, second=True)
    scratch = _scratch(steps[0].rows)
    for i, j in np.ndindex(len(first), len(second)):
        if diagonal is None or diagonal + j >= i:
            out[i, j] = _pair(x, i, y, j, steps, tangent, scratch)


def _own_norms(patches: Array, steps: Sequence[_Step]) -> list[Array]:
    """Compute the norm n(u) of each patch at each layer, flattened, of an image's patches [positions, d]."""
    norms = [np.sqrt(np.einsum("ui,ui->u", patches, patches))]
    pairs, scratch = patches, _scratch(steps[0].rows)
    for number, (step, following) in enumerate(itertools.pairwise(steps)):
        height, width, _ = step.spec.map_shape(step.shape)
        floored, factor = step.factors(norms[-1].reshape(height, width))
        if number == 0:
            unit = patches / floored[:, None]
            cosines = np.matmul(unit, unit.T)
        else:
            cosines = step.cosines(pairs, floored, floored)
        pairs = step.pooled(step.values(cosines, factor, factor), scratch)
        norms.append(np.sqrt(np.maximum(patch_sums(pairs, following.spec).diagonal(), 0)))
    return norms


def patch_norms(
    maps: Array, specs: Specs, run: Callable[[Callable[[int], None], Iterable[Any]], None]
) -> tuple[NDArray[np.float64], ...]:
    """Compute the norms [n, h_l, w_l] of the patches of images in the host's memory, at each layer.

    ``run`` calls a function with each tuple of arguments.
    """
    steps = steps_of(specs, maps.shape[1:], maps)
    shapes = [step.spec.map_shape(step.shape)[:2] for step in steps]
    norms = tuple(np.empty((len(maps), *shape)) for shape in shapes)

    def image(i: int) -> None:
        (patches,) = flat_patches(maps[i : i + 1], specs[0])
        for one, own in zip(norms, _own_norms(patches, steps), strict=True):
            one[i] = own.reshape(one.shape[1:])

    run(image, ((i,) for i in range(len(maps))))
    return norms


def patch_sums(pairs: Array, geometry: Geometry) -> Array:
    """Compute S(u, v) = Σ_δ G(u+δ, v+δ), down and then across: [h, w, h2, w2] to [h' · w', h2' · w2']."""
    patch_height, patch_width = geometry.patch_shape
    padded = np.pad(pairs, geometry.margins * 2)
    sides = geometry.patch_shape * 2
    h, w, h2, w2 = (size - side + 1 for size, side in zip(padded.shape, sides, strict=True))
    down = padded[:h, :, :h2].copy()
    for d in range(1, patch_height):
        down += padded[d : d + h, :, d : d + h2]
    sums = down[:, :w, :, :w2].copy()
    for d in range(1, patch_width):
        sums += down[:, d : d + w, :, d : d + w2]
    return sums.reshape(h * w, h2 * w2)
