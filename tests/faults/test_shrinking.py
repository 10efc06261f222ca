"""Inputs that change while they are read: a clear error, or all was read as it was; never a signal."""

import numpy as np
import pytest
from faults.shrinking import CHANGES, KINDS, SHRINKS

IN_PARTS = [kind for kind in KINDS if not kind.startswith("labels") and kind != "toml"]
GOOD = ("refused", "whole")


@pytest.fixture
def child(nursery, tmp_path):
    """Call a function of `faults.shrinking` in a child; it must end by itself."""

    def call(function, kind, *arguments):
        if kind == "gram zarr":
            pytest.importorskip("zarr")
        ended = nursery.run(f"faults.shrinking:{function}", kind, *arguments, str(tmp_path))
        assert ended.status == 0, (ended.status, ended.stderr[-3000:])
        return ended.value

    return call


@pytest.mark.parametrize("shrink", SHRINKS)
@pytest.mark.parametrize("kind", IN_PARTS)
def test_after_a_part_was_read(child, kind, shrink):
    assert child("after_a_part", kind, shrink) in GOOD


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", [kind for kind in IN_PARTS if kind not in ("gram zarr", "model")])
def test_after_another_came(child, kind, change):
    """Half of one file and half of another are neither; that which was there may be read to its end."""
    assert child("after_another_came", kind, change) in GOOD


@pytest.mark.parametrize("opening", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_between_opening_and_reading(child, kind, opening):
    assert child("after_opening", kind, "halved", opening) in GOOD


@pytest.mark.parametrize("kind", KINDS)
def test_while_it_is_read(child, request, kind):
    rounds = request.config.getoption("--kills") or 8
    assert set(child("meanwhile", kind, "emptied", 5 * rounds)) <= set(GOOD)


@pytest.mark.parametrize("command", ["extract", "predict"])
@pytest.mark.parametrize("shrink", ["halved", "emptied"])
def test_a_command_that_is_at_work(nursery, inputs, tmp_path, command, shrink):
    output = {"extract": "f.npy", "predict": "p.csv"}[command]
    for name in ("m.ckn", "many.npy"):
        (tmp_path / name).write_bytes((inputs / name).read_bytes())
    arguments = (command, "m.ckn", "many.npy", "-o", output)
    ended = nursery.run("faults.shrinking:command_at_work", shrink, str(tmp_path), *arguments, cwd=tmp_path)
    assert ended.status == 2, (ended.status, ended.stderr)
    assert "many.npy" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"m.ckn", "many.npy"}


def test_what_is_whole_is_read(child):
    assert child("after_opening", "npy", "halved", 99) == "whole"
    assert np.all([child("after_opening", kind, "emptied", 1) == "refused" for kind in ("csv", "labels csv")])
