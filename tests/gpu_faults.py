"""A process that has lost its GPU ends: after a sticky error of CUDA, nothing that follows means anything.

The hooks are those of pytest. A worker of pytest-xdist reports the test that did it and ends, so that another
takes its place; without workers, the run stops and says why.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest

STICKY = {700, 702, 710, *range(714, 720)}
"""Numbers of errors after which a process must end: illegal addresses, time-outs, traps."""

_lost = pytest.StashKey[int]()


def sticky_status(error: BaseException | None) -> int | None:
    """Return the number of a sticky error, if this is one or was raised while one was handled."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        named = type(error).__name__ in ("CUDARuntimeError", "CUDADriverError")
        if named and getattr(error, "status", None) in STICKY:
            return int(error.status)  # type: ignore[attr-defined]
        error = error.__cause__ or error.__context__
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[Any]:
    report = yield
    if call.excinfo is not None and (status := sticky_status(call.excinfo.value)):
        item.config.stash[_lost] = status
        report.sections.append(("GPU", f"CUDA's error {status}: this process has lost the GPU and ends"))
        report.lost_the_gpu = status  # for the hook below, which is given nothing else
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> Iterator[None]:
    """Once the report has gone to those who started this worker."""
    yield
    if getattr(report, "lost_the_gpu", None) and "PYTEST_XDIST_WORKER" in os.environ:
        os._exit(1)


def pytest_runtest_teardown(item: pytest.Item) -> None:
    if (status := item.config.stash.get(_lost, None)) is not None and "PYTEST_XDIST_WORKER" not in os.environ:
        item.session.shouldstop = (
            f"CUDA's error {status}: this process has lost the GPU; run the rest in a new one"
        )
