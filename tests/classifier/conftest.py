"""What tests of classifiers share."""

import pytest


@pytest.fixture
def tight(monkeypatch):
    """Solve nearly exactly, so that only rounding tells two minimisers apart."""
    monkeypatch.setattr("ckncuda.classifier.lbfgs.TOLERANCE", 1e-9)
    monkeypatch.setattr("ckncuda.classifier.lbfgs.VALUE_TOLERANCE", 1e-13)
