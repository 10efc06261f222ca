"""The choice of λ, of bandwidths of κ and of the weights of encoders, tried on few images first.

Where the accuracy of many images is costly, a search begins with few of them and goes on from what it has
found among twice as many, and so on.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ParamSpec

import numpy as np

from ckncuda.errors import InvalidSpec
from ckncuda.given.parameters import number, shown
from ckncuda.layer.dot_product import DotProductKernel, Exponential
from ckncuda.progress import Progress

P = ParamSpec("P")
Place = tuple[int, ...]
Search = list[tuple[float, float]]
"""The λ tried and their accuracies, in the order tried."""

DECADES = tuple(float(f"1e-{power}") for power in range(9))
"""λ = 1 shrinks everything to the class means; λ = 1e-8 is none at all for float32 features."""

REFINEMENT = (10 ** (2 / 3), 10 ** (1 / 3), 10 ** (-1 / 3), 10 ** (-2 / 3))
"""Thirds of a decade on both sides of the best decade."""

THIRD = 10 ** (1 / 3)  # of a decade
THIRDS = tuple(float(f"{decade * part:.1e}") for decade in DECADES for part in (*REFINEMENT[:2], 1))
"""4.6, 2.2, 1, 0.46, …, 1e-8: what a search by decades and thirds may come to."""

LAMBDAS = tuple(float(f"{10 ** (-place / 3):.1e}") for place in range(25))
"""1, 0.46, 0.22, 0.1, …, 1e-8: the first axis of a lattice."""

SIGMAS = tuple(float(f"{2 ** (place / 2):.2g}") for place in range(-3, 5))
"""0.35, 0.5, 0.71, 1, 1.4, 2, 2.8, 4: below, images have nothing in common; above, κ is linear."""

WEIGHTS = tuple(2.0**place for place in range(-4, 5))
"""Weights of an encoder beside the first one's, 1."""

FEW = 1000  # images at least on which a search begins: a hundredth of the work of 5,000
LEVEL = 3  # λ of equal accuracy in a row, at which a climb ends
FAILED = -1.0  # the accuracy of a λ that is too small for the precision, less than any other


def or_failed(accuracy: Callable[P, float]) -> Callable[P, float]:
    """Return the same function, which says `FAILED` where images are so alike that λ is too small."""

    def guarded(*args: P.args, **kwargs: P.kwargs) -> float:
        try:
            return accuracy(*args, **kwargs)
        except InvalidSpec:
            return FAILED

    return guarded


# ---- λ alone ---------------------------------------------------------------------------------------------


def search_regularization(
    accuracy_at: Callable[[float], float],
    images: int,
    progress: Progress | None,
    refinement: tuple[float, ...] = REFINEMENT,
) -> Search:
    """Try λ by decades from strong to weak, then these multiples of the best.

    The decades end early where the accuracy, a mean over ``images``, has clearly fallen: by more than one
    standard error of the best, √(p (1 − p) / images). Weaker λ cost an iterative solver most.
    """
    search: Search = []
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
    return search


def search_or_try(
    regularization: float | str, accuracy_at: Callable[[float], float], images: int, progress: Progress | None
) -> Search:
    """Search for λ where it is "auto"; otherwise try the one that is given."""
    if isinstance(regularization, str):
        return search_regularization(accuracy_at, images, progress)
    return [(float(regularization), accuracy_at(float(regularization)))]


