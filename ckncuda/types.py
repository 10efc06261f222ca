"""Names of types that all rooms share, one meaning each."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
"""Floating-point numbers, in the memory of whoever computes."""

Index = NDArray[np.intp]
"""Whole numbers that choose rows."""

Shape = tuple[int, int, int]
"""Height, width and channels of one image or map."""

StrPath = str | os.PathLike[str]
"""The name of a file or of a folder."""
