"""The inner loops that Numba compiles: the only room of the backends that imports it."""
