"""The inner loops in NumPy and BLAS alone."""
