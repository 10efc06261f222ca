"""Rates of gradients on a GPU, rehearsed where there is none: every part has a figure, errors are judged."""

import importlib
from pathlib import Path

import gpu
import pytest

BENCH = Path(__file__).parents[2] / "bench" / "gpu"


@pytest.fixture
def rates(monkeypatch):
    if not BENCH.exists():
        pytest.skip("bench/gpu/ is not beside these tests")
    monkeypatch.syspath_prepend(BENCH)
    with gpu.a_gpu():
        yield importlib.import_module("gpu_rates")


def test_gradients_and_their_parts_have_rates(rates, monkeypatch):
    subject = rates.Subject(rates.TINY.networks[0])
    found = rates.gradients(subject, 2, 1)
    assert found["passed"], found
    assert float(found["error"]) <= 1e-5
    for number in (1, 2, 3):
        for part in ("patches", "products", "κ", "sums", "by patches", "fold"):
            assert f"{part} " in found[f"layer {number}"]
    monkeypatch.setattr(rates, "difference", lambda *_: 1.0)
    assert not rates.gradients(subject, 2, 1)["passed"]
