"""Float32 on a CPU: tiles that stay in the cache, one Python thread a core.

A tile is a few whole images, which go through all layers at once, or, where one image is too large, a band of
its pooled rows in one layer. Each thread carries one through all steps in buffers of its own, with BLAS held
to one thread: for matrices this small that is faster, and no result depends on the number of threads.

Two rooms have modules of the same names and functions for the steps: ``plain`` takes NumPy and BLAS alone,
``compiled`` what Numba compiles, where it is installed (the extra ``fast``).
"""

from ckncuda.backend.numpy.backend import NumpyBackend, describe, has_numba, why_plain
from ckncuda.backend.numpy.threads import available_threads, usable_cores

__all__ = ["NumpyBackend", "available_threads", "describe", "has_numba", "usable_cores", "why_plain"]
