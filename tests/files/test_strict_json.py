"""JSON that says one thing, or nothing."""

import pytest

from ckncuda.files.strict_json import loads


def test_what_is_plain():
    assert loads(b'{"a": [1, -2.5, true, null, "\\u03bb"], "b": {}}') == {
        "a": [1, -2.5, True, None, "λ"],
        "b": {},
    }
    assert loads("9" * 300) == int("9" * 300)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "Expecting value"),
        (b'{"a": 1, "b": 2, "a": 3}', "'a' stands twice"),
        (b"[NaN]", "NaN is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"[1e999]", "1e999 is too large for a number"),
        (b"9" * 301, "a number has 301 digits"),
        (b"9" * 10_000_000, "a number has 10,000,000 digits"),
        (b'"\\ud800"', "surrogates not allowed"),
        (b"\xff\xfe\xfd", "codec"),
        (b"[" * 100_000 + b"]" * 100_000, "it is nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "it is nested too deeply"),
    ],
    ids=range(11),
)
def test_what_is_not(content, words):
    with pytest.raises(ValueError, match=words):
        loads(content)
