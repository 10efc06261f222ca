"""Trainings that are killed at any moment: they go on with --resume, to the same bytes.

`--kills 30` kills one at so many moments.
"""

import random
import time

import numpy as np
import pytest
from factories import stripes

FEW = 3
TRAIN = (
    *("fit", "xy.npz", "-o", "m.ckn", "--preprocess", "none", "--patches", "500", "--threads", "1"),
    *("--layer", "filters=6,patch=3,subsampling=2,kernel=exp,sigma=0.6"),
    *("--layer", "filters=8,patch=3,subsampling=2,kernel=exp,sigma=0.6"),
    *("--end-to-end", "--epochs", "6", "--batch", "20", "--augment", "flip,crop=1", "--after", "ridge"),
)


def run(nursery, folder, *options):
    return nursery.start("nursery:call_ckn", *TRAIN, *options, cwd=folder)


@pytest.fixture
def folder_of(tmp_path):
    def made(name):
        folder = tmp_path / name
        folder.mkdir()
        images, labels = stripes(600)
        np.savez(folder / "xy.npz", images=images, labels=labels)
        return folder

    return made


def test_a_killed_training_goes_on_to_the_same_bytes(bare_nursery, folder_of, request, record_property):
    whole = folder_of("whole")
    alone = run(bare_nursery, whole).wait()
    assert alone.status == 0, alone.stderr
    expected = (whole / "m.ckn").read_bytes()
    rng, problems, killed, resumed = random.Random(5), [], 0, 0
    kills = request.config.getoption("--kills") or FEW
    for number in range(kills):
        folder, part = folder_of(str(number)), (number + rng.random()) / kills
        child = run(bare_nursery, folder)
        time.sleep(part * alone.seconds)
        child.kill()
        killed += child.wait().status == -9
        where = f"kill {number}, after {part:.3f} of it: "
        checkpoint = folder / "m.ckn.checkpoint"
        if (folder / "m.ckn").exists() and (folder / "m.ckn").read_bytes() != expected:
            problems.append(where + "a model is there that is another")
        options = ()
        if checkpoint.exists():
            before = checkpoint.read_bytes()
            refused = run(bare_nursery, folder).wait()
            if refused.status != 2 or "go on with --resume m.ckn.checkpoint" not in refused.stderr:
                problems.append(where + f"{refused.status} without --resume: {refused.stderr[-500:]}")
            if checkpoint.read_bytes() != before:
                problems.append(where + "what was learned is lost")
            options = ("--resume", "m.ckn.checkpoint")
            resumed += 1
        again = run(bare_nursery, folder, *options).wait()
        if again.status != 0:
            problems.append(where + f"it goes on to status {again.status}: {again.stderr[-1500:]}")
        elif (folder / "m.ckn").read_bytes() != expected:
            problems.append(where + "it ends in other bytes")
        left = sorted(path.name for path in folder.iterdir() if path.name not in ("xy.npz", "m.ckn"))
        if left:
            problems.append(where + f"left behind: {left}")
    said = f"{killed} of {kills} were at work, {resumed} went on, of {alone.seconds:.2f} s"
    record_property("kills", f"training: {said}")
    assert not problems, "\n".join(problems)
    assert killed
    assert resumed
