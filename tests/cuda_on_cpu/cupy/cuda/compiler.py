"""CuPy's `cupy.cuda.compiler`."""


class CompileException(Exception):
    """A module that does not compile; the message holds the compiler's."""
