"""Seconds of an iteration of spherical k-means: ours beside scikit-learn's k-means and plain NumPy.

    python bench/kmeans.py IMAGES [--patches 1000000] [--rounds 5]      needs the extra `bench`

The patches are those of IMAGES, anything that ckn reads, and of their maps by a layer of 64 filters.
Each contender is a process of its own; they take turns, so that a machine whose speed drifts treats
them alike, and the median counts.  All begin with the same centres among the same unit vectors in
float32 and use all cores.  scikit-learn runs Lloyd's algorithm with Euclidean distances, which on unit
vectors takes the same products and the same means.  The seconds of an iteration are those that five
iterations take longer than one, over four: what happens once for each fit counts for nobody.  A fit
that stops early is an error.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from challenge import machine
from extract import matrix_rate

SIZES = [(0, 256), (0, 1024), (1, 256), (1, 1024)]  # layers before the patches, clusters
BYTES = 1 << 30  # of patches: as many as `ckn fit` takes by default
FEW, MANY = 1, 5  # iterations
BLOCK = 1 << 16  # patches at a time in plain NumPy, whose products would not fit otherwise
OURS, SKLEARN, PLAIN = CONTENDERS = ("ours", "scikit-learn", "NumPy")
PRODUCT = "matrix product"


def patches_of(images, n, layers):
    """Draw patches [n, d] of norm 1 at random places of images, or of their maps by a first layer."""
    from ckncuda import CKN, Exponential, LayerSpec
    from ckncuda.network.anchors import normalized, patches_at

    spec = LayerSpec(filters=64, patch=3, subsampling=2, kernel=Exponential(sigma=0.6))
    maps = CKN([spec]).fit(images, patches=100_000).transform(images) if layers else images
    rng = np.random.default_rng(0)
    height, width, _ = spec.map_shape(maps.shape[1:])
    image = np.sort(rng.integers(len(maps), size=n))
    return normalized(
        patches_at(maps, spec, image, rng.integers(height, size=n), rng.integers(width, size=n))
    )


def our_run(patches, k):
    """Return a function that does so many iterations: the centres, and how many it did."""
    from ckncuda.backend.numpy import NumpyBackend
    from ckncuda.network.anchors import spherical_kmeans

    backend = NumpyBackend()

    def run(iterations):
        done = []
        centres = spherical_kmeans(
            patches, k, backend, np.random.default_rng(1), iterations, lambda _, i, __: done.append(i)
        )
        return centres, done[-1]

    return run


def first_centres(patches, k):
    """Return the centres with which `spherical_kmeans` begins in `our_run`."""
    return patches[np.sort(np.random.default_rng(1).choice(len(patches), k, replace=False))]


def sklearn_run(patches, k):
    """Return the same for scikit-learn."""
    from sklearn.cluster import KMeans

    first = first_centres(patches, k)

    def run(iterations):
        fitted = KMeans(
            k, init=first, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd", copy_x=False
        ).fit(patches)
        return fitted.cluster_centers_, fitted.n_iter_

    return run


def plain_run(patches, k):
    """Return the same for NumPy: a threaded product, argmax, and sums of sorted rows, block by block."""
    first = first_centres(patches, k)

    def run(iterations):
        centres = first
        for _ in range(iterations):
            sums = np.zeros_like(centres)
            for start in range(0, len(patches), BLOCK):
                block = patches[start : start + BLOCK]
                nearest = (block @ centres.T).argmax(axis=1)
                order = np.argsort(nearest, kind="stable")
                found, begin = np.unique(nearest[order], return_index=True)
                sums[found] += np.add.reduceat(block[order], begin)
            norms = np.linalg.norm(sums, axis=1)[:, None]
            centres = np.where(norms > 0, sums / np.maximum(norms, 1e-30), centres)
        return centres, iterations

    return run


def mean_cosine(patches, centres):
    """Return the mean cosine of some patches to the nearest centre: contenders should learn the same."""
    centres = centres / np.linalg.norm(centres, axis=1)[:, None]
    return float((patches[:10_000] @ centres.T).max(axis=1).mean())


def worker(contender, path, k):
    """Answer each line of standard input with the seconds of an iteration."""
    if contender == PRODUCT:
        print("ready", flush=True)
        for _ in sys.stdin:
            print(matrix_rate(), flush=True)
        return
    patches = np.load(path)
    run = {OURS: our_run, SKLEARN: sklearn_run, PLAIN: plain_run}[contender](patches, k)

    def seconds(iterations):
        began = time.perf_counter()
        _, done = run(iterations)
        if done != iterations:
            raise SystemExit(f"{contender} stopped after {done} of {iterations} iterations")
        return time.perf_counter() - began

    print(mean_cosine(patches, run(MANY)[0]), flush=True)
    for _ in sys.stdin:
        few = seconds(FEW)
        print((seconds(MANY) - few) / (MANY - FEW), flush=True)


def start(contender, path, k):
    """Start a worker process and let it warm up; return it and its first line."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    # scikit-learn would otherwise take one thread for two cores that share their arithmetic units.
    environment["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))
    process = subprocess.Popen(
        [sys.executable, __file__, "--worker", contender, path, str(k)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    return process, answer(contender, process)


def answer(contender, process):
    """Read the next line of a worker."""
    line = process.stdout.readline().strip()
    if not line:
        raise SystemExit(f"{contender} did not answer")
    return line


def measure(path, k, rounds):
    """Measure seconds of an iteration and mean cosine of each contender, and GFLOP/s of the product."""
    workers = {c: start(c, path, k) for c in (*CONTENDERS, PRODUCT)}
    answers = {c: [] for c in workers}
    for _ in range(rounds):
        for contender, (process, _) in workers.items():
            process.stdin.write("\n")
            process.stdin.flush()
            answers[contender].append(float(answer(contender, process)))
    for process, _ in workers.values():
        process.stdin.close()
        process.wait()
    seconds = {c: statistics.median(answers[c]) for c in CONTENDERS}
    return seconds, {c: float(workers[c][1]) for c in CONTENDERS}, max(answers[PRODUCT])


def row(path, k, rounds):
    """Return one line of the table, for the patches in a file."""
    seconds, cosines, product = measure(path, k, rounds)
    n, d = np.load(path, mmap_mode="r").shape
    rates = {c: 2e-9 * n * d * k / seconds[c] for c in CONTENDERS}
    cells = [f"{n:,} of {d}", f"{k:,}", f"{product:.0f}"]
    cells += [f"{seconds[c]:.3f} s, {rates[c]:.0f} GFLOP/s ({rates[c] / product:.0%})" for c in CONTENDERS]
    cells += [f"{seconds[OURS] / seconds[c]:.2f}" for c in (SKLEARN, PLAIN)]
    cells.append(", ".join(f"{cosines[c]:.4f}" for c in CONTENDERS))
    return "| " + " | ".join(cells) + " |"


def main():
    """Measure every size and write the table."""
    from ckncuda.backend.numpy import NumpyBackend
    from ckncuda.data import open_images

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="?")
    parser.add_argument("--patches", type=int, default=1_000_000, help="at most; fewer where they are large")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "kmeans.md")
    arguments = parser.parse_args()
    if arguments.worker:
        contender, path, k = arguments.worker
        worker(contender, path, int(k))
        return
    if arguments.images is None:
        parser.error("IMAGES are needed, such as the Xtr.csv of the challenge")
    if arguments.patches < max(k for _, k in SIZES):
        parser.error("--patches must be as many as the clusters, or more")
    lines = [
        "# Spherical k-means on CPUs",
        "",
        f"Made by `python bench/kmeans.py {Path(arguments.images).name} --patches {arguments.patches}`,",
        f"medians of {arguments.rounds} turns, on {machine()}, scikit-learn {version('scikit-learn')}.",
        f"Ours: {NumpyBackend().description}.",
        "Seconds are those of one iteration, assignments and means, and GFLOP/s count 2·n·d·k for it;",
        "in brackets, what part that is of NumPy's single-precision product, at best between the turns.",
        "More than all of it means that most products were ruled out beforehand, by bounds on them.",
        f"Patches of {BYTES >> 30} GiB are taken at most.",
        "",
        "| patches | clusters | product, GFLOP/s | ours | scikit-learn | NumPy "
        "| ours over scikit-learn, seconds | ours over NumPy | mean cosine: ours, scikit-learn, NumPy |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    with open_images(arguments.images) as source, tempfile.TemporaryDirectory() as folder:
        images = source.read(0, source.shape[0]).astype(np.float32)
        for layers, k in SIZES:
            d = 9 * (64 if layers else images.shape[3])
            path = str(Path(folder) / f"{layers}.npy")
            if not os.path.exists(path):
                np.save(path, patches_of(images, min(arguments.patches, BYTES // (4 * d)), layers))
            lines.append(row(path, k, arguments.rounds))
            print(lines[-1], flush=True)
    arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
