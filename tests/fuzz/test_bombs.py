"""Files that announce or unpack to far more than they are, and pipes: refused at once, in little memory."""

import os

import pytest
from fuzz import bombs, pipes
from fuzz.bombs import BOMBS, MIB
from nursery import patience

SECONDS, MEMORY = 2.0, 256 * MIB  # of a refusal, above the start
NEEDS = {"zarr": "zarr", "K.zarr": "zarr", "search": "optuna"}


@pytest.fixture
def refused(nursery, tmp_path):
    """Run `ckn`; it must refuse within the bounds, with one short message, and change nothing."""

    def names_of_all():  # but in the folder of a search, which says from the first moment of which it is
        return {str(path) for path in tmp_path.rglob("*") if path.parent.name != "new.ckn.search"}

    def run(arguments):
        names = names_of_all()
        child = nursery.start("nursery:call_ckn", *arguments, cwd=tmp_path, env={"TMPDIR": str(tmp_path)})
        done = child.wait(patience(SECONDS), memory=1024 * MIB)
        assert done.status == 2, (
            done.status,
            f"{done.seconds:.1f} s",
            f"{done.peak / MIB:.0f} MiB",
            done.stderr[-3000:],
        )
        assert done.peak < MEMORY, (f"{done.peak / MIB:.0f} MiB", done.stderr[-1000:])
        assert "Traceback" not in done.stderr
        assert "Error: " in done.stderr
        assert "not enough memory" not in done.stderr
        assert len(done.stderr) < 3000
        assert names_of_all() == names

    return run


def _needed(arguments):
    for word, package in NEEDS.items():
        if word in arguments:
            pytest.importorskip(package)


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused(refused, tmp_path, bomb):
    bombs.lay_out(tmp_path)
    arguments = BOMBS[bomb](tmp_path)
    _needed(arguments)
    refused(arguments)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
@pytest.mark.parametrize("number", range(20))
def test_a_pipe_is_refused(refused, tmp_path, number):
    bombs.lay_out(tmp_path)
    place, arguments = list(pipes.pipes(tmp_path))[number]
    _needed(arguments)
    path = tmp_path / place
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    refused(arguments)
