"""Dot-product kernels κ on the unit sphere: K(x, z) = ‖x‖ ‖z‖ κ(⟨x, z⟩ / (‖x‖ ‖z‖)).

Every κ here satisfies κ(1) = 1 and is positive definite.  A kernel is frozen data; its two methods
are written with NumPy's universal functions, which CuPy arrays answer too.

A new κ is a class here, with a line in `KERNELS`; and, to be fast, a function of its `device_name` in
``kernels/dot_product.cuh`` and in ``backend/numpy/compiled/dot_product.py``.
"""

import abc
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from ckncuda.errors import InvalidSpec
from ckncuda.given.parameters import number, shown, whole
from ckncuda.types import Array

LEAST_SIGMA = 1e-3  # a cosine of float32 may be 1 + 1e-6, where κ is then e
MOST_SIGMA = 1e6  # κ is 1 but for 2e-12, of which float32 knows nothing
MOST_DEGREE = 1_000_000  # of a polynomial: a power that any machine computes


class DotProductKernel(abc.ABC):
    """A function κ of the cosine between a normalised patch and an anchor point."""

    name: ClassVar[str]
    device_name: ClassVar[str | None] = None
    """Name of its function on devices and in compiled loops; without one, they take `value` on whole maps."""

    @property
    def bounded_derivative(self) -> bool:
        """True where κ' is finite on all of [−1, 1]: what gradients go through."""
        return True

    def device_parameters(self) -> tuple[float, ...]:
        """Return the numbers that this function finds in its ``parameters``."""
        return ()

    def value(self, t: Array, out: Array | None = None) -> Array:
        """Compute κ(t), elementwise, for floating-point t of any shape; in place when ``out`` is ``t``."""
        if out is None:
            out = np.empty_like(t)
        self._write(t, out)
        return out

    @abc.abstractmethod
    def _write(self, t: Array, out: Array) -> None:
        """Write κ(t) to ``out``, which may be ``t`` itself."""

    @abc.abstractmethod
    def derivative(self, t: Array) -> Array:
        """Compute κ'(t), elementwise."""

    def resolved(self, patches: Array, rng: np.random.Generator) -> "DotProductKernel":
        """Return this kernel with parameters that depend on data chosen from normalised patches [m, d]."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the name and the parameters, as they stand in a configuration file."""
        parameters = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in parameters.items() if v is not None}
        return {"kernel": self.name} | plain


@dataclass(frozen=True)
class Exponential(DotProductKernel):
    """κ(t) = exp(α (t − 1)) with α = 1/σ²: a Gaussian of the distance on the sphere.

    Parameters
    ----------
    sigma : float, optional
        Bandwidth σ, a distance on the unit sphere.
    quantile : float, optional
        Instead of ``sigma``: choose σ, when the layer is fitted, as this quantile of the distances
        between pairs of normalised patches (Mairal et al. 2014 take 0.1).

    Examples
    --------
    >>> round(float(Exponential(sigma=0.6).value(0.5)), 4)
    0.2494
    """

    sigma: float | None = None
    quantile: float | None = None
    name = "exp"
    device_name = "Exponential"

    def __post_init__(self) -> None:
        if (self.sigma is None) == (self.quantile is None):
            raise InvalidSpec(
                "the kernel exp takes sigma (such as 0.6) or quantile (such as 0.1), one of the two"
            )
        if self.sigma is not None:
            sigma = number("sigma", self.sigma, lambda s: s > 0, "it must be a positive number, such as 0.6")
            if not LEAST_SIGMA <= sigma <= MOST_SIGMA:
                raise InvalidSpec(
                    f"sigma is {sigma:g}; it is a distance on the unit sphere, such as 0.6, from "
                    f"{LEAST_SIGMA:g} to {MOST_SIGMA:,.0f}: below, the rounding of cosines is all that κ "
                    "sees, and above, κ is 1 everywhere"
                )
            object.__setattr__(self, "sigma", sigma)
        else:
            expected = "it must lie between 0 and 1, such as 0.1"
            quantile = number("quantile", self.quantile, lambda q: 0 < q < 1, expected)
            object.__setattr__(self, "quantile", quantile)

    @property
    def alpha(self) -> float:
        """1/σ²."""
        if self.sigma is None:
            raise InvalidSpec(
                "sigma is to be chosen from data: fit the network first, or give sigma instead of quantile"
            )
        return 1.0 / self.sigma**2

    def device_parameters(self) -> tuple[float, ...]:
        """Return α log₂ e: the device's exponential is of base 2."""
        return (self.alpha / math.log(2),)

    def _write(self, t: Array, out: Array) -> None:
        np.subtract(t, 1, out=out)
        np.multiply(out, self.alpha, out=out)
        np.exp(out, out=out)

    def derivative(self, t: Array) -> Array:
        """Compute κ'(t) = α κ(t)."""
        return self.alpha * self.value(t)

    def resolved(self, patches: Array, rng: np.random.Generator) -> "Exponential":
        """Choose σ as the quantile of distances between up to 100,000 random pairs of the patches."""
        if self.quantile is None:
            return self
        first, second = rng.integers(len(patches), size=(2, 100_000))
        distinct = first != second
        if not distinct.any():
            raise InvalidSpec("sigma cannot be chosen as a quantile of distances: there is a single patch")
        first, second = first[distinct], second[distinct]
        distances = np.empty(len(first))
        for i in range(0, len(first), 1000):  # a thousand pairs at a time: patches may be long
            pair = slice(i, i + 1000)
            these, others = (patches[np.asarray(index[pair], like=patches)] for index in (first, second))
            distances[pair] = np.linalg.norm(these - others, axis=1).tolist()
        sigma = float(np.quantile(distances, self.quantile))
        if sigma < LEAST_SIGMA:
            raise InvalidSpec(
                f"sigma cannot be chosen as the {self.quantile} quantile of distances between patches: "
                f"it is {sigma:.2g}, since many patches are alike; give sigma instead"
            )
        return Exponential(sigma=sigma)


