"""The one table of tolerances: how far each backend may be from `backend/reference.py`.

Those of a GPU are twice what is found where its kernels are executed on a CPU, with sums as tensor cores of
each compute capability make them, or more: `tests/kernels/test_capabilities.py`.
"""

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
    "cupy, float32": 5e-6,  # tensor cores cut sums off where others round: 1.4e-6 of 37 terms on 8.0
    "cupy, float32 without tensor cores": 1e-6,
    "cupy, tf32": 1e-3,  # both vectors are rounded: 2 units of rounding
    "cupy, bfloat16": 8e-3,
}
"""Difference of the cosine of unit vectors."""

GRADIENTS = {
    "cupy, float32": 1e-5,
    "cupy, float32 without tensor cores": 1e-5,
    "cupy, tf32": 5e-4,  # the way back is of float32: this is the way forward's
    "cupy, bfloat16": 5e-3,
}
"""Norm of the difference of gradients over the norm of the reference's, of a layer."""
