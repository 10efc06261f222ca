"""A little of CuPy's `cupyx.scipy`."""
