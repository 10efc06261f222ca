"""CuPy's `cupyx.scipy.linalg`, by SciPy."""

from typing import Any

import scipy.linalg
from cupy._array import call, ndarray


def solve_triangular(
    a: ndarray, b: ndarray, trans: Any = 0, lower: bool = False, unit_diagonal: bool = False, **options: Any
) -> ndarray:
    options.pop("overwrite_b", None)
    options |= {"trans": trans, "lower": lower, "unit_diagonal": unit_diagonal, "check_finite": False}
    return call(scipy.linalg.solve_triangular, a, b, **options)  # type: ignore[no-any-return]
