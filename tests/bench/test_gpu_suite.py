"""The sequence for a GPU, killed at random moments: what was found stays whole, and the rest is done once."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "gpu"
UNITS = 10
KILLS = 11

# Stand-ins for steps on a GPU: units of a tenth of a second, noted as they begin, by way of the same results.
STEP = f"""
import sys, time
from gpu_results import Results, folder_of_results
name, status = sys.argv[1], int(sys.argv[2])
results, units = Results(folder_of_results() / f"{{name}}.json"), [str(i) for i in range({UNITS})]
for unit in results.rest(units):
    time.sleep(0.1)
    with (folder_of_results() / "ran").open("a") as ran:
        ran.write(f"{{name}} {{unit}}\\n")
    results.add(unit, {{"passed": True, "said": "x" * 3000}})
print("a table\\n| of | rows |")
sys.exit(results.conclude(units) or status)
"""
SUITE = """
import json, sys
import gpu_suite
from gpu_suite import Step

steps, arguments = json.loads(sys.argv[1]), sys.argv[2:]
gpu_suite.digest_of_sources = lambda: "these"
gpu_suite.variables = lambda rehearse, out: {**gpu_suite.os.environ, "OUT": str(out)}
gpu_suite.steps = lambda rehearse, out: [Step(n, [sys.executable, "-c", *c], *times) for n, c, times in steps]
sys.exit(gpu_suite.main(arguments))
"""
STEPS = [
    (name, [STEP, name.replace(" ", "_"), str(status)], (30, 0.1))
    for name, status in (("facts", 0), ("every kernel once", 0), ("rates", 1), ("parity", 0))
]
SLOW = "print('begun', flush=True); import time; time.sleep(60)"


@pytest.fixture(autouse=True)
def _bench_is_there():
    if not BENCH.exists() or sys.platform != "linux":
        pytest.skip("bench/gpu/ is not beside these tests, or this is no Linux")


def started(out, steps, *options):
    """The sequence in a process of its own."""
    command = [sys.executable, "-c", SUITE, json.dumps(steps), "--out", str(out), *options]
    environment = os.environ | {"PYTHONPATH": str(BENCH)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def finished(out, steps, *options):
    """The status of the sequence, and all that it said."""
    process = started(out, steps, *options)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


def found(out):
    """Pairs (step, unit) that the files hold, each of which must be whole."""
    return {(path.stem, unit) for path in out.glob("*.json") for unit in json.loads(path.read_text())}


def ran(out):
    """Pairs (step, unit) that were begun, in their order."""
    path = out / "ran"
    return [tuple(line.split()) for line in path.read_text().splitlines()] if path.exists() else []


def test_kills_at_random_moments_lose_nothing(tmp_path):
    moments, kills, known = random.Random(0), 0, set()
    for _ in range(KILLS):
        begun = len(ran(tmp_path))
        process = started(tmp_path, STEPS)
        time.sleep(moments.uniform(0.1, 0.6))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
        time.sleep(0.1)  # until its step has ended with it
        quiet = len(ran(tmp_path))
        time.sleep(0.1)
        assert len(ran(tmp_path)) == quiet, "a step outlived the sequence that began it"
        assert not known & set(ran(tmp_path)[begun:]), "what was done is done again"
        assert known <= found(tmp_path), "what was found is lost"
        known = found(tmp_path)
    status, said = finished(tmp_path, STEPS)
    assert status == 1, said  # of the step that fails
    expected = {(name.replace(" ", "_"), str(i)) for name, *_ in STEPS for i in range(UNITS)}
    assert expected <= found(tmp_path)
    assert not known & set(ran(tmp_path)[len(ran(tmp_path)) - len(expected - known) :])
    assert kills >= 10
    assert not list(tmp_path.glob("*.part"))
    table = (tmp_path / "gpu_checks.md").read_text()
    assert [line.split("|")[1].strip() for line in table.splitlines()[6:]] == [name for name, *_ in STEPS]
    assert table.count("| NO |") == 1
    assert f"failed (1): {UNITS} of {UNITS} well" in table
    again = finished(tmp_path, STEPS)
    assert again[0] == 1
    assert "== " not in again[1], "a step was begun again"


@pytest.mark.slow
@pytest.mark.skipif("CKNCUDA_CAMPAIGNS" not in os.environ, reason="takes minutes: set CKNCUDA_CAMPAIGNS")
def test_a_rehearsal_with_real_kernels_is_killed_at_random_moments(tmp_path):
    """Every step of a rehearsal, kernels executed on the CPU, to the end that it has without kills."""
    command = [sys.executable, str(BENCH / "gpu_suite.py"), "--rehearse", "--out", str(tmp_path)]
    moments, known = random.Random(1), set()
    for _ in range(KILLS):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(moments.uniform(1, 12))
        process.kill()
        process.wait()
        now = found(tmp_path) - {("parity_done", name) for _, name in found(tmp_path)}
        rows = {("gpu", str(row)) for row in rows_of(tmp_path)}
        assert known <= now | rows, known - now - rows
        known = (now | rows) - {("gpu", name) for name in ("status", "command")}
    assert subprocess.run(command, stdout=subprocess.DEVNULL, timeout=600).returncode == 0
    steps = json.loads((tmp_path / "steps.json").read_text())
    assert all(step["done"] and step["passed"] for name, step in steps.items() if name != "sources")
    assert known <= found(tmp_path) | {("gpu", str(row)) for row in rows_of(tmp_path)}
    assert not list(tmp_path.glob("*.part"))


def rows_of(out):
    """Rows of the benchmark that have figures: what, precision, seconds of each turn."""
    path = out / "gpu.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    return [(row["what"], row["precision"], row["seconds"]) for row in rows if row["ours"]]


def test_time_is_kept_and_the_next_command_goes_on(tmp_path):
    steps = [("long", [SLOW], (3.0, 0.5)), *STEPS[:2], ("never ends", [SLOW], (1.5, 0.5)), STEPS[3]]
    start = time.monotonic()
    status, said = finished(tmp_path, steps, "--seconds", "1.5")
    assert (status, time.monotonic() - start < 15) == (3, True), said
    assert "Time is up; left: long, facts, every kernel once, never ends, parity." in said
    assert "stopped after 2 s: begun" in (tmp_path / "gpu_checks.md").read_text()
    status, said = finished(tmp_path, steps, "--seconds", "40")
    assert status == 1, said
    assert "== long, up to 1 s" in said or "== long, up to 2 s" in said  # what is left of its three
    table = (tmp_path / "gpu_checks.md").read_text()
    assert table.count("| NO | stopped after") == 2
    assert table.count("| yes |") == 3
    assert "begun" in (tmp_path / "never_ends.log").read_text()


def test_a_step_that_lost_the_gpu_goes_on_in_a_new_process(tmp_path):
    code = (
        "import sys\nfrom gpu_results import AGAIN, Results, folder_of_results\n"
        "results = Results(folder_of_results() / 'lost.json')\n"
        "units = results.rest(['a', 'b', 'c'])\n"
        "if units: results.add(units[0], {'passed': False}); sys.exit(AGAIN)\n"
        "sys.exit(results.conclude(['a', 'b', 'c']))"
    )
    status, said = finished(tmp_path, [("lost", [code], (20, 1))])
    assert (status, said.count("== lost"), "0 of 3 well" in said) == (1, 4, True), said
    assert json.loads((tmp_path / "steps.json").read_text())["lost"]["status"] == 1


def test_results_of_other_sources_are_not_mixed_with_these(tmp_path):
    assert finished(tmp_path, STEPS[:1])[0] == 0
    state = json.loads((tmp_path / "steps.json").read_text())
    (tmp_path / "steps.json").write_text(
        json.dumps(state | {"sources": {"digest": "those", "rehearsal": False}})
    )
    status, said = finished(tmp_path, STEPS[:1])
    assert status == 1
    assert "holds results of other sources, or of a rehearsal: give another --out" in said


def test_two_sequences_do_not_share_a_folder(tmp_path):
    first = started(tmp_path, [("long", [SLOW], (60, 1))])
    while not list(tmp_path.glob("long.log")):
        time.sleep(0.02)
    status, said = finished(tmp_path, STEPS[:1])
    first.kill()
    first.communicate()
    assert status == 1
    assert f"another sequence writes to {tmp_path}: wait for it" in said


@pytest.fixture
def suite(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    import gpu_suite

    return gpu_suite


def test_the_limits_of_all_steps_fit_two_commands_of_a_loan(suite, tmp_path):
    steps = suite.steps(False, tmp_path)
    assert sum(step.limit for step in steps) <= 780  # of 900 seconds, in which the machine starts, too
    assert suite.COMMAND_SECONDS <= 570
    assert sum(step.limit for step in steps) <= 2 * suite.COMMAND_SECONDS
    names = [step.name for step in steps]
    assert names == [
        "facts", "every kernel once", "rates", "probes", "benchmark", "parity", "memcheck", "racecheck"
    ]  # fmt: skip
    assert all(step.least < step.limit for step in steps)
    for step in steps[-2:]:
        at = step.command.index("--report-api-errors")
        assert step.command[at + 1] == "no", "the sanitizer would report that CuPy asks for attributes"
    assert any(part == "-n" for part in steps[5].command) == bool(suite.importlib.util.find_spec("xdist"))


def test_the_package_is_found_in_the_checkout_without_an_installation(suite, tmp_path):
    folder = suite.package_in(tmp_path)
    assert suite.package_in(tmp_path) == folder  # again, as a resumed sequence does
    code = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'ditable' not in repr(f)]\n"
        "import ckncuda, ckncuda.kernels, ckncuda.cli.main; print(ckncuda.__file__)\n"
        "assert 'mma_tf32' in ckncuda.kernels.source('encode')"
    )
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(folder / "ckncuda" / "__init__.py")


def test_without_a_gpu_the_facts_are_written_and_the_reason_is_said(tmp_path):
    from ckncuda.backend.cupy import why_unavailable

    if why_unavailable() is None:
        pytest.skip("there is a GPU here")
    command = [sys.executable, str(BENCH / "gpu_suite.py")]
    for out in (["--out", str(tmp_path / "a")], []):  # by the option, or by the variable
        environment = os.environ | ({} if out else {"OUT": str(tmp_path / "b")})
        done = subprocess.run([*command, *out], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2, done.stderr
        assert why_unavailable() in done.stdout
        assert "There is no GPU to run on" in done.stdout
    for folder in "ab":
        facts = json.loads((tmp_path / folder / "facts.json").read_text())
        assert facts["usable"]["is"] == why_unavailable()
        assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in facts["system"]["is"]
        assert json.loads((tmp_path / folder / "steps.json").read_text()) == {}  # asked again, on a GPU


def test_a_kernel_that_takes_the_device_with_it_is_one_line_of_many(suite, tmp_path):
    """The first contact: each kernel in a process of its own, executed on the CPU here."""
    environment = suite.variables(True, tmp_path) | {"CKNCUDA_CPU_STICKY": "nearest_anchor:700"}
    command = [
        sys.executable,
        str(BENCH / "gpu_first.py"),
        "--only",
        "without.*37|without.*colour",
        "--processes",
        "2",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    first = json.loads((tmp_path / "first.json").read_text())
    assert {unit: found["passed"] for unit, found in first.items()} == {
        "encode:cupy, float32 without tensor cores:colour": True,
        "k-means:cupy, float32 without tensor cores:37": False,
        "pairs:cupy, float32 without tensor cores:colour, two layers": True,
    }
    assert "cudaErrorIllegalAddress" in first["k-means:cupy, float32 without tensor cores:37"]["said"]
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "2 of 3 well")
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert again.stdout.splitlines() == ["2 of 3 well"]  # nothing is done again
