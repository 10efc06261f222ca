"""CuPy's `cupy.cuda.driver`."""


class CUDADriverError(RuntimeError):
    """An error of CUDA's driver; unlike CuPy's, made of its message."""
