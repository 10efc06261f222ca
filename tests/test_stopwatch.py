import itertools

import pytest

from ckncuda import stopwatch as module
from ckncuda.stopwatch import Stopwatch


@pytest.fixture
def stopwatch(monkeypatch):
    """A stopwatch for which a second passes whenever it looks at the time."""
    ticks = itertools.count()
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(ticks)))
    return Stopwatch()


def test_the_innermost_stage_counts(stopwatch):
    with stopwatch.stage("outer"):  # 1 to 2, then 3 to 4
        with stopwatch.stage("inner"):  # 2 to 3
            pass
    with stopwatch.stage("outer"):  # 5 to 6
        pass
    assert stopwatch.seconds == {"outer": 3, "inner": 1}
    assert stopwatch.total == 7  # 0 to 1 and 4 to 5 are of no stage


def test_a_stage_that_fails_has_ended(stopwatch):
    with pytest.raises(ZeroDivisionError), stopwatch.stage("first"):
        _ = 1 / 0
    with stopwatch.stage("second"):
        pass
    assert stopwatch.seconds == {"first": 1, "second": 1}


def test_making_items_counts_and_using_them_does_not(stopwatch):
    for _ in stopwatch.each("making", range(3)):
        with stopwatch.stage("using"):
            pass
    assert stopwatch.seconds == {"making": 4, "using": 3}  # the end of the items is found out, too
