"""The one table of tolerances: how far each backend may be from `backend/reference.py`."""

ENCODE = {
    "numpy, plain": 1e-5,
    "numpy, compiled": 1e-5,
    "cupy, float32": 2e-5,
    "cupy, float32 without tensor cores": 2e-5,
    "cupy, tf32": 2e-3,  # 4 units of rounding, 2^-11
    "cupy, bfloat16": 1.6e-2,  # 4 units of rounding, 2^-8
}
"""Norm of the difference of feature maps over the norm of the reference's.

Of tf32 and bfloat16 for the map before the projection, which may enlarge any error by up to ε^{-1/2}, 32 by
default, where anchors are nearly dependent.
"""

COSINE = {
    "numpy, plain": 1e-6,
    "numpy, compiled": 1e-6,
    "cupy, float32": 5e-6,  # tensor cores cut sums off where others round
    "cupy, float32 without tensor cores": 1e-6,
    "cupy, tf32": 1e-3,  # both vectors are rounded: 2 units of rounding
    "cupy, bfloat16": 8e-3,
}
"""Difference of the cosine of unit vectors."""
