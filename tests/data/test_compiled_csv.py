"""The compiled reader of numbers against NumPy's: the same numbers, or none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("numba")

from ckncuda.data.compiled.csv import parse_numbers


def parsed(text, lines, width, first=0):
    """The numbers, or None."""
    numbers = np.full((lines, width - first), np.nan, np.float32)
    return numbers if parse_numbers(np.frombuffer(text, np.uint8), first, width, numbers) else None


def loaded(text, **options):
    lines = text.rstrip().split(b"\n")
    return np.loadtxt(lines, np.float32, comments=None, delimiter=",", ndmin=2, encoding="latin1", **options)


formats = st.sampled_from(["%r", "%.9g", "%.17g", "%.3f", "%e", "%E", "%+.6e", "%.12f", " %.8g ", "%.0f"])
numbers = st.floats(-1e20, 1e20) | st.floats(-1, 1) | st.floats(-1e-3, 1e-3) | st.integers(0, 255).map(float)


@given(
    st.lists(st.tuples(formats, numbers), min_size=1, max_size=30),
    st.sampled_from([b"", b"\n", b"\r\n", b",\n"]),
)
def test_numbers_are_those_of_numpy(cells, end):
    text = ",".join(f % x for f, x in cells).encode() + end
    found = parsed(text, 1, len(cells))
    if found is not None:  # what it gives up on, NumPy reads
        assert np.array_equal(found, loaded(text.replace(b",\n", b"\n")))


@given(st.lists(st.floats(-10, 10, width=32), min_size=6, max_size=6))
def test_ordinary_numbers_are_read(values):
    text = b"".join(b"%.9g,%.9g,%.9g,\r\n" % tuple(values[i : i + 3]) for i in (0, 3))
    if all(value == 0 or abs(value) > 1e-30 for value in values):
        assert np.array_equal(parsed(text, 2, 3), np.array(values, np.float32).reshape(2, 3))


def test_the_middle_of_two_numbers_is_left_to_numpy():
    """There the last bit of the quotient decides."""
    assert parsed(b"1.00000005960464477539062", 1, 1) is None
    middle = b"1.00000005960464478"  # 18 digits, next to 1 + 2^-24
    assert parsed(middle, 1, 1) is None or parsed(middle, 1, 1) == loaded(middle)


def test_an_index_column_is_left_out():
    assert parsed(b"0,5,6\n1,7,8\n", 2, 3, first=1).tolist() == [[5, 6], [7, 8]]


@pytest.mark.parametrize(
    "text",
    [
        b"", b"1,2", b"1,2,3,4", b"1,,3", b"1,2,x", b"1,2,3x", b"1,2,nan", b"1,2,inf", b"1,2,.", b"1,2,-",
        b"1,2,1e", b"1,2,1e+", b"1,2,1e-50", b"1,2,1e999999999999", b"1,2,1_000", b"1,2,0x10", b"1;2;3",
        b"1,2,3\n\n", b"1,2,3\n4", b"1,2,3,,", b"1,2,1.2.3", b"1,2,\xff", b"1,2,1234567890123456789",
        b'"1",2,3', b"1 1,2,3", b"--1,2,3", b"1,2,3\r\r\n",
    ],
)  # fmt: skip
def test_of_anything_unusual_it_gives_up(text):
    assert parsed(text, 1, 3) is None
