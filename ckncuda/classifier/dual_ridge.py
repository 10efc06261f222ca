"""What kernel ridge regression is made of, wherever its Gram matrices come from: system and search."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ckncuda.classifier.classifier import Progress
from ckncuda.classifier.normal_equations import WELL_CONDITIONED, DualSolution, cholesky, solve
from ckncuda.classifier.selection import climb, halvings
from ckncuda.errors import InvalidSpec

Array = npt.NDArray[Any]
Place = tuple[int, ...]

LAMBDAS = tuple(float(f"{10 ** (-place / 3):.1e}") for place in range(25))
"""1, 0.46, 0.22, 0.1, …, 1e-8."""

WEIGHTS = tuple(2.0**place for place in range(-4, 5))
"""Of a kernel beside the first one's, 1."""

MOST = 46_000  # images whose Gram matrix LAPACK's 32-bit numbers can count; it takes 8 GiB


def precision(regularization: float, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """In which to solve, for Gram matrices of a type."""
    return np.dtype(np.float64) if regularization < WELL_CONDITIONED else dtype


def solution_of(parts: Iterable[Array], regularization: float, targets: Array) -> DualSolution:
    """Solve (K + 11ᵀ + nλ I) α = Y, where K is the sum of the parts.

    Parameters
    ----------
    parts : iterable of arrays [n, n]
        Column-major; of each the lower triangle counts.  The first is overwritten.
    regularization : float
        λ.
    targets : float64 [n, K]
        Y.
    """
    gram: Array | None = None
    for part in parts:
        if gram is None:
            gram = part
        else:
            gram += part
        del part  # while the next one is made, this one need not be there
    assert gram is not None  # the weights sum to 1
    gram += 1
    factor = cholesky(gram, len(targets), regularization, overwrite=True)
    return DualSolution(factor, solve(factor, targets), constant=0.0)


def left_out_accuracy(residuals: npt.NDArray[np.float64], targets: npt.NDArray[np.float64]) -> float:
    """Of the last images, from their left-out residuals and the targets of all."""
    true = targets[-len(residuals) :]
    return float(np.mean((true - residuals).argmax(axis=1) == true.argmax(axis=1)))


def search(
    accuracy_among: Callable[[Place, int, int], float],
    grid: Sequence[Place],
    sizes: Place,
    images: int,
    few: int,
    progress: Progress | None,
) -> tuple[Place, int]:
    """The best point of a lattice, whose first axis is that of `LAMBDAS`.

    It is looked for among ``few`` to twice as many images first, on a grid, then climbed from there, one step
    along one axis at a time, among twice as many and so on.

    Parameters
    ----------
    accuracy_among : callable
        From a point, how many images there are, the last ones, and how many judge it, the last of these, to
        its left-out accuracy; it may raise `InvalidSpec` where λ is too small for the precision.
    grid : sequence of points
        Where to begin; of equally good ones that of the largest λ is taken.
    sizes : tuple of int
        Of the axes.
    images : int
        How many there are in the end.
    few : int
        How many are few.
    progress : callable or None

    Returns
    -------
    place : tuple of int
    judged : int
        How many images judged it in the end.
    """
    tried = 0

    def judges(count: int) -> int:
        return count // 2 if count >= 2 * few else count

    if math.prod(sizes) == 1:
        return grid[0], images

    def among(count: int) -> Callable[[Place], float]:
        def accuracy_at(place: Place) -> float:
            nonlocal tried
            tried += 1
            if progress is not None:
                progress("choosing kernel and λ", tried, max(tried, 40))
            try:
                return accuracy_among(place, count, judges(count))
            except InvalidSpec:  # images so alike that this λ is too small for the precision
                return -1.0

        return accuracy_at

    counts = halvings(images, few)
    first = among(counts[0])
    best = max(grid, key=lambda place: (first(place), -place[0]))
    for count in counts:  # twice as many images take a λ that is weaker by a third of a decade or two
        if count > counts[0]:
            best = (min(best[0] + 1, sizes[0] - 1), *best[1:])
        best = climb(best, among(count), sizes)
    return best, judges(images)


def check_weights(weights: Sequence[float] | str, kernels: int | None, of: str) -> None:
    """Raise `InvalidSpec` unless weights are "auto", or one for each kernel and not all zero."""
    if isinstance(weights, str):
        if weights != "auto":
            raise InvalidSpec(f'weights are {weights!r}; expected numbers, or "auto"')
        return
    given = list(weights) if np.iterable(weights) else weights
    if not np.iterable(given) or not all(map(_is_weight, given)) or not any(given):
        raise InvalidSpec(f"weights are {given}; expected numbers that are not negative, one positive")
    if kernels not in (None, len(given)):
        raise InvalidSpec(f"{len(given)} weights were given for {kernels} {of}")


def check_count(images: int | None, instead: str) -> None:
    """Raise `InvalidSpec` if there are more images than a Gram matrix may have."""
    if images is not None and images > MOST:
        raise InvalidSpec(
            f"kernel ridge of {images} images needs Gram matrices of {4 * images**2 >> 30} GiB each; it "
            f"takes {MOST} images at most: use {instead}"
        )


def shown_choice(names: Iterable[tuple[str, bool]], by: str) -> str:
    """What was chosen and how, and what was given, from names and whether each was to be chosen."""
    said: dict[bool, list[str]] = {True: [], False: []}
    for name, automatic in names:
        said[automatic].append(name)
    sentences = {True: f"chosen by {by}", False: "given"}
    return "; ".join(
        f"{', '.join(shown)} {'were' if len(shown) > 1 else 'was'} {sentences[automatic]}"
        for automatic, shown in said.items()
        if shown
    )


def shown_weights(weights: Sequence[float]) -> str:
    """Such as weights 0.25 : 0.75."""
    return "weights " + " : ".join(f"{weight:.2g}" for weight in weights)


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float | np.number) and 0 <= float(value) < math.inf