@dataclass(frozen=True)
class Polynomial(DotProductKernel):
    """κ(t) = ((t + c) / (1 + c))^d.

    Parameters
    ----------
    degree : int
        d ≥ 1.
    offset : float
        c ≥ 0.
    """

    degree: int
    offset: float = 0.0
    name = "poly"
    device_name = "Polynomial"

    def __post_init__(self) -> None:
        expected = "it must be a whole number of at least 1"
        degree = number("degree", self.degree, lambda d: d == int(d) and 1 <= d <= MOST_DEGREE, expected)
        expected = "it must be a number that is not negative"
        object.__setattr__(self, "degree", degree)
        object.__setattr__(self, "offset", number("offset", self.offset, lambda c: c >= 0, expected))

    def device_parameters(self) -> tuple[float, ...]:
        """Return d, c and 1/(1 + c)."""
        return float(self.degree), self.offset, 1 / (1 + self.offset)

    def _write(self, t: Array, out: Array) -> None:
        np.add(t, self.offset, out=out)
        np.multiply(out, 1 / (1 + self.offset), out=out)
        np.power(out, int(self.degree), out=out)

    def derivative(self, t: Array) -> Array:
        """Compute κ'(t) = d/(1+c) · ((t+c)/(1+c))^(d−1)."""
        base: Array = (t + self.offset) / (1 + self.offset)
        result: Array = self.degree / (1 + self.offset) * base ** (int(self.degree) - 1)
        return result


@dataclass(frozen=True)
class InversePolynomial(DotProductKernel):
    """κ(t) = 1/(2 − t)."""

    name = "inverse_polynomial"
    device_name = "InversePolynomial"

    def _write(self, t: Array, out: Array) -> None:
        np.subtract(2, t, out=out)
        np.reciprocal(out, out=out)

    def derivative(self, t: Array) -> Array:
        """Compute κ'(t) = κ(t)²."""
        return self.value(t) ** 2


@dataclass(frozen=True)
class ArcCosine(DotProductKernel):
    """The arc-cosine kernels of random features: degree 0 of a step function, degree 1 of a ReLU.

    Parameters
    ----------
    degree : {0, 1}
        κ_0(t) = 1 − arccos(t)/π;  κ_1(t) = (√(1 − t²) + t (π − arccos t)) / π.

    References
    ----------
    Cho and Saul, *Kernel methods for deep learning*, 2009.
    """

    degree: int

    def __post_init__(self) -> None:
        expected = "the arc-cosine kernels here are of degree 0 and 1"
        object.__setattr__(self, "degree", whole("degree", self.degree, 0, expected, most=1))

    @property
    def name(self) -> str:  # type: ignore[override]
        """``arccos0`` or ``arccos1``."""
        return f"arccos{self.degree}"

    @property
    def device_name(self) -> str:  # type: ignore[override]
        """``ArcCosine0`` or ``ArcCosine1``."""
        return f"ArcCosine{self.degree}"

    @property
    def bounded_derivative(self) -> bool:
        """True of degree 1; κ_0' is infinite at ±1."""
        return self.degree == 1

    def to_dict(self) -> dict[str, Any]:
        """Return the name, which holds the degree."""
        return {"kernel": self.name}

    def _write(self, t: Array, out: Array) -> None:
        t = np.clip(t, -1, 1)  # rounding may leave the domain of arccos
        angle = np.pi - np.arccos(t)
        if self.degree == 1:
            angle = angle * t + np.sqrt(1 - t * t)
        np.divide(angle, np.pi, out=out)

    def derivative(self, t: Array) -> Array:
        """Compute κ_0'(t) = 1/(π√(1−t²)), or κ_1' = κ_0.

        κ_0' is infinite at ±1: there 1−t² is floored at the rounding error.
        """
        if self.degree == 1:
            return ArcCosine(0).value(t)
        t = np.clip(t, -1, 1)
        floored: Array = np.maximum(1 - t * t, np.finfo(t.dtype).eps)
        result: Array = 1 / (np.pi * np.sqrt(floored))
        return result


