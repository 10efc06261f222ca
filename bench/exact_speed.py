"""Time of an exact kernel per pair of images on a CPU: compiled, in plain NumPy, and by the definition.

    python bench/exact_speed.py IMAGES [--turns 7]

IMAGES are colour images of 32x32, in any form that `ckn` reads; 16 of them are compared with 16 others,
on one thread.  The contenders take turns, so that a machine whose speed drifts treats them alike, and the
median counts.  Then the same with all cores at once.
"""

import argparse
import platform
import statistics
import time
from pathlib import Path

import numpy as np

from ckncuda import ArcCosine, Exponential, LayerSpec
from ckncuda.backend.numpy import NumpyBackend, available_threads
from ckncuda.backend.operations import NormedMaps
from ckncuda.backend.reference import ReferenceBackend
from ckncuda.data import open_images
from ckncuda.images.preprocess import suggested_preprocessing
from ckncuda.images.preprocessed import PreprocessedImages, fit_preprocessing

IMAGES = 16
TITLES = {
    "compiled": "with `fast`, float32",
    "plain": "plain NumPy, float32",
    "double": "plain NumPy, float64",
    "reference": "by the definition, float64",
}


def layers(kernel, *subsamplings):
    """Make layers of 3x3 patches."""
    return [LayerSpec(1, 3, s, kernel, alignment="valid") for s in subsamplings]


KERNELS = {
    "exp 0.6, 2-5": (layers(Exponential(sigma=0.6), 2, 5), False),
    "exp 0.6, 2-2-2": (layers(Exponential(sigma=0.6), 2, 2, 2), False),
    "ReLU (arccos1), 2-5": (layers(ArcCosine(1), 2, 5), False),
    "neural tangent, 2-5": (layers(ArcCosine(1), 2, 5), True),
}


def cpu():
    """Return the processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def contender(name, threads):
    """Return a backend and the type it computes in."""
    if name == "reference":
        return ReferenceBackend(), np.float64
    backend = NumpyBackend(threads=threads, compiled=name == "compiled")
    return backend, np.float64 if name == "double" else np.float32


def measured(name, images, kernel, threads, count):
    """Measure milliseconds a pair, from images whose norms are known."""
    specs, tangent = kernel
    backend, dtype = contender(name, threads)
    first, second = (
        NormedMaps(maps, backend.patch_norms(maps, specs))
        for maps in (images[:count].astype(dtype), images[-count:].astype(dtype))
    )
    start = time.perf_counter()
    gram = backend.gram_block(first, second, specs, tangent=tangent)
    return (time.perf_counter() - start) / count**2 * 1000, gram


def table(images, turns):
    """Measure all kinds; return the rows of the table."""
    rows = []
    for title, kernel in KERNELS.items():
        times, grams = {name: [] for name in TITLES}, {}
        everything = []
        for turn in range(turns + 1):  # the first one compiles, and warms
            for name in TITLES:
                slow = name == "reference"
                if slow and turn > 1:
                    continue
                seconds, grams[name] = measured(name, images, kernel, 1, 2 if slow else IMAGES)
                if turn > 0:
                    times[name].append(seconds)
            threads = available_threads()
            if turn > 0:
                everything.append(measured("compiled", images, kernel, threads, 2 * IMAGES)[0])
        medians = {name: statistics.median(values) for name, values in times.items()}
        exact = grams["double"]
        error = max(np.abs(grams[name] / exact - 1).max() for name in ("compiled", "plain"))
        rows.append((title, medians, statistics.median(everything), error))
        print(rows[-1], flush=True)
    return rows


def report(rows, command, turns):
    """Return the table, as Markdown."""
    threads = available_threads()
    lines = [
        "# Exact kernels on a CPU: milliseconds a pair of images",
        "",
        f"Made by `{command}`,",
        f"medians of {turns} turns, on {threads} cores ({cpu()}), Python {platform.python_version()}, "
        f"NumPy {np.__version__}.",
        "Images of 32x32x3, patches of 3x3, zero padding, pooling aligned `valid`; on one thread, but for",
        "the last column but one. In brackets, how many times as long as with `fast`. The error is the",
        "largest relative difference of a float32 kernel from the float64 one.",
        "",
        "| layers, subsampling | "
        + " | ".join(TITLES.values())
        + f" | with `fast`, {threads} threads | error |",
        "|" + "---|" * (len(TITLES) + 3),
    ]
    for title, medians, everything, error in rows:
        ours = medians["compiled"]
        cells = [
            f"{value:.2f}" + ("" if name == "compiled" else f" ({value / ours:.1f})")
            for name, value in medians.items()
        ]
        lines.append(f"| {title} | {' | '.join(cells)} | {everything:.2f} | {error:.0e} |")
    return "\n".join(lines) + "\n"


def main():
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "exact_speed.md")
    arguments = parser.parse_args()
    with open_images(str(arguments.images), split="train") as source:
        prepared = PreprocessedImages(source, fit_preprocessing(source, suggested_preprocessing(source)))
        images = np.asarray(prepared.read(0, 4 * IMAGES), np.float32)
    rows = table(images, arguments.turns)
    command = f"python bench/exact_speed.py {arguments.images.name} --turns {arguments.turns}"
    text = report(rows, command, arguments.turns)
    print(text)
    arguments.out.write_text(text)


if __name__ == "__main__":
    main()
