"""CuPy's `cupy.cuda.nvrtc`."""


def getVersion() -> tuple[int, int]:  # noqa: N802 (CuPy's name)
    """Of the compiler that CuPy 14 comes with."""
    return 13, 0
