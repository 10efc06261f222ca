import itertools

import pytest

from ckncuda import progress as module
from ckncuda.progress import Report


@pytest.fixture
def report(monkeypatch):
    """A report for which a second passes whenever it looks at the time."""
    ticks = itertools.count()
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(ticks)))
    return Report()


def test_the_innermost_stage_counts(report):
    with report.stage("outer"):  # 1 to 2, then 3 to 4
        with report.stage("inner"):  # 2 to 3
            pass
    with report.stage("outer"):  # 5 to 6
        pass
    assert report.seconds == {"outer": 3, "inner": 1}
    assert report.total == 7  # 0 to 1 and 4 to 5 are of no stage


def test_a_stage_that_fails_has_ended(report):
    with pytest.raises(ZeroDivisionError), report.stage("first"):
        _ = 1 / 0
    with report.stage("second"):
        pass
    assert report.seconds == {"first": 1, "second": 1}


def test_making_items_counts_and_using_them_does_not(report):
    for _ in report.each("making", range(3)):
        with report.stage("using"):
            pass
    assert report.seconds == {"making": 4, "using": 3}  # the end of the items is found out, too
