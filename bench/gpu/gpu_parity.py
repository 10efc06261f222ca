"""A plugin of pytest (`-p gpu_parity`): how each test ended, in OUT/parity.json; none is run twice."""

import json
from typing import Any

import pytest
from gpu_results import Results, folder_of_results

DONE = "parity_done.json"


def pytest_configure(config: pytest.Config) -> None:
    """The process that starts the workers writes; these see what was done before it began."""
    if hasattr(config, "workerinput"):
        return
    results = Results(folder_of_results() / "parity.json")
    done = folder_of_results() / DONE
    done.write_text(json.dumps(sorted(results.units)), encoding="utf-8")
    config.pluginmanager.register(_Writer(results), "gpu_parity_writer")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave away what is done."""
    done = set(json.loads((folder_of_results() / DONE).read_text(encoding="utf-8")))
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
    items[:] = [item for item in items if item.nodeid not in done]


class _Writer:
    def __init__(self, results: Results) -> None:
        self.results = results

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep how a test ended: by its call, or by whatever failed before or after it."""
        if report.when != "call" and report.passed:
            return
        found: dict[str, Any] = {"passed": not report.failed, "said": report.outcome}
        if report.failed:
            found["why"] = str(report.longrepr)[-1500:]
        found["seconds"] = round(report.duration, 2)
        known = self.results.units.get(report.nodeid)
        if known is None or known["passed"]:  # the first failure says more than the end of its worker
            self.results.keep(report.nodeid, found)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Judge by all tests, those of earlier runs too; leave nothing behind that nobody uses."""
        if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            well = self.results.units and all(found["passed"] for found in self.results.units.values())
            session.exitstatus = pytest.ExitCode.OK if well else pytest.ExitCode.TESTS_FAILED
        (folder_of_results() / DONE).unlink(missing_ok=True)

    def pytest_unconfigure(self) -> None:
        """Say so, last."""
        self.results.conclude(list(self.results.units))
