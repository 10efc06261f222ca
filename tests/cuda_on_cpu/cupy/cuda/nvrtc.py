"""CuPy's `cupy.cuda.nvrtc`."""

from . import runtime


def getVersion() -> tuple[int, int]:  # noqa: N802 (CuPy's name)
    """Of the compiler that CuPy 14 comes with."""
    if "nvrtc" in runtime.lacking():
        raise RuntimeError('Failure finding "libnvrtc.so.13 or libnvrtc.so.12": No such file: libnvrtc.so.13')
    return 13, 0
