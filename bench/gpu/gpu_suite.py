"""Everything that wants a GPU, in one command (`make gpu`): parity, memory and races, measurements.

Runs the parity suite on the device, NVIDIA's compute-sanitizer on small shapes, and `bench/gpu/gpu.py`;
within nine minutes, without a network. A step that fails does not keep the next from running. What was found
is printed and written to ``bench/results/gpu_checks.md``; the measurements to ``gpu.md`` and ``gpu.json``.

    python bench/gpu/gpu_suite.py             # on a machine with a GPU
    python bench/gpu/gpu_suite.py --rehearse  # without: the CPU executes the kernels, and nothing is written
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ckncuda.backend.cupy import why_unavailable

ROOT = Path(__file__).resolve().parents[2]
CHECKS = ROOT / "bench" / "results" / "gpu_checks.md"
ON_DEVICE = ["images", "exact", "classifier", "model"]  # rooms
PARITY = ["tests/parity", "tests/backend", *(f"tests/{room}" for room in ON_DEVICE), "tests/cli/test_cupy.py"]
BENCHMARK_SECONDS = 300


@dataclass(frozen=True)
class Step:
    """One command, and how long it may take."""

    name: str
    command: list[str]
    limit: float


@dataclass(frozen=True)
class Outcome:
    """How a step ended."""

    name: str
    verdict: str
    seconds: float
    passed: bool


def steps(rehearse: bool) -> list[Step]:
    """The commands in their order; a rehearsal takes less of each."""
    python, cases = sys.executable, str(ROOT / "tests" / "kernel_cases.py")
    parity = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "cupy or on_device", *PARITY]
    if rehearse:
        return [
            Step("parity", [*parity[: -len(PARITY)], "tests/parity/test_parity_golden.py"], 120),
            Step("small shapes", [python, cases], 120),
            Step("measurements", [python, "bench/gpu/gpu.py", "--rehearse"], 120),
        ]
    sanitizer = shutil.which("compute-sanitizer") or "compute-sanitizer"
    checked = [
        Step(tool, [sanitizer, "--tool", tool, "--error-exitcode", "9", python, cases], 90)
        for tool in ("memcheck", "racecheck")
    ]
    measured = [python, "bench/gpu/gpu.py", "--seconds", str(BENCHMARK_SECONDS)]
    return [Step("parity", parity, 180), *checked, Step("measurements", measured, BENCHMARK_SECONDS + 60)]


def variables(rehearse: bool) -> dict[str, str]:
    """Of the steps; a rehearsal's find the stand-in for CuPy."""
    tests = str(ROOT / "tests")
    found = dict(os.environ)
    if rehearse:
        sys.path.insert(0, tests)
        from cuda_on_cpu import environment

        found = environment.environment()
    paths = [tests, *filter(None, [found.get("PYTHONPATH")])]
    return found | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def run(step: Step, rehearse: bool) -> Outcome:
    """Run a step, its output shown as it comes."""
    print(f"\n== {step.name}: {' '.join(step.command)}", flush=True)
    start, tail = time.monotonic(), ""
    try:
        with subprocess.Popen(
            ["timeout", "-k", "10", str(step.limit), *step.command],
            cwd=ROOT, env=variables(rehearse), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as process:  # fmt: skip
            for line in process.stdout or ():
                print(line, end="", flush=True)
                if not line.startswith("|"):  # a table is no summary
                    tail = line.strip() or tail
        code = process.returncode
    except OSError as error:
        return Outcome(step.name, f"could not be started: {error}", time.monotonic() - start, False)
    seconds = time.monotonic() - start
    if code == 124:
        return Outcome(step.name, f"stopped after {step.limit:.0f} s", seconds, False)
    words = re.sub(r"^=+ ?| ?=+$", "", tail)
    return Outcome(step.name, words if code == 0 else f"failed ({code}): {words}", seconds, code == 0)


def table(outcomes: list[Outcome]) -> str:
    """Outcomes in Markdown."""
    rows = [f"| {o.name} | {'yes' if o.passed else 'NO'} | {o.verdict} | {o.seconds:.0f} |" for o in outcomes]
    return "\n".join(["| step | passed | what it said | s |", "|---|---|---|---|", *rows]) + "\n"


def main() -> int:
    """Run all steps; 0 if all passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="as far as it goes without a GPU")
    rehearse = parser.parse_args().rehearse
    if not rehearse and (reason := why_unavailable()):
        print(f"There is no GPU to run on: {reason}\nWithout one: python bench/gpu/gpu_suite.py --rehearse")
        return 2
    outcomes = []
    for step in steps(rehearse):
        outcomes.append(run(step, rehearse))
        if not rehearse:
            CHECKS.write_text("# Checks on a GPU\n\nMade by `make gpu`.\n\n" + table(outcomes))
    print("\n" + table(outcomes))
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
