"""Everything that wants a GPU, in one command (`make gpu`), so that nothing that was found can be lost.

Steps in their order: facts about the machine; every kernel once, a process each; rates of two networks
with their errors; probes of the hardware; the benchmark; the parity suite; NVIDIA's sanitizers. Each writes
what it finds as it finds it, to files in the output folder that are whole at every moment. The same command
again goes on where the last one ended, however that was: what is done is not done again.

    python bench/gpu/gpu_suite.py --out FOLDER   # or the environment variable OUT; --seconds of this command
    python bench/gpu/gpu_suite.py --rehearse     # without a GPU: the CPU executes the kernels, tiny sizes

It runs from the checkout with the Python that is there: nothing is installed, no network is needed.
Ends with 0 if all is well, 1 if something failed, 2 if there is no GPU to run on, 3 if steps are left.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gpu_results import AGAIN, Results, end_with_parent, write_whole

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
TESTS = ROOT / "tests"
ON_DEVICE = ["images", "exact", "classifier", "model"]  # rooms
PARITY = ["tests/parity", "tests/backend", *(f"tests/{room}" for room in ON_DEVICE), "tests/cli/test_cupy.py"]
WORKERS = 12
COMMAND_SECONDS = 540  # of a command that may take ten minutes; all limits fit two of them
GRACE = 5  # seconds that a step has to end once it was asked to
NO_GPU, TIME_IS_UP = 2, 3


@dataclass(frozen=True)
class Step:
    """One command, how long it may take in all, and the least that is worth beginning."""

    name: str
    command: list[str]
    limit: float
    least: float = 10


def steps(rehearse: bool, out: Path) -> list[Step]:
    """The commands in their order; a rehearsal takes less of each."""
    python, tiny = sys.executable, ["--rehearse"] if rehearse else []

    def ours(name: str, *options: str) -> list[str]:
        return [python, str(HERE / f"gpu_{name}.py"), *options]

    files = ["-o", str(out / "gpu.md"), "--json", str(out / "gpu.json"), "--resume"]
    first = ["--only", "37|colour", "--processes", "2"] if rehearse else []
    found = [
        Step("facts", ours("facts"), 20),
        Step("every kernel once", ours("first", *first), 110, 30),
        Step("rates", ours("rates", *tiny), 75, 20),
    ]
    benchmark = [python, str(HERE / "gpu_measure.py"), *files, *tiny, "--seconds", "{seconds}"]
    measured = Step("benchmark", benchmark, 255, 60)
    parity = [
        python,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "gpu_parity",
        "-k",
        "cupy or on_device",
    ]
    if importlib.util.find_spec("xdist"):
        parity += ["-n", str(2 if rehearse else WORKERS), "--max-worker-restart", "100"]
    checked = ["tests/parity/test_parity_golden.py"] if rehearse else PARITY
    found_by_tests = Step("parity", [*parity, *checked], 150, 30)
    cases = [python, str(TESTS / "kernel_cases.py")]
    if rehearse:
        return [*found, measured, found_by_tests]
    tool = shutil.which("compute-sanitizer") or "compute-sanitizer"
    # CuPy asks for attributes that a device may not have: that is no error of ours.
    quiet = ["--report-api-errors", "no", "--error-exitcode", "9"]
    return [
        *found,
        Step("probes", ours("probe"), 40),
        measured,
        found_by_tests,
        *(Step(name, [tool, "--tool", name, *quiet, *cases], 60, 40) for name in ("memcheck", "racecheck")),
    ]


def package_in(folder: Path) -> Path:
    """Return a folder to import ckncuda from as if it were installed: links to the checkout."""
    package = folder / "python" / "ckncuda"
    package.mkdir(parents=True, exist_ok=True)
    places = {path.name: path for path in (ROOT / "ckncuda").iterdir() if path.name != "__pycache__"}
    for name, path in {**places, "kernels": ROOT / "kernels", "cli": ROOT / "cli"}.items():
        link = package / name
        if not (link.is_symlink() and link.resolve() == path.resolve()):
            with contextlib.suppress(FileNotFoundError):
                link.unlink()
            link.symlink_to(path)
    return package.parent


def variables(rehearse: bool, out: Path) -> dict[str, str]:
    """Those of the steps; a rehearsal's find the stand-in for CuPy."""
    found = dict(os.environ)
    if rehearse:
        sys.path.insert(0, str(TESTS))
        from cuda_on_cpu import environment

        found = environment.environment()
    paths = [str(package_in(out)), str(TESTS), str(HERE), str(HERE.parent), found.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1", "OUT": str(out)}
    return found | own


def digest_of_sources() -> str:
    """Return what distinguishes this checkout from others."""
    digest = hashlib.sha256()
    for top in ("ckncuda", "kernels", "cli", "tests", "bench/gpu"):
        for path in sorted((ROOT / top).rglob("*")):
            if path.suffix in (".py", ".cu", ".cuh", ".h", ".json"):
                digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Let no second sequence write to the same folder."""
    import fcntl

    out.mkdir(parents=True, exist_ok=True)
    with (out / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(
                f"another sequence writes to {out}: wait for it, or give another --out"
            ) from None
        yield


def run(step: Step, limit: float, environment: dict[str, str], log: Path) -> tuple[int | None, str]:
    """Run a step, its output shown and kept as it comes; return its status (None: stopped) and last line."""
    command = [
        part.format(seconds=max(1, int(limit - GRACE))) if part == "{seconds}" else part
        for part in step.command
    ]
    print(f"\n== {step.name}, up to {limit:.0f} s: {' '.join(command)}", flush=True)
    end, tail = time.monotonic() + limit, b""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    with (
        log.open("ab", buffering=0) as kept,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, start_new_session=True, preexec_fn=end_with_parent, **pipes
        ) as process,
        selectors.DefaultSelector() as selector,
    ):
        selector.register(process.stdout, selectors.EVENT_READ)
        stopped = False
        while True:
            if not selector.select(max(0.0, end - time.monotonic())):
                stop(process, signal.SIGKILL if stopped else signal.SIGTERM)
                end, stopped = time.monotonic() + GRACE, True
                continue
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                break
            kept.write(piece)
            sys.stdout.buffer.write(piece)
            sys.stdout.flush()
            tail = (tail + piece)[-4096:]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        stop(process, signal.SIGKILL)  # what it has started, too
        status = process.wait()
    lines = [line.strip() for line in tail.decode(errors="replace").splitlines()]
    said = [line for line in lines if line and not line.startswith("|")]  # a table is no summary
    return None if stopped else status, re.sub(r"^=+ ?| ?=+$", "", said[-1]) if said else ""


def stop(process: "subprocess.Popen[bytes]", how: signal.Signals) -> None:
    """Send a signal to all processes of a step."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, how)


def table(results: Results) -> str:
    """How the steps ended, in Markdown."""
    rows = [
        f"| {name} | {'yes' if found['passed'] else 'NO' if found['done'] else 'not yet'} "
        f"| {found['said'].replace('|', '/')} | {found['seconds']:.0f} |"
        for name, found in results.units.items()
        if name != "sources"
    ]
    head = ["# Checks on a GPU", "", "Made by `make gpu`.", ""]
    return "\n".join([*head, "| step | passed | what it said | s |", "|---|---|---|---|", *rows]) + "\n"


def take(step: Step, results: Results, left: float, environment: dict[str, str], out: Path) -> bool:
    """Begin a step or go on with it, in what time is left; return whether it is done."""
    before = results.units.get(step.name, {}).get("seconds", 0.0)
    limit, start = min(step.limit - before, left), time.monotonic()
    try:
        status: int | None = AGAIN
        while status == AGAIN:  # it lost the GPU, noted by what, and goes on after that in a new process
            rest = limit - (time.monotonic() - start)
            status, said = run(step, rest, environment, out / f"{step.name.replace(' ', '_')}.log")
    except OSError as error:
        status, said = 127, f"could not be started: {error}"
    seconds = before + time.monotonic() - start
    done = status is not None or seconds >= step.limit - 1
    if status is None:
        said = f"stopped after {seconds:.0f} s" + (f": {said}" if said else "")
    elif status:
        said = f"failed ({status}): {said}"
    found = {"passed": status == 0, "done": done, "said": said, "seconds": round(seconds, 1)}
    if status is not None:
        found["status"] = status
    results.keep(step.name, found)
    write_whole(out / "gpu_checks.md", table(results))
    return done


def sequence(options: argparse.Namespace, all_steps: list[Step]) -> int:
    """Take the steps that are left, as many as there is time for."""
    start, out = time.monotonic(), options.out
    results = Results(out / "steps.json")
    sources = {"digest": digest_of_sources(), "rehearsal": options.rehearse}
    if results.units.get("sources", sources) != sources:
        raise SystemExit(f"{out} holds results of other sources, or of a rehearsal: give another --out")
    results.keep("sources", sources)
    environment = variables(options.rehearse, out)
    for step in all_steps:
        if results.units.get(step.name, {}).get("done"):
            continue
        left = options.seconds - (time.monotonic() - start)
        if left < min(step.least, step.limit) or not take(step, results, left, environment, out):
            break
        if step.name == "facts" and results.units[step.name].get("status") == NO_GPU and not options.rehearse:
            results.units.pop(step.name)  # asked again where there is one
            write_whole(results.path, "{}\n")
            print(f"\nThere is no GPU to run on: see {out / 'facts.json'}. Without one: --rehearse")
            return NO_GPU
    print("\n" + table(results), flush=True)
    rest = [step.name for step in all_steps if not results.units.get(step.name, {}).get("done")]
    if rest:
        print(f"Time is up; left: {', '.join(rest)}. The same command again goes on: --out {out}")
        return TIME_IS_UP
    return 0 if all(results.units[step.name]["passed"] for step in all_steps) else 1


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The options; a rehearsal writes to a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the results [$OUT, or gpu-results]")
    parser.add_argument(
        "--seconds", type=float, default=COMMAND_SECONDS, help=f"of this command [{COMMAND_SECONDS}]"
    )
    parser.add_argument("--rehearse", action="store_true", help="as far as it goes without a GPU")
    options = parser.parse_args(arguments)
    usual = "gpu-rehearsal" if options.rehearse else os.environ.get("OUT") or "gpu-results"
    options.out = (options.out or Path(usual)).absolute()
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run all steps, or what is left of them."""
    options = parsed(arguments)
    with locked(options.out):
        return sequence(options, steps(options.rehearse, options.out))


if __name__ == "__main__":
    sys.exit(main())
