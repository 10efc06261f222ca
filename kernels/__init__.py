"""CUDA C++ sources, installed as data: one operation a file, common headers beside them."""

import functools
import re
from importlib.resources import files

_INCLUDE = re.compile(r'^#include "(?P<name>\w+\.cuh)"\n', re.MULTILINE)


@functools.cache
def source(name: str) -> str:
    """Return the source of an operation, such as ``"encode"``, its headers written into it.

    CuPy keeps compiled kernels by the text it is given, which would not show a change in a header that
    stands elsewhere.  Line numbers in messages are those of the files.
    """
    included: set[str] = set()

    def inlined(file: str) -> str:
        text = files(__package__).joinpath(file).read_text(encoding="utf-8").replace("#pragma once\n", "\n")

        def include(match: re.Match[str]) -> str:
            header = match["name"]
            below = text.count("\n", 0, match.end()) + 1
            if header in included:
                return "\n"
            included.add(header)
            return f'{inlined(header)}\n#line {below} "kernels/{file}"\n'

        return f'#line 1 "kernels/{file}"\n' + _INCLUDE.sub(include, text)

    # CuPy writes sources in the encoding of the locale, which may not know the letters of comments.
    return inlined(f"{name}.cu").encode("ascii", "replace").decode()
