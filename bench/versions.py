"""Seconds of two versions of ckncuda side by side: what a change to the code costs or gains.

    python bench/versions.py OTHER_PYTHON IMAGES [--labels LABELS] [--rounds 9] [--other-is NAME]

OTHER_PYTHON is an interpreter in whose environment another version is installed; this one is beside it.
IMAGES are any that `ckn fit` takes.  Each contender of each job is a process of its own; they take turns, so
that a machine whose speed drifts treats them alike, and the medians of the seconds count, as does the median
of the ratios of turns.  Only public names are used, which both versions have.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from extract import IMAGES, NETWORKS, our_run

OURS, OTHER = "this version", "the other"
JOBS = {
    "extract S, plain": ("extract", "S", "plain"),
    "extract S, with `fast`": ("extract", "S", "compiled"),
    "extract L, plain": ("extract", "L", "plain"),
    "extract L, with `fast`": ("extract", "L", "compiled"),
    "anchors of two layers, k-means and all": ("anchors",),
    "exact kernels of 40 images": ("gram",),
}


def job(kind, *options):
    """Return a function without arguments that does the work once."""
    import numpy as np

    if kind == "extract":
        network, form = options
        layers = next(layers for name, layers in NETWORKS.items() if name.startswith(network))
        return our_run(layers, IMAGES[network], form == "compiled")[0]
    from ckncuda import CKN, Exponential, LayerSpec, gram

    specs = [
        LayerSpec(filters=p, patch=3, subsampling=s, kernel=Exponential(sigma=0.6))
        for p, s in ((64, 2), (512, 5))
    ]
    images = np.random.default_rng(0).normal(size=(40 if kind == "gram" else 1000, 32, 32, 3))
    images = images.astype(np.float32)
    if kind == "gram":
        return lambda: gram(images, specs, backend="numpy")
    return lambda: CKN(specs).fit(images, patches=60_000, backend="numpy")


def worker(*options):
    """Answer each line of standard input with seconds."""
    run = job(*options)
    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(time.perf_counter() - start, flush=True)


def environment():
    """Variables for a process, without those that slow NumPy's products."""
    return {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}


def in_workers(options, pythons, rounds):
    """Seconds of each turn of a job, by contender."""
    processes = {}
    for name, python in pythons.items():
        command = [python, __file__, "--worker", *options]
        processes[name] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )
        if processes[name].stdout.readline().strip() != "ready":
            raise SystemExit(f"{python} cannot do the job {' '.join(options)}")
    seconds = {name: [] for name in pythons}
    for _ in range(rounds):
        for name, process in processes.items():
            process.stdin.write("\n")
            process.stdin.flush()
            seconds[name].append(float(process.stdout.readline()))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    return seconds


def whole_commands(images, labels, pythons, rounds, folder):
    """Seconds of each turn of `ckn fit` and `ckn predict` as processes, by contender."""
    seconds = {name: [] for name in pythons}
    for turn in range(rounds + 1):
        for name, python in pythons.items():
            model = str(folder / "model.ckn")
            ckn = [python, "-m", "ckncuda.cli"]
            given = ["--labels", os.path.abspath(labels)] if labels else []
            start = time.perf_counter()
            for command in (
                [*ckn, "fit", os.path.abspath(images), *given, "-o", model],
                [*ckn, "predict", model, os.path.abspath(images), "-o", str(folder / "submission.csv")],
            ):
                subprocess.run(command, check=True, capture_output=True, env=environment(), cwd=folder)
            if turn:  # the first may compile
                seconds[name].append(time.perf_counter() - start)
    return seconds


def row(name, seconds):
    """One line of the table."""
    ours, other = seconds[OURS], seconds[OTHER]
    ratio = statistics.median(a / b for a, b in zip(ours, other, strict=True))
    return f"| {name} | {statistics.median(other):.3f} | {statistics.median(ours):.3f} | {ratio:.3f} |"


def main():
    """Measure all jobs and write the table."""
    from challenge import machine

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", help="an interpreter that has the other version")
    parser.add_argument("images")
    parser.add_argument("--labels")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--other-is", default="another version", help="what the table says of OTHER_PYTHON's")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(__file__).parent / "results" / "versions.md"
    )
    arguments = parser.parse_args()
    pythons = {OTHER: arguments.other, OURS: sys.executable}
    lines = [
        "# Two versions side by side",
        "",
        f"Made by `python bench/versions.py`, medians of {arguments.rounds} turns (whole commands: "
        f"{max(3, arguments.rounds // 3)}), on",
        f"{machine()}. The other: {arguments.other_is}.",
        "",
        f"| job | {OTHER}, s | {OURS}, s | ratio |",
        "|---|---|---|---|",
    ]
    for name, options in JOBS.items():
        lines.append(row(name, in_workers(options, pythons, arguments.rounds)))
        print(lines[-1], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        turns = max(3, arguments.rounds // 3)
        found = whole_commands(arguments.images, arguments.labels, pythons, turns, Path(folder))
    lines.append(row("`ckn fit` and `ckn predict`, whole processes", found))
    print(lines[-1], flush=True)
    arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        with contextlib.suppress(KeyboardInterrupt):
            worker(*sys.argv[2:])
    else:
        main()
