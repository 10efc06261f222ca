"""Dense linear algebra where SciPy and CuPy do not go by the same names.

For NumPy's arrays each function asks SciPy's BLAS and LAPACK, which work in place on column-major matrices;
for arrays on a GPU, CuPy's libraries, and the result stays there.  Both are imported at the first use: SciPy
would be a third of the library's start-up.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

AT_ONCE = 4096
"""Rows or columns of a square matrix that a GPU computes at a time, without what lies above the diagonal."""


def add_product(total: Array, block: Array) -> None:
    """Add blockᵀ block to the lower triangle of a column-major matrix of the same type, in place."""
    if isinstance(total, np.ndarray):
        # A row-major block BLAS sees as its transpose, column-major, without a copy.
        matrix, trans = (block.T, 0) if block.flags.c_contiguous else (block, 1)
        _routine("blas", "syrk", total)(1.0, matrix, beta=1.0, c=total, trans=trans, lower=1, overwrite_c=1)
        return
    for start in range(0, len(total), AT_ONCE):
        stop = min(start + AT_ONCE, len(total))
        total[start:stop, :stop] += block[:, start:stop].T @ block[:, :stop]


def cholesky(matrix: Array) -> Array:
    """Return the lower Cholesky factor L of the symmetric matrix whose lower triangle this is.

    On the host the matrix, column-major, is overwritten; the upper triangle is zero.

    Raises
    ------
    numpy.linalg.LinAlgError
        The matrix is not positive definite, up to rounding.
    """
    factor: Array
    if isinstance(matrix, np.ndarray):
        factor, failed = _routine("lapack", "potrf", matrix)(matrix, lower=1, overwrite_a=1)
        if failed:
            raise np.linalg.LinAlgError(f"the leading minor of order {failed} is not positive definite")
        return factor
    import cupy
    import cupyx

    with cupyx.errstate(linalg="raise"):  # by default nobody is told, and what is returned is undefined
        factor = cupy.linalg.cholesky(matrix)
    if not np.isfinite(factor.diagonal()).all():
        raise np.linalg.LinAlgError("the matrix is not positive definite")
    return factor


def solve(factor: Array, right: Array) -> Array:
    """Return (LLᵀ)⁻¹ right, for the lower Cholesky factor L and an array [n, K] of its type."""
    if isinstance(factor, np.ndarray):
        solution: Array = _routine("lapack", "potrs", factor)(factor, right, lower=1)[0]
        return solution
    return _on_device(factor, _on_device(factor, right, transposed=False), transposed=True)


def solve_lower(factor: Array, right: Array) -> Array:
    """Return L⁻¹ right, for the lower Cholesky factor L and an array [n, m] of its type, overwritten."""
    if isinstance(factor, np.ndarray):
        solution: Array = _routine("blas", "trsm", factor)(1.0, factor, right, lower=1, overwrite_b=1)
        return solution
    return _on_device(factor, right, transposed=False)


def inverse_diagonal(factor: Array) -> Array:
    """Return the diagonal of (LLᵀ)⁻¹, for the lower Cholesky factor L, which is overwritten on the host."""
    if isinstance(factor, np.ndarray):
        inverse = _routine("lapack", "trtri", factor)(factor, lower=1, overwrite_c=1)[0].T
        host: Array = np.einsum("ij,ij->i", inverse, inverse)
        return host
    import cupy

    size = len(factor)
    diagonal = np.empty(size, factor.dtype, like=factor)
    for start in range(0, size, AT_ONCE):  # columns of L⁻¹, zero above their own part of the diagonal
        count = min(AT_ONCE, size - start)
        unit = cupy.eye(size - start, count, dtype=factor.dtype)
        columns = _on_device(factor[start:, start:], unit, transposed=False)
        diagonal[start : start + count] = np.square(columns).sum(axis=0)
    return diagonal


def _on_device(factor: Array, right: Array, transposed: bool) -> Array:
    """Return L⁻¹ right or L⁻ᵀ right by CuPy, which takes Lᵀ, since L is row-major, without a copy."""
    from cupyx.scipy.linalg import solve_triangular

    solution: Array = solve_triangular(factor.T, right, trans="N" if transposed else "T", lower=False)
    return solution


def _routine(library: str, name: str, matrix: Array) -> Any:
    """Return BLAS's or LAPACK's routine of this name for matrices of this type."""
    import scipy.linalg

    return getattr(scipy.linalg, f"get_{library}_funcs")(name, (matrix,))