def climb_from(start: float, accuracy_at: Callable[[float], float], progress: Progress | None) -> Search:
    """Try λ by thirds of a decade from ``start`` on, until the accuracy falls.

    It is level for a while where few images decide: a climb ends after `LEVEL` λ of equal accuracy too.
    Stronger λ than ``start`` are tried only if no weaker one is better.
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
    return [(THIRDS[place], accuracy) for place, accuracy in search.items()]


def half(images: int) -> int:
    """Return half of a number of images, rounded down."""
    return images // 2


def search_from_few(
    accuracy_among: Callable[[int, float], float],
    images: int,
    progress: Progress | None,
    judges: Callable[[int], int] = half,
) -> Search:
    """Look for λ among `FEW` images or so, then among twice as many from there on, until all are in.

    Twice as many images take a λ that is weaker by a third of a decade or two: each climb begins a third
    below the last one's end.  What was tried with all images is returned.  The first callable gives the
    accuracy among so many images at one λ, the other how many of them judge it.
    """
    few, *more = halvings(images // 2, FEW)
    search = search_regularization(
        functools.partial(accuracy_among, few), judges(few), progress, refinement=()
    )
    for count in (*more, images):
        start = best_regularization(search) / THIRD
        search = climb_from(start, functools.partial(accuracy_among, count), progress)
    return search


def halvings(images: int, few: int) -> list[int]:
    """Count the images a search takes, in turn: about ``few`` or twice as many at first, in the end all."""
    counts = [images]
    while counts[0] // 2 >= few:
        counts.insert(0, counts[0] // 2)
    return counts


def best_regularization(search: Search) -> float:
    """Return the λ of the highest accuracy; of equal ones the largest, since it has the smallest weights.

    Of classifiers that nothing else tells apart it is the one that moves least with its input.
    """
    return max(search, key=lambda tried: (tried[1], tried[0]))[0]


# ---- λ, κ and weights ------------------------------------------------------------------------------------


def judges(images: int) -> int:
    """Count the images that judge a point of a lattice, of so many at hand: half, if these are not few."""
    return images // 2 if images >= 2 * FEW else images


@dataclass(frozen=True)
class Choice:
    """All that was chosen or given: λ, and a weight and κ for each encoder.

    Attributes
    ----------
    weights : tuple of float
        They sum to 1.
    kernels : tuple of DotProductKernel
        Empty where Gram matrices are given, or features are compared by their inner products.
    search : list of (float, float)
        The λ tried and their accuracies, where they are kept.
    """

    regularization: float
    weights: tuple[float, ...] = (1.0,)
    kernels: tuple[DotProductKernel, ...] = ()
    search: Search | None = None


@dataclass(frozen=True)
class Judgement:
    """The choice of a fit, and its accuracy on images that are left out.

    Attributes
    ----------
    judged, chose : int
        How many images were left out, one by one or together, to measure the accuracy, and how many of these
        chose.
    accuracy : float or None
        None if the choice was there before: nothing is measured then.
    """

    choice: Choice
    judged: int
    chose: int
    accuracy: float | None = None


@dataclass(frozen=True)
class Options:
    """A `Choice` of which some is given and some, "auto", is to be found on a lattice.

    Attributes
    ----------
    regularization : float or "auto"
    encoders : int
        The number of encoders, or of Gram matrices.
    weights : sequence of float or "auto"
    kernel : DotProductKernel, "auto" or None
        The same κ for all encoders, or ``Exponential`` with a bandwidth for each.
    """

    regularization: float | str
    encoders: int = 1
    weights: Sequence[float] | str = (1.0,)
    kernel: DotProductKernel | str | None = None

    @property
    def sizes(self) -> Place:
        """Numbers of places on each axis: λ, the bandwidths, the weights of encoders but the first."""
        lambdas = len(LAMBDAS) if isinstance(self.regularization, str) else 1
        weights = self.encoders - 1 if isinstance(self.weights, str) else 0
        return (lambdas, *(len(SIGMAS),) * self._bandwidths, *(len(WEIGHTS),) * weights)

    @property
    def _bandwidths(self) -> int:
        return self.encoders if isinstance(self.kernel, str) else 0

    def at(self, place: Place) -> Choice:
        """Return what a point of the lattice stands for."""
        _, *others = place
        kernels: tuple[DotProductKernel, ...] = ()
        if isinstance(self.kernel, DotProductKernel):
            kernels = (self.kernel,) * self.encoders
        elif self.kernel is not None:
            kernels = tuple(Exponential(sigma=SIGMAS[each]) for each in others[: self._bandwidths])
        weights = self.weights
        if isinstance(weights, str):
            weights = (1.0, *(WEIGHTS[each] for each in others[self._bandwidths :]))
        regularization = self.regularization
        if isinstance(regularization, str):
            regularization = LAMBDAS[place[0]]
        return Choice(float(regularization), normalized_weights(weights), kernels)

    def search(
        self,
        accuracy_among: Callable[[Choice, int, int], float],
        images: int,
        progress: Progress | None,
        judges: Callable[[int], int] = judges,
    ) -> tuple[Choice, int]:
        """Return the best point of the lattice, and how many images judged it in the end.

        It is looked for among `FEW` to twice as many images first, on a grid, then climbed from there, one
        step along one axis at a time, among twice as many and so on.  Of equally good points of the grid
        that of the largest λ is taken.

        The first callable gives the left-out accuracy of what is tried, among so many images, of which so
        many judge it; it may raise `InvalidSpec` where λ is too small.  The other counts these, of so many.
        """
        tried, sizes = 0, self.sizes
        level = [len(WEIGHTS) // 2] * (len(sizes) - 1 - self._bandwidths)
        grid = [
            (place, *(sigma,) * self._bandwidths, *level)
            for sigma in range(len(SIGMAS) if self._bandwidths else 1)
            for place in range(0, sizes[0], 3)
        ]
        if math.prod(sizes) == 1:
            return self.at(grid[0]), images

        def accuracy_at(count: int, place: Place) -> float:
            nonlocal tried
            tried += 1
            if progress is not None:
                progress("choosing kernel and λ", tried, max(tried, 40))
            return or_failed(accuracy_among)(self.at(place), count, judges(count))

        few, *more = halvings(images, FEW)
        first = functools.partial(accuracy_at, few)
        best = climb(max(grid, key=lambda place: (first(place), -place[0])), first, sizes)
        for count in more:  # twice as many images take a λ that is weaker by a third of a decade or two
            best = (min(best[0] + 1, sizes[0] - 1), *best[1:])
            best = climb(best, functools.partial(accuracy_at, count), sizes)
        return self.at(best), judges(images)

    def said(self, choice: Choice, how: str) -> str:
        """Say what was chosen and how, such as "by leave-one-out", and what was given."""
        names = []
        if choice.kernels:
            names.append((shown_kernels(choice.kernels), isinstance(self.kernel, str)))
        if len(choice.weights) > 1:
            names.append((shown_weights(choice.weights), isinstance(self.weights, str)))
        names.append((f"λ = {choice.regularization:g}", isinstance(self.regularization, str)))
        sentences = []
        for automatic, what in ((True, f"chosen {how}"), (False, "given")):
            if shown := [name for name, each in names if each == automatic]:
                sentences.append(f"{', '.join(shown)} {'were' if len(shown) > 1 else 'was'} {what}")
        return "; ".join(sentences)


def climb(start: Place, accuracy_at: Callable[[Place], float], sizes: Place) -> Place:
    """Go from one point of a lattice to a better neighbour, one step along one axis, while there is one.

    The accuracy is asked once for each point, whose numbers are between 0 and the sizes of the axes.
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


