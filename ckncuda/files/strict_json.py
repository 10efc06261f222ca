"""JSON that somebody else may have written: nothing in it says two things, or more than a number can."""

import json
import math
from typing import Any

DIGITS = 300  # of an integer, which fits a float then


def loads(content: bytes | str) -> Any:
    """Return what JSON holds; raise `ValueError`, and nothing else, if it is malformed or ambiguous.

    Besides what `json.loads` refuses: a name that stands twice in an object, NaN and infinity, numbers too
    large for a float, text that is none (half of a surrogate pair), and nesting that is too deep.

    Examples
    --------
    >>> loads('{"a": [1, 2.5, null]}')
    {'a': [1, 2.5, None]}
    >>> loads('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ValueError: 'a' stands twice in an object
    """
    try:
        found = json.loads(
            content,
            object_pairs_hook=_object,
            parse_constant=_no_number,
            parse_int=_integer,
            parse_float=_float,
        )
        json.dumps(found, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r:.80} stands twice in an object")
        found[name] = value
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"a number has {len(text):,} digits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.80} is too large for a number")
    return value
