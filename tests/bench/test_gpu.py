"""The measurements for a GPU, rehearsed without one: every row, failures in rows, time, paths."""

import importlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from ckncuda.backend.numpy import NumpyBackend

BENCH = Path(__file__).parents[2] / "bench" / "gpu"
ROWS = 3 * (3 + 2 + 2) + 2 * 2 * 4 + 3 * 3  # layers, k-means, from the host
ROWS += 4 + 3 * (2 + 1 + 1)  # exact kernels, networks


class FakeBackend(NumpyBackend):
    """NumPy, which does what the GPU's backend is asked for."""

    def __init__(self, precision):
        super().__init__(threads=1)
        self.precision = precision

    def asarray(self, array):
        return np.asarray(array, np.float32)

    def to_host(self, array):
        return array


@pytest.fixture
def gpu(monkeypatch):
    if not BENCH.exists():
        pytest.skip("bench/gpu/ is not beside these tests")
    monkeypatch.syspath_prepend(BENCH)
    core = importlib.import_module("gpu_bench")
    monkeypatch.setattr(core, "our_backend", FakeBackend)
    monkeypatch.setattr(core, "imported", lambda name: None)
    spec = importlib.util.spec_from_file_location("bench_gpu", BENCH / "gpu_measure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def without_torch(gpu, monkeypatch):
    monkeypatch.setattr(gpu, "gpu_torch", None)
    monkeypatch.setattr("gpu_bench.gpu_torch", None)


def rehearse(gpu, folder, *options):
    """The rows and the table of a rehearsal."""
    table, data = folder / "gpu.md", folder / "gpu.json"
    status = gpu.main(["--rehearse", "-o", str(table), "--json", str(data), *options])
    return status, json.loads(data.read_text()), table.read_text()


def test_a_rehearsal_fills_every_row_and_says_that_it_is_one(gpu, tmp_path, capsys):
    status, data, table = rehearse(gpu, tmp_path)
    assert status == 0
    assert len(data["rows"]) == ROWS
    assert "rehearsal" in table.splitlines()[0]
    assert data["rehearsal"]
    assert all(row["ours"] > 0 for row in data["rows"])
    assert not [remark for row in data["rows"] for remark in row["remarks"] if "failed" in remark]
    errors = [row["our_error"] for row in data["rows"] if row["our_error"] is not None]
    assert 0 < max(errors) < 1e-5
    assert capsys.readouterr().out.count("\n| ") > ROWS
    if gpu.gpu_torch is None:
        assert "PyTorch is not installed" in table
    else:
        assert all(
            row["their_error"] < 1e-5
            for row in data["rows"]
            if row["precision"] == "float32" and row["theirs"]
        )


@pytest.mark.usefixtures("without_torch")
def test_a_failure_stands_in_its_row_and_the_others_follow(gpu, tmp_path, monkeypatch):
    def broken(precision):
        if precision == "tf32":
            raise MemoryError("no memory for tf32")
        return FakeBackend(precision)

    monkeypatch.setattr("gpu_bench.our_backend", broken)
    _, data, table = rehearse(gpu, tmp_path)
    assert len(data["rows"]) == ROWS
    failed = [row for row in data["rows"] if row["precision"] == "tf32"]
    assert all(row["ours"] is None and "no memory for tf32" in "".join(row["remarks"]) for row in failed)
    assert all(row["ours"] for row in data["rows"] if row["precision"] != "tf32")
    assert "no memory for tf32" in table


@pytest.mark.usefixtures("without_torch")
def test_what_does_not_fit_the_time_is_skipped_and_said(gpu, tmp_path):
    _, data, _ = rehearse(gpu, tmp_path, "--seconds", "0")
    assert len(data["rows"]) == ROWS
    assert all("no time left" in row["remarks"][-1] for row in data["rows"])


@pytest.mark.usefixtures("without_torch")
def test_an_interruption_keeps_what_there_is(gpu, tmp_path, monkeypatch):
    def interrupted(bench):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "kmeans", interrupted)
    status, data, table = rehearse(gpu, tmp_path)
    assert status == 1
    assert data["status"].startswith("interrupted")
    assert len(data["rows"]) == table.count("layer ") == 21


def test_a_rehearsal_does_not_touch_the_results_of_a_gpu(gpu, capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--rehearse", "-o", str(BENCH.parent / "results" / "gpu.md")])
    assert "does not overwrite" in capsys.readouterr().err


def test_targets_are_judged_only_on_a_gpu(gpu):
    row = gpu.Row("S", "tf32", ours=60.0, theirs=10.0, least_ratio=5.0)
    assert row.target(judged=True).endswith("reached")
    assert row.target(judged=False) == "≥ 5 times"
    assert gpu.Row("S", "tf32", of_floor=0.4, least_of_floor=0.5).target(judged=True).endswith("missed")


@pytest.mark.usefixtures("without_torch")
def test_a_resumed_run_measures_what_is_missing_alone(gpu, tmp_path, monkeypatch):
    def broken(precision):
        if precision == "tf32":
            raise MemoryError("no memory for tf32")
        return FakeBackend(precision)

    monkeypatch.setattr("gpu_bench.our_backend", broken)
    _, before, _ = rehearse(gpu, tmp_path)
    asked = []
    monkeypatch.setattr(
        "gpu_bench.our_backend", lambda precision: asked.append(precision) or FakeBackend(precision)
    )
    monkeypatch.setattr(gpu.Bench, "typical_seconds", None)  # of ceilings, which are known
    status, data, _ = rehearse(gpu, tmp_path, "--resume")
    assert (status, set(asked)) == (0, {"tf32"})
    assert len(data["rows"]) == ROWS
    known = {(row["what"], row["precision"]): row["seconds"] for row in before["rows"] if row["ours"]}
    again = {(row["what"], row["precision"]): row["seconds"] for row in data["rows"]}
    assert len(again) == ROWS
    assert all(row["ours"] for row in data["rows"])
    assert {key: again[key] for key in known} == known


@pytest.mark.usefixtures("without_torch")
def test_a_resumed_run_that_is_interrupted_keeps_the_rows_whose_turn_has_not_come(gpu, tmp_path, monkeypatch):
    rehearse(gpu, tmp_path)

    def interrupted(bench):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "kmeans", interrupted)
    status, data, _ = rehearse(gpu, tmp_path, "--resume")
    assert status == 1
    assert len({(row["what"], row["precision"]) for row in data["rows"]}) == ROWS


@pytest.mark.usefixtures("without_torch")
def test_a_measurement_that_loses_the_gpu_ends_its_process_and_is_not_taken_again(gpu, tmp_path, monkeypatch):
    class CUDARuntimeError(RuntimeError):
        status = 700

    def broken(precision):
        if precision == "tf32":
            raise CUDARuntimeError("cudaErrorIllegalAddress")
        return FakeBackend(precision)

    monkeypatch.setattr("gpu_bench.our_backend", broken)
    statuses, rows = [], []
    while not statuses or statuses[-1] == 75:
        status, data, _ = rehearse(gpu, tmp_path, "--resume")
        statuses.append(status)
        rows.append(len(data["rows"]))
    lost = [row for row in data["rows"] if row["lost_the_gpu"]]
    assert statuses == [75] * len(lost) + [0]
    assert rows == sorted(rows)
    assert {row["precision"] for row in lost} == {"tf32"}
    assert all("failed: CUDARuntimeError: cudaErrorIllegalAddress" in row["remarks"][-1] for row in lost)
    assert len(data["rows"]) == ROWS
    assert all(row["ours"] for row in data["rows"] if row["precision"] != "tf32")
