"""Commands that are killed at any moment: old outputs whole or new ones whole, and the same command goes on.

`--kills 30` kills each at so many moments.
"""

import contextlib
import random
import time

import psutil
import pytest
from faults.commands import COMMANDS, Process, names, told
from gram_files import chunks

FEW = 3
WORKERS = "gram workers"  # processes that take seconds to start, of which the tiles tell the time


def start(nursery, command, folder):
    """Start a command: in a child that has all imported, but for workers, which begin as their parent did."""
    if command is COMMANDS[WORKERS]:
        return Process(command.arguments, folder)
    return nursery.start("nursery:call_ckn", *command.arguments, cwd=folder)


def wait_for_moment(name, part, folder, seconds):
    """Wait for a part, from 0 to 1, of what a command does."""
    if name != WORKERS:
        time.sleep(part * seconds * 1.05)
        return
    end, wanted = time.monotonic() + 60, part * 140
    while chunks(folder / "K.zarr.part") < wanted and not (folder / "K.zarr").exists():
        assert time.monotonic() < end
        time.sleep(0.002)


def descendants(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


@pytest.mark.parametrize("name", COMMANDS)
def test_a_kill_costs_nothing_but_time(bare_nursery, prepared, request, name, record_property):
    command, whole = prepared(name, "whole")
    before = told(whole / command.output)
    alone = start(bare_nursery, command, whole).wait()
    assert alone.status == 0, alone.stderr
    expected = told(whole / command.output)
    assert expected not in (None, before)
    rng, killed, problems = random.Random(name), 0, []
    kills = request.config.getoption("--kills") or (1 if name == WORKERS else FEW)
    for number in range(kills):
        part = (number + rng.random()) / kills
        command, folder = prepared(name, str(number))
        child = start(bare_nursery, command, folder)
        wait_for_moment(name, part, folder, alone.seconds)
        others = descendants(child.pid)
        child.kill()
        killed += child.wait().status == -9
        where = f"kill {number}, after {part:.3f} of it: "
        if told(folder / command.output) not in (before, expected):
            problems.append(where + "neither the old output nor the new one is there")
        _, alive = psutil.wait_procs(others, timeout=20)
        problems += [where + f"process {process.pid} lives on" for process in alive]
        again = start(bare_nursery, command, folder).wait()
        if again.status != 0:
            problems.append(where + f"the same command ends with {again.status}: {again.stderr[-1500:]}")
        elif told(folder / command.output) != expected:
            problems.append(where + "the result is another")
        if left := names(folder) ^ names(whole):
            problems.append(where + f"left behind, or missing: {sorted(left)[:5]}")
    record_property("kills", f"{name}: {killed} of {kills} were at work, of {alone.seconds:.2f} s")
    assert not problems, "\n".join(problems)
    assert killed
