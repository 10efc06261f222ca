"""Seconds of `ckn extract` by its --threads, up to many more than there are cores.

    python bench/threads.py CIFAR.npz [--images 2000] [--rounds 5]

Threads of BLAS turn round while they wait, and more of them than cores keep one another from work. The
numbers of threads take turns, each in a process of its own, and medians count. Writes
bench/results/threads.md.
"""

import argparse
import os
import platform
import statistics
import tempfile
from pathlib import Path

import numpy as np
from challenge import run

RESULT = Path(__file__).parent / "results" / "threads.md"
THREADS = (1, 2, 3, 4, 8, 16)
NETWORK = (
    *("--layer", "filters=64,patch=3,subsampling=2,sigma=0.6"),
    *("--layer", "filters=256,patch=3,subsampling=6,sigma=0.6"),
    *("--preprocess", "local_whitening", "--patches", "100000"),
)


def measure(images, rounds):
    """Return, for each number of threads, the medians of seconds in all and of preprocessing."""
    seconds = {threads: [] for threads in THREADS}
    with tempfile.TemporaryDirectory() as folder:
        data, model, features = (os.path.join(folder, name) for name in ("x.npy", "m.ckn", "f.npy"))
        np.save(data, images)
        run("fit", data, "-o", model, *NETWORK)
        for _ in range(rounds):
            for threads in THREADS:
                told = run("extract", model, data, "-o", features, "--threads", threads)[0]["seconds"]
                seconds[threads].append((told["total"], told["preprocessing"]))
    return {
        threads: [statistics.median(column) for column in zip(*found, strict=True)]
        for threads, found in seconds.items()
    }


def table(medians, images, rounds):
    """Return the page."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    best = min(total for threads, (total, _) in medians.items() if threads > 1)
    rows = [
        f"| {threads} | {total:.2f} | {preprocessing:.2f} | {total / best:.2f} |"
        for threads, (total, preprocessing) in medians.items()
    ]
    return "\n".join(
        [
            "# Threads, and more of them than cores",
            "",
            f"Made by `python bench/threads.py`, medians of {rounds} turns, on {cores} cores,",
            f"Python {platform.python_version()}, NumPy {np.__version__}: `ckn extract` of",
            f"{images:,} images of CIFAR-10 with local whitening and a network of 64 and 256 filters.",
            "",
            "| --threads | seconds | of which preprocessing | over the best with several |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="an npz file of CIFAR images, under any name")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with np.load(arguments.data) as held:
        images = next(array for array in held.values() if array.ndim == 4)[: arguments.images]
    page = table(measure(images, arguments.rounds), len(images), arguments.rounds)
    RESULT.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
