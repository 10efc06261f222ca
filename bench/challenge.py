"""The data challenge: the network of CKN from Scratch with several classifiers, and a baseline.

    python bench/challenge.py DIR                 DIR holds Xtr.csv, Ytr.csv and Xte.csv
    python bench/challenge.py DIR --hold-out 0.2  also: accuracy on images that the whole fit never saw

Runs `ckn fit` and `ckn predict` (and `ckn baseline`) as processes of their own, one after another,
and writes a table as Markdown.  Validation accuracies are those that the commands report.
"""

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import scipy

SYSTEMS = {
    "seed: softmax, λ = 1e-3, L-BFGS": ["--preset", "seed"],
    "seed: softmax, λ = 1e-3, SGD and L-BFGS": ["--preset", "seed", "--optimizer", "sgd"],
    "seed: softmax, λ chosen": ["--preset", "seed", "--regularization", "auto"],
    "seed: ridge": ["--preset", "seed", "--classifier", "ridge"],
}
COLUMNS = ("validation", "how", "fresh", "fit", "predict", "memory")
BASELINE = "baseline: HOG and SVM"


def run(*arguments, python=sys.executable):
    """Return a `ckn` command's JSON, its seconds and its peak memory in MiB."""
    environment = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
    command = [python, "-P", "-m", "ckncuda.cli", *map(str, arguments), "--json"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return json.loads(out), time.perf_counter() - start, usage.ru_maxrss / 1024


def split(folder, fraction, out):
    """Write the training files without a random part of the images, and that part, in the same form."""
    images = (folder / "Xtr.csv").read_bytes().splitlines(keepends=True)
    labels = np.loadtxt(folder / "Ytr.csv", delimiter=",", skiprows=1, dtype=int)[:, 1]
    order = np.random.default_rng(0).permutation(len(images))
    held = int(fraction * len(images))
    for name, rows in (("va", np.sort(order[:held])), ("tr", np.sort(order[held:]))):
        (out / f"X{name}.csv").write_bytes(b"".join(images[i] for i in rows))
        lines = "".join(f"{n},{labels[i]}\n" for n, i in enumerate(rows, 1))
        (out / f"Y{name}.csv").write_text("Id,Prediction\n" + lines)


def measure(folder, options, fresh):
    """Measure one system; return its row of the table."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        fit, fit_seconds, fit_memory = run(
            "fit", folder / "Xtr.csv", "--labels", folder / "Ytr.csv", "-o", out / "m.ckn", *options
        )
        _, predict_seconds, predict_memory = run(
            "predict", out / "m.ckn", folder / "Xte.csv", "-o", out / "y.csv"
        )
        row = {
            "validation": f"{fit['validation_accuracy']:.4f}",
            "how": fit["validation"],
            "fit": f"{fit_seconds:.0f}",
            "predict": f"{predict_seconds:.0f}",
            "memory": f"{max(fit_memory, predict_memory):.0f}",
            "fresh": "",
        }
        if fresh:
            run("fit", fresh / "Xtr.csv", "--labels", fresh / "Ytr.csv", "-o", out / "m.ckn", *options)
            evaluated, _, _ = run("evaluate", out / "m.ckn", fresh / "Xva.csv", "--labels", fresh / "Yva.csv")
            row["fresh"] = f"{evaluated['accuracy']:.4f}"
    return row


def measure_baseline(folder):
    """Measure the HOG baseline; return its row of the table."""
    with tempfile.TemporaryDirectory() as temporary:
        result, seconds, memory = run(
            "baseline", folder / "Xtr.csv", "--labels", folder / "Ytr.csv",
            "--predict", folder / "Xte.csv", "-o", Path(temporary) / "y.csv",
        )  # fmt: skip
    return {
        "validation": f"{result['validation_accuracy']:.4f}",
        "how": result["validation"],
        "fit": f"{seconds:.0f}",
        "predict": "in fit",
        "memory": f"{memory:.0f}",
        "fresh": "",
    }


def machine():
    """Return one line that names processor, cores and versions."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    numba = f"Numba {version('numba')}" if importlib.util.find_spec("numba") else "no Numba"
    return (
        f"{len(os.sched_getaffinity(0))} cores ({model}), Python {platform.python_version()}, "
        f"NumPy {np.__version__}, SciPy {scipy.__version__}, {numba}"
    )


def main():
    """Measure every system and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hold-out", type=float, default=0)
    parser.add_argument("--only", nargs="*", help="systems to run, by the first word of their names")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(__file__).parent / "results" / "challenge.md"
    )
    arguments = parser.parse_args()
    wanted = [
        n for n in [*SYSTEMS, BASELINE] if not arguments.only or any(n.startswith(o) for o in arguments.only)
    ]
    with tempfile.TemporaryDirectory() as temporary:
        fresh = None
        if arguments.hold_out:
            fresh = Path(temporary)
            split(arguments.folder, arguments.hold_out, fresh)
        rows = []
        for name in wanted:
            if name == BASELINE:
                row = measure_baseline(arguments.folder)
            else:
                row = measure(arguments.folder, SYSTEMS[name], fresh)
            rows.append((name, row))
            print(name, row, flush=True)
    lines = [
        "# The network of CKN from Scratch, without training its anchors, and a baseline",
        "",
        f"Made by `python bench/challenge.py DIR --hold-out {arguments.hold_out:g}` on {machine()}.",
        "Seconds are those of whole processes, reading the CSV files included.",
        "",
        "| system | validation accuracy | how it was obtained | accuracy on images held out of everything "
        "| fit, s | predict, s | peak memory, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, r in rows:
        lines.append("| " + " | ".join([name, *(r[c] for c in COLUMNS)]) + " |")
    arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
