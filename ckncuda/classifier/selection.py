"""The choice of λ: which values are tried, on which images, and the sentence that says so."""

import functools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ckncuda.classifier.classifier import Progress
from ckncuda.errors import InvalidData, InvalidSpec

DECADES = tuple(float(f"1e-{power}") for power in range(9))
"""λ = 1 shrinks everything to the class means; λ = 1e-8 is none at all for float32 features."""

REFINEMENT = (10 ** (2 / 3), 10 ** (1 / 3), 10 ** (-1 / 3), 10 ** (-2 / 3))
"""Thirds of a decade on both sides of the best decade."""


THIRDS = tuple(float(f"{decade * part:.1e}") for decade in DECADES for part in (*REFINEMENT[:2], 1))
"""4.6, 2.2, 1, 0.46, …, 1e-8: what a search by decades and thirds may come to."""

FEW = 1000  # images at least on which a search begins: a hundredth of the work of 5,000

LEVEL = 3  # λ of equal accuracy in a row, at which a climb ends


def check_regularization(regularization: float | str) -> None:
    """Raise `InvalidSpec` unless λ is "auto" or a positive, finite number."""
    if isinstance(regularization, str):
        if regularization == "auto":
            return
    elif isinstance(regularization, int | float) and 0 < regularization < math.inf:
        return
    raise InvalidSpec(
        f'regularization is {regularization!r}; expected "auto" or a number greater than 0 '
        "(0 is not allowed: the minimiser need not exist; give a small one such as 1e-8)"
    )


def check_validation(validation: float, regularization: float | str) -> None:
    """Raise `InvalidSpec` unless ``validation`` is a fraction that serves the choice of λ."""
    if validation == 0 and regularization != "auto":
        return
    if not isinstance(validation, int | float) or not 0 < validation < 1:
        raise InvalidSpec(
            f"validation is {validation!r}; expected a fraction of the images between 0 and 1, both excluded "
            "(0 only together with a given regularization: nothing is held out then)"
        )


def check_seed(seed: int) -> None:
    """Raise `InvalidSpec` unless the seed is a whole number that is not negative."""
    if not isinstance(seed, int) or seed < 0:
        raise InvalidSpec(f"seed is {seed!r}; expected a whole number that is not negative")


def search_regularization(
    accuracy_at: Callable[[float], float],
    images: int,
    progress: Progress | None,
    refinement: tuple[float, ...] = REFINEMENT,
) -> tuple[float, list[tuple[float, float]]]:
    """Try λ by decades from strong to weak, then by thirds of a decade around the best.

    The decades end early where the accuracy has clearly fallen: by more than one standard error of
    the best accuracy, √(p (1 − p) / images). Weaker λ are the expensive ones for an iterative solver.

    Parameters
    ----------
    accuracy_at : callable
        The validation accuracy at one λ.
    images : int
        How many images an accuracy is the mean of.
    progress : callable or None
    refinement : floats
        Multiples of the best decade that are tried in the end.

    Returns
    -------
    best : float
        The λ of the highest accuracy; of equal ones the largest λ, since it has the smallest weights:
        of classifiers that nothing else tells apart, the one that moves least with its input.
    search : list of (λ, accuracy)
        In the order tried.
    """
    search: list[tuple[float, float]] = []
    total = len(DECADES) + len(refinement)

    def attempt(regularization: float) -> float:
        accuracy = accuracy_at(regularization)
        search.append((regularization, accuracy))
        if progress is not None:
            progress("choosing λ", len(search), total)
        return accuracy

    highest = 0.0
    for decade in DECADES:
        accuracy = attempt(decade)
        if accuracy < highest - math.sqrt(highest * (1 - highest) / images):
            total = len(search) + len(refinement)
            break
        highest = max(highest, accuracy)
    best = best_regularization(search)
    for factor in refinement:
        attempt(float(f"{best * factor:.1e}"))
    return best_regularization(search), search


