"""Checks of what a person gives for a parameter: a number, a flag, one of some names, or an object.

Each returns the value as plain Python has it, a NumPy scalar as a number, or raises `InvalidSpec` with the
parameter's name, what was given and what is expected.  A bool is no number.
"""

import itertools
import math
import os
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

import numpy as np

from ckncuda.errors import InvalidSpec, printable
from ckncuda.types import Shape

T = TypeVar("T")

MOST = 2**63 - 1
"""The largest whole number: beyond, neither NumPy nor a file of ours holds one."""

_SHOWN = 80  # characters of a value in a message
_FEW = 5  # of many names


def number(name: str, value: object, meant: Callable[[float], bool], expected: str) -> Any:
    """Return a finite number that ``meant`` accepts; ``expected`` ends the message about any other.

    Examples
    --------
    >>> number("sigma", 0.6, lambda sigma: sigma > 0, "it must be a positive number, such as 0.6")
    0.6
    >>> number("sigma", True, lambda sigma: sigma > 0, "it must be a positive number, such as 0.6")
    Traceback (most recent call last):
    ckncuda.errors.InvalidSpec: sigma is True; it must be a positive number, such as 0.6
    """
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, int | float) or not _is_finite(plain):
        raise InvalidSpec(f"{name} is {shown(value)}; {expected}")
    if not meant(plain):
        raise InvalidSpec(f"{name} is {shown(value)}; {expected}")
    return plain


def whole(name: str, value: object, least: int, expected: str = "", most: int = MOST) -> int:
    """Return a whole number of at least ``least`` and at most ``most``.

    Examples
    --------
    >>> whole("filters", 64.5, 1)
    Traceback (most recent call last):
    ckncuda.errors.InvalidSpec: filters is 64.5; it must be a whole number of at least 1
    """
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, int) or not least <= plain <= most:
        usual = f"it must be a whole number of at least {least}"
        if isinstance(plain, int) and plain > most:
            usual += f" and at most {most}"
        raise InvalidSpec(f"{name} is {shown(value)}; {expected or usual}")
    return plain


def image_shape(name: str, value: object) -> Shape:
    """Return height, width and channels of an image.

    Examples
    --------
    >>> image_shape("shape", [8, 8])
    Traceback (most recent call last):
    ckncuda.errors.InvalidSpec: shape is [8, 8]; expected height, width and channels, such as (32, 32, 3)
    """
    expected = "expected height, width and channels, such as (32, 32, 3)"
    sides = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(sides, list | tuple) or len(sides) != 3:
        raise InvalidSpec(f"{name} is {shown(value)}; {expected}")
    height, width, channels = (whole(name, side, 1, expected) for side in sides)
    return height, width, channels


def flag(name: str, value: object) -> bool:
    """Return True or False, or raise `InvalidSpec` for anything that merely counts as such."""
    plain = _plain(value)
    if not isinstance(plain, bool):
        raise InvalidSpec(f"{name} is {shown(value)}; expected true or false")
    return plain


def choice(name: str, value: object, choices: Iterable[str], expected: str = "") -> str:
    """Return one of some names."""
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        names = ", ".join(choices)
        raise InvalidSpec(f"{name} is {shown(value)}; {expected or f'it must be one of {names}'}")
    return str(value)


def instance(name: str, value: object, kinds: type[T] | tuple[type[T], ...], expected: str) -> T:
    """Return an object of a kind; of its class alone the message says that it is to be called.

    Examples
    --------
    >>> instance("kernel", int, int, "give int(3)")
    Traceback (most recent call last):
    ckncuda.errors.InvalidSpec: kernel is the class int, not an object of it; give int(3)
    """
    if not isinstance(value, kinds):
        raise InvalidSpec(f"{name} is {shown(value)}; {expected}")
    return value


def file_name(path: object, example: str) -> str:
    """Return the name of a file, given as text or as a path; raise `InvalidSpec` for what can be none."""
    named = os.fspath(path) if isinstance(path, os.PathLike) else path
    if isinstance(named, str) and (not named.strip() or "\0" in named):
        raise InvalidSpec(f"path is {shown(named)}; expected the name of a file, such as {example}")
    if isinstance(named, str) and "://" in named:
        raise InvalidSpec(f"{named} is an address; expected a file or a folder: download it first")
    return instance("path", named, str, f"expected the name of a file, such as {example}")


def several(name: str, value: object, kinds: type[T] | tuple[type[T], ...], expected: str) -> tuple[T, ...]:
    """Return objects of a kind as a tuple; one that stands alone is one of them."""
    if isinstance(value, kinds):
        return (value,)
    if isinstance(value, str | bytes | dict | type) or not hasattr(value, "__iter__"):
        raise InvalidSpec(f"{name} is {shown(value)}; {expected}")
    return tuple(instance(f"{name}[{i}]", each, kinds, expected) for i, each in enumerate(value))


def counted(n: int, what: str) -> str:
    """Return a number of things, by the name of one.

    Examples
    --------
    >>> counted(1, "image"), counted(5000, "image")
    ('1 image', '5000 images')
    """
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def shown(value: object) -> str:
    """Return a value as a message shows it, however large or hostile it is.

    Examples
    --------
    >>> shown(10**400), shown("x" * 100_000)[:9]
    ('a number of more than 300 digits', "'xxxxxxxx")
    """
    if isinstance(value, type):
        return f"the class {value.__name__}, not an object of it"
    if isinstance(value, int) and value.bit_length() > 1000:
        return "a number of more than 300 digits"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"an array of shape {list(shape)} and type {getattr(value, 'dtype', '?')}"
    try:
        text = repr(value)
    except Exception:  # the repr of somebody else's class, or of what is nested too deep, may raise anything
        text = f"an object of type {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def listed(names: Iterable[object]) -> str:
    """Return names that somebody gave, sorted, for a message."""
    text = ", ".join(sorted(map(str, names)))
    return text if len(text) <= 2 * _SHOWN else f"{text[: 2 * _SHOWN - 3]}..."


def first_few(names: Collection[object]) -> str:
    """Return the first few of many names that somebody gave, in their order, for a message.

    Examples
    --------
    >>> first_few(range(8))
    '0, 1, 2, 3, 4 and 3 more'
    """
    few = ", ".join(printable(name)[:100] for name in itertools.islice(names, _FEW))
    return few if len(names) <= _FEW else f"{few} and {len(names) - _FEW:,} more"


def _plain(value: object) -> object:
    """Return a NumPy scalar, or an array without axes, as plain Python has it; anything else as it is."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    return value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the range of floating point
        return False
