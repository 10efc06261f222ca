"""The leaderboard of a search: which rows none beats, and their picture."""

import random

import pytest

from ckncuda.studies.plots import draw_search
from ckncuda.studies.search.leaderboard import Row, pareto_front

pytest.importorskip("matplotlib", reason="matplotlib, the extra `search`, is not installed")


def test_no_row_of_the_pareto_front_is_beaten():
    random.seed(0)
    rows = [Row(i, random.random(), random.random(), 8, "system") for i in range(100)]
    front = pareto_front(rows)
    for row in rows:
        beaten = any(r.accuracy > row.accuracy and r.seconds < row.seconds for r in rows)
        assert (row in front) == (not beaten)


def test_one_row_is_drawn(tmp_path):
    draw_search([Row(0, 0.5, 1.0, 8, "system", "default")], 100, tmp_path / "accuracy.png")
    assert (tmp_path / "accuracy.png").stat().st_size > 1000