def climb_from(
    start: float, accuracy_at: Callable[[float], float], progress: Progress | None
) -> tuple[float, list[tuple[float, float]]]:
    """Try λ by thirds of a decade from ``start`` on, until the accuracy falls.

    It is level for a while where few images decide: a climb ends after three λ of equal accuracy too.
    Stronger λ than ``start`` are tried only if no weaker one is better.

    Returns
    -------
    best : float
        The λ of the highest accuracy; of equal ones the largest.
    search : list of (λ, accuracy)
        In the order tried.
    """
    search: dict[int, float] = {}

    def attempt(place: int) -> float:
        if place not in search:
            search[place] = accuracy_at(THIRDS[place])
            if progress is not None:
                progress("choosing λ", len(search), max(len(search), 4))
        return search[place]

    first = min(range(len(THIRDS)), key=lambda place: abs(math.log(THIRDS[place] / start)))
    attempt(first)
    for step in (1, -1):
        place, level = first, 0
        while 0 <= place + step < len(THIRDS) and level < LEVEL and attempt(place + step) >= search[place]:
            level = level + 1 if search[place + step] == search[place] else 0
            place += step
        if search[place] > search[first]:
            break
    tried = [(THIRDS[place], accuracy) for place, accuracy in search.items()]
    return best_regularization(tried), tried


def climb(
    start: tuple[int, ...], accuracy_at: Callable[[tuple[int, ...]], float], sizes: tuple[int, ...]
) -> tuple[int, ...]:
    """Go from one point of a lattice to a better neighbour, one step along one axis, while there is one.

    Parameters
    ----------
    start : tuple of int
        Where to begin, each number between 0 and that axis's size.
    accuracy_at : callable
        Asked once for each point.
    sizes : tuple of int
        Of the axes.
    """
    accuracy_at = functools.cache(accuracy_at)
    best, improved = start, True
    while improved:
        improved = False
        for axis, size in enumerate(sizes):
            for step in (1, -1):
                while 0 <= best[axis] + step < size:
                    neighbour = (*best[:axis], best[axis] + step, *best[axis + 1 :])
                    if accuracy_at(neighbour) <= accuracy_at(best):
                        break
                    best, improved = neighbour, True
    return best


def halvings(images: int, few: int) -> list[int]:
    """How many images a search takes, in turn: about ``few`` or twice as many at first, in the end all."""
    counts = [images]
    while counts[0] // 2 >= few:
        counts.insert(0, counts[0] // 2)
    return counts


def best_regularization(search: list[tuple[float, float]]) -> float:
    """Return the λ of the highest accuracy, the largest of equals."""
    return max(search, key=lambda tried: (tried[1], tried[0]))[0]


def held_out_split(
    targets: npt.NDArray[np.intp], fraction: float, seed: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Hold out a fraction of the images, of every class in proportion, drawn with ``seed``.

    Each class gives the whole part of its share; what is missing to the rounded total comes from the
    classes with the largest remainders. The last image of a class is never held out.

    Parameters
    ----------
    targets : integers [n]
        Classes 0 … K−1, each with one image at least.
    fraction : float
    seed : int

    Returns
    -------
    kept, held_out : integers
        Indices of images, both sorted.

    Raises
    ------
    InvalidData
        Every class has one image: none can be held out.
    """
    counts = np.bincount(targets)
    shares = fraction * counts
    sizes = np.floor(shares).astype(np.intp)  # below the count, since the fraction is below 1
    wanted = max(1, round(fraction * len(targets)))
    for k in np.argsort(sizes - shares, kind="stable"):
        if sizes.sum() < wanted and sizes[k] < counts[k] - 1:
            sizes[k] += 1
    if sizes.sum() == 0:
        raise InvalidData(
            f"each of the {len(counts)} classes has one image, so none can be held out to validate on; "
            "give more images, use Ridge (leave-one-out), or give regularization and validation=0"
        )
    random = np.random.default_rng(seed)
    held_out = np.sort(
        np.concatenate(
            [random.permutation(np.flatnonzero(targets == k))[:size] for k, size in enumerate(sizes)]
        )
    )
    return np.setdiff1d(np.arange(len(targets)), held_out), held_out
