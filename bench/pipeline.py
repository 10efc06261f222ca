"""The whole job with one network and ridge, stage by stage, and the memory of many images beside few.

    python bench/pipeline.py DIR [--plain-python PYTHON]      DIR holds Xtr.csv, Ytr.csv and Xte.csv

Runs `ckn fit`, `ckn predict` and `ckn extract` as processes of their own with this interpreter and,
where one is named, with another that lacks the extra `fast`; they take turns, and medians count.  The
seconds of the stages are those that the commands report.  What the process took beyond them is called
starting: Python, imports, and ending.  Each interpreter extracts a few features before, so that
compilation, which happens once after an installation, does not count.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from challenge import machine, run

from ckncuda.data import open_images

STAGES = ("starting", "reading", "preprocessing", "anchors", "features", "classifier", "writing", "all")
SYSTEM = (
    "--preprocess none --layer filters=64,patch=3,subsampling=2,sigma=0.6 "
    "--layer filters=1024,patch=3,subsampling=6,sigma=0.6"
)
FEW, MANY = 2_000, 20_000  # images whose features are extracted


class Runs:
    """Seconds of the stages and peak memory of runs of one command with one interpreter."""

    def __init__(self):
        self.seconds = []
        self.memory = []

    def add(self, python, *arguments):
        """Run `ckn` with these arguments once more."""
        result, wall, memory = run(*arguments, python=python)
        reported = result["seconds"]
        self.seconds.append(reported | {"starting": wall - reported["total"], "all": wall})
        # A child's peak begins with what its parent held.
        if memory <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:
            raise SystemExit("this script takes more memory than the command that it measures")
        self.memory.append(memory)

    def median(self, stage):
        """Return the seconds of a stage."""
        return statistics.median(seconds[stage] for seconds in self.seconds)

    def median_memory(self):
        """Return the peak in MiB."""
        return statistics.median(self.memory)


def interpreters(plain):
    """Return names for the table, and interpreters: this one and, where it is named, one without Numba."""
    found = {}
    for python in filter(None, (sys.executable, plain)):
        code = "from ckncuda.backend.numpy import has_numba; print(has_numba())"
        answer = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        if answer.returncode:
            raise SystemExit(f"{python} has no ckncuda: {answer.stderr.strip()}")
        found["with `fast`" if answer.stdout.strip() == "True" else "without `fast`"] = python
    if plain and len(found) == 1:
        raise SystemExit("--plain-python must be an interpreter without Numba, and this one must have it")
    return found


def write_images(folder, out):
    """Write few and many images of Xte.csv as .npy, again and again the same; how many each file holds."""
    with open_images(folder / "Xte.csv") as source:
        images = source.read(0, min(FEW, len(source)))
    files = {n: out / f"{n}.npy" for n in (20, FEW, MANY)}
    for n, path in files.items():
        with open(path, "wb") as file:
            header = {"descr": images.dtype.str, "fortran_order": False, "shape": (n, *images.shape[1:])}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, n, len(images)):
                file.write(images[: n - start].tobytes())
    return files


def measure(folder, pythons, rounds, fit_rounds, memory):
    """Run each command; return the runs by interpreter, those of extract by number of images, too."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        files = write_images(folder, out)
        models = {name: out / f"{number}.ckn" for number, name in enumerate(pythons)}
        fit, predict, extract = {}, {}, {}
        for name, python in pythons.items():
            run("fit", files[20], "-o", models[name], "--patches", 2000, python=python)
        for _ in range(fit_rounds):
            for name, python in pythons.items():
                images = (folder / "Xtr.csv", "--labels", folder / "Ytr.csv", *SYSTEM.split())
                fit.setdefault(name, Runs()).add(python, "fit", *images, "-o", models[name])
                print("fit", name, fit[name].seconds[-1], flush=True)
        for _ in range(rounds):
            for name, python in pythons.items():
                predict.setdefault(name, Runs()).add(
                    python, "predict", models[name], folder / "Xte.csv", "-o", out / "y.csv"
                )
                print("predict", name, predict[name].seconds[-1], flush=True)
                for n in (FEW, MANY):
                    runs = extract.setdefault((n, name), Runs())
                    options = ("-o", out / "features.npy", "--memory", memory)
                    runs.add(python, "extract", models[name], files[n], *options)
                    print("extract", n, name, runs.seconds[-1], runs.memory[-1], flush=True)
    return fit, predict, extract


def stage_table(runs):
    """Tabulate seconds of each stage and its share of all, a pair of columns for each interpreter."""
    lines = [
        "| stage | " + " | ".join(f"{name}, s | share" for name in runs) + " |",
        "|---|" + "---|---|" * len(runs),
    ]
    some = next(iter(runs.values()))
    for stage in (stage for stage in STAGES if stage in some.seconds[0]):
        cells = [f"{r.median(stage):.2f} | {r.median(stage) / r.median('all'):.1%}" for r in runs.values()]
        lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    cells = [f"{r.median_memory():.0f} MiB | " for r in runs.values()]
    return [*lines, "| peak memory | " + " | ".join(cells) + " |"]


def extract_table(runs, names):
    """Tabulate seconds and peak memory for few and for many images."""
    lines = [
        "| images | " + " | ".join(f"{name}, s | peak memory, MiB" for name in names) + " |",
        "|---|" + "---|---|" * len(names),
    ]
    for n in (FEW, MANY):
        cells = [f"{runs[n, name].median('all'):.1f} | {runs[n, name].median_memory():.0f}" for name in names]
        lines.append(f"| {n:,} | " + " | ".join(cells) + " |")
    return lines


def main():
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plain-python", help="an interpreter that has ckncuda without Numba")
    parser.add_argument("--rounds", type=int, default=5, help="of predict and extract")
    parser.add_argument("--fit-rounds", type=int, default=1)
    parser.add_argument("--memory", default="2GiB", help="for extract")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(__file__).parent / "results" / "pipeline.md"
    )
    arguments = parser.parse_args()
    pythons = interpreters(arguments.plain_python)
    fit, predict, extract = measure(
        arguments.folder, pythons, arguments.rounds, arguments.fit_rounds, arguments.memory
    )
    lines = [
        "# The whole job on CPUs",
        "",
        f"Made by `python bench/pipeline.py DIR` on {machine()}.",
        f"Whole processes, medians of {arguments.rounds} runs; of fit, {arguments.fit_rounds}. Starting is "
        "Python, imports and ending.",
        "",
        f"## `ckn fit Xtr.csv --labels Ytr.csv {SYSTEM} -o model.ckn`",
        "",
        *stage_table(fit),
        "",
        "## `ckn predict model.ckn Xte.csv -o Yte.csv`",
        "",
        *stage_table(predict),
        "",
        f"## `ckn extract model.ckn IMAGES.npy -o FEATURES.npy --memory {arguments.memory}`",
        "",
        *extract_table(extract, pythons),
    ]
    arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