def check_weights(weights: Sequence[float] | str, kernels: int | None, of: str) -> None:
    """Raise `InvalidSpec` unless weights are "auto", or one for each kernel and not all zero."""
    if isinstance(weights, str):
        if weights != "auto":
            raise InvalidSpec(f'weights are {weights!r}; expected numbers, or "auto"')
        return
    expected = "expected numbers that are not negative, one positive"
    if np.ndim(weights) != 1 if isinstance(weights, np.ndarray) else not np.iterable(weights):
        raise InvalidSpec(f"weights are {shown(weights)}; {expected}, such as [0.5, 0.5]")
    given = [number(f"weights[{i}]", each, lambda w: w >= 0, expected) for i, each in enumerate(weights)]
    if not any(given):
        raise InvalidSpec(f"weights are {given}; {expected}")
    if kernels not in (None, len(given)):
        raise InvalidSpec(f"{len(given)} weights were given for {kernels} {of}")


def normalized_weights(weights: Sequence[float]) -> tuple[float, ...]:
    """Return the weights divided by their sum."""
    largest = max(map(float, weights))  # their sum may not be finite
    total = sum(float(weight) / largest for weight in weights)
    return tuple(float(weight) / largest / total for weight in weights)


def shown_weights(weights: Sequence[float]) -> str:
    """Return such as ``weights 0.25 : 0.75``."""
    return "weights " + " : ".join(f"{weight:.2g}" for weight in weights)


def shown_kernels(kernels: Sequence[DotProductKernel]) -> str:
    """Return such as ``κ = exp(sigma=1)``."""
    names = []
    for kernel in kernels:
        numbers = [f"{k}={v:g}" for k, v in kernel.to_dict().items() if isinstance(v, float | int)]
        names.append(kernel.name + (f"({', '.join(numbers)})" if numbers else ""))
    return "κ = " + ", ".join(dict.fromkeys(names))
