"""Measurements of training, rehearsed: rows of one epoch, what is known already, the page that they go to."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from ckncuda import System

BENCH = Path(__file__).parents[2] / "bench"
ROW = "32 and 64 filters trained 5 epochs"


@pytest.fixture
def bench(monkeypatch):
    """bench/supervised.py as a module."""
    if not BENCH.exists():
        pytest.skip("bench/ is not beside these tests")
    monkeypatch.syspath_prepend(BENCH)
    for name in ("challenge", "results", "supervised"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("supervised")
    yield module
    for name in ("challenge", "results", "supervised"):
        sys.modules.pop(name, None)


@pytest.fixture
def rehearse(bench, tmp_path, monkeypatch):
    """Run it with options; return what it has kept and the page."""

    def rehearse(*options):
        monkeypatch.setattr(sys, "argv", ["supervised.py", "--rehearse", str(tmp_path), *options])
        bench.main()
        kept = json.loads((tmp_path / "supervised.json").read_text())["rows"]
        return kept, (tmp_path / "results-page.md").read_text()

    return rehearse


def test_a_row_is_measured_once_and_shown_on_the_page(bench, rehearse, monkeypatch):
    before = bench.PAGE.read_text()
    kept, page = rehearse("--only", ROW)
    (figures,) = kept.values()
    assert list(kept) == [f"d: {ROW}"]
    assert figures["seconds"]["training"] > 0
    assert figures["n_evaluated"] == 24
    assert " of 1 was chosen on 2 images held out of 24" in figures["validation"]
    assert "\n## Training end to end\n" in page
    assert "\n### MNIST, 60,000 images\n" in page
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {ROW} |")]
    assert " % (24 images) | " in line
    assert "--end-to-end --epochs 5 --after nystrom-ridge" in page  # not the one epoch of the rehearsal
    assert "### CIFAR-10" not in page  # of which nothing is known
    assert bench.PAGE.read_text() == before
    monkeypatch.setattr(bench, "measured", lambda row, places: {**figures, "memory": 77777})
    kept, page = rehearse("--only", "d")
    assert [figures["memory"] == 77777 for figures in kept.values()] == [False, True, True]
    assert page.count("| 77,777 |") == 2


@pytest.mark.parametrize(("only", "count"), [(["a"], 4), (["b"], 8), (["b", "c"], 11), (["c: chen5"], 1)])
def test_rows_that_are_chosen(bench, only, count):
    assert len(bench.wanted(only)) == count


def test_a_row_that_there_is_not(bench):
    with pytest.raises(SystemExit, match="there is no x; there are .*chen5"):
        bench.wanted(["x"])


def test_an_interrupted_run_keeps_its_rows(bench, rehearse, tmp_path, monkeypatch):
    def one_row(row, places):
        if row.name != "without labels, ridge":
            raise KeyboardInterrupt
        return {}

    monkeypatch.setattr(bench, "measured", one_row)
    with pytest.raises(KeyboardInterrupt):
        rehearse("--only", "a")
    assert list(json.loads((tmp_path / "supervised.json").read_text())["rows"]) == [
        "a: without labels, ridge"
    ]


def test_both_encoders_are_those_of_the_presets(bench):
    both = System.from_toml(bench.HERE / "default_and_supervised.toml")
    presets = [System.preset(name, 5000, (32, 32, 3)) for name in ("default", "supervised")]
    assert list(both.encoders) == [preset.encoders[0] for preset in presets]
    assert both.classifier == presets[0].classifier
    assert both.classifier_options == presets[0].classifier_options


def test_the_page_of_results_is_made_of_what_is_kept(bench):
    results = importlib.import_module("results")
    assert results.page(json.loads(results.KEPT.read_text())) == results.PAGE.read_text()