@dataclass(frozen=True)
class Linear(DotProductKernel):
    """κ(t) = t: the layer is a linear convolution."""

    name = "linear"
    device_name = "Linear"

    def _write(self, t: Array, out: Array) -> None:
        np.positive(t, out=out)

    def derivative(self, t: Array) -> Array:
        """Compute κ'(t) = 1."""
        return np.ones_like(t)


@dataclass(frozen=True)
class Series(DotProductKernel):
    """κ(t) = Σ_m a_m t^m with a_m ≥ 0 and Σ a_m = 1: any dot-product kernel, by its Taylor coefficients.

    Parameters
    ----------
    coefficients : sequence of float
        a_0, a_1, …, a_M.
    """

    coefficients: tuple[float, ...]
    name = "series"
    device_name = "Series"

    def __post_init__(self) -> None:
        given: Any = self.coefficients
        expected = "they must be a list of one or more numbers ≥ 0, such as [0.25, 0.5, 0.25]"
        if not isinstance(given, list | tuple | np.ndarray) or not np.shape(given) or not len(given):
            raise InvalidSpec(f"coefficients are {shown(given)}; {expected}")
        coefficients = tuple(
            float(number(f"coefficients[{m}]", a, lambda a: a >= 0, expected)) for m, a in enumerate(given)
        )
        total = sum(coefficients)
        if abs(total - 1) > 1e-6:
            raise InvalidSpec(
                f"coefficients sum to {total:g}; they must sum to 1, so that κ(1) = 1: divide them by it"
            )
        object.__setattr__(self, "coefficients", coefficients)

    def device_parameters(self) -> tuple[float, ...]:
        """Return M, a_0, …, a_M."""
        return len(self.coefficients) - 1, *self.coefficients

    def _write(self, t: Array, out: Array) -> None:
        np.positive(_horner(self.coefficients, t), out=out)

    def derivative(self, t: Array) -> Array:
        """Compute κ'(t) = Σ m a_m t^(m−1)."""
        return _horner([m * a for m, a in enumerate(self.coefficients)][1:] or [0.0], t)


def _horner(coefficients: list[float] | tuple[float, ...], t: Array) -> Array:
    result = np.full_like(t, coefficients[-1])
    for a in reversed(coefficients[:-1]):
        result *= t
        result += a
    return result


KERNELS: Mapping[str, Callable[..., DotProductKernel]] = {
    "exp": Exponential,
    "poly": Polynomial,
    "inverse_polynomial": InversePolynomial,
    "arccos0": functools.partial(ArcCosine, 0),
    "arccos1": functools.partial(ArcCosine, 1),
    "linear": Linear,
    "series": Series,
}
"""Constructors by the names of configuration files, which give the constructors' parameters too."""


def kernel_from_dict(options: dict[str, Any]) -> DotProductKernel:
    """Build the kernel that ``options`` describe, taking its keys out of ``options``.

    These are ``kernel``, a name of `KERNELS`, and the parameters of that kernel; others are left alone.

    Examples
    --------
    >>> kernel_from_dict({"kernel": "poly", "degree": 2})
    Polynomial(degree=2, offset=0.0)
    """
    name = options.pop("kernel", "exp")
    if not isinstance(name, str) or name not in KERNELS:
        raise InvalidSpec(f"there is no kernel {shown(name)}; the kernels are {', '.join(KERNELS)}")
    constructor = KERNELS[name]
    names = list(inspect.signature(constructor).parameters)
    try:
        return constructor(**{n: options.pop(n) for n in names if n in options})
    except TypeError as error:
        raise InvalidSpec(
            f"the kernel {name} takes {', '.join(names) or 'no parameters'}: {error}"
        ) from error
