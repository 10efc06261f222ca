"""Ctrl-C and requests to end, at any moment: 130 at once, no traceback, and nothing half-written.

`--signals 60` sends so many to each command.
"""

import random
import re
import signal
import time

import pytest
from faults.commands import Process, names, told
from nursery import patience

INTERRUPTED = (130, -signal.SIGINT)  # shells report both as 130; Python itself ends in either way
AT_ONCE = 1.0  # second until the end, on a machine that has nothing else to do
FEW = 4
AT_WORK = ("fit", "search", "gram npy")


def partial_files(folder):
    """Return names of files that never got their names."""
    return [
        name
        for name in names(folder)
        if re.search(r"\.part$|\.partial$|\.replaced", name) and "K.npy.part" not in name
    ]


@pytest.mark.parametrize("name", AT_WORK)
def test_a_signal_ends_a_command_at_once(prepared, request, name):
    command, whole = prepared(name, "whole")
    before = told(whole / command.output)
    Process(command.arguments, whole).wait()  # which fills caches, too
    second, place = prepared(name, "again")
    alone = Process(second.arguments, place).wait()
    assert alone.status == 0, alone.stderr
    expected, rng, problems, sent = told(whole / command.output), random.Random(name), [], 0
    count = request.config.getoption("--signals") or FEW
    for number in range(count):
        command, folder = prepared(name, str(number))
        kind = rng.choice((signal.SIGINT, signal.SIGTERM))
        process = Process(command.arguments, folder)
        moment = 0.5 + (number + rng.random()) / count * max(0.1, alone.seconds - 0.5)
        time.sleep(moment)
        began = time.monotonic()
        process.kill(kind)
        ended = process.wait()
        took = time.monotonic() - began
        where = f"{kind.name} after {moment:.2f} of {alone.seconds:.2f} s: "
        done = told(folder / command.output) == expected
        if done and ended.status in (0, 143, -kind) and "Traceback" not in ended.stderr:
            continue  # all was done, and Python itself was ending
        sent += 1
        if ended.status not in INTERRUPTED:
            problems.append(where + f"status {ended.status}: {ended.stderr[-1500:]}")
        if took > patience(AT_ONCE):
            problems.append(where + f"it took {took:.2f} s")
        if "Traceback" in ended.stderr:
            problems.append(where + f"a traceback: {ended.stderr[-1500:]}")
        if told(folder / command.output) not in (before, expected):
            problems.append(where + "neither the old output nor the new one is there")
        if left := partial_files(folder):
            problems.append(where + f"left behind: {left[:5]}")
    assert not problems, "\n".join(problems)
    assert sent


@pytest.mark.parametrize("imported", ["ckncuda.errors", "ckncuda.layer.spec", "click", "numpy"])
def test_ctrl_c_while_imports_run(tmp_path, imported):
    process = Process(("backends",), tmp_path, {"PYTHONPROFILEIMPORTTIME": "1"})
    process.wait_for(rf"\| +{re.escape(imported)}$")
    process.kill(signal.SIGINT)
    ended = process.wait()
    said = [line for line in ended.stderr.splitlines() if not line.startswith("import time:")]
    assert ended.status in INTERRUPTED, (ended.status, said[-20:])
    assert not any("Traceback" in line for line in said), said[-20:]
