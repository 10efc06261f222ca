"""Rates of the networks S and L at each precision, with their errors: a minute, before all that is long.

Medians of a few runs by CUDA events, images and features on the device; each layer alone, its projection too.

    python bench/gpu/gpu_rates.py             # started by gpu_suite.py, which sets OUT and PYTHONPATH
    python bench/gpu/gpu_rates.py --once      # each layer once, for a profiler: ncu -k regex:encode …
"""

import argparse
import functools
import sys
from typing import Any

import numpy as np
from gpu_bench import cupy_seconds, difference, our_backend
from gpu_plan import CHECKED, FULL, TINY, Subject
from gpu_results import Results, folder_of_results

PRECISIONS = ("float32", "tf32", "bfloat16")
ROUNDS = 5
IMAGES = {"S": 8_192, "L": 2_048}
FEW = 256  # images for a profiler
ERRORS = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 8e-2}  # of features after all layers


def median_seconds(run: Any, rounds: int) -> float:
    """Seconds of a run after one that compiles."""
    cupy_seconds(run)
    return sorted(cupy_seconds(run) for _ in range(rounds))[rounds // 2]


def layer_rates(backend: Any, subject: Subject, maps: Any, rounds: int) -> dict[str, str]:
    """Nanoseconds an image of each layer, and of its projection among them."""
    found = {}
    for number, layer in enumerate(subject.ckn.layers, 1):
        here = maps
        alone = median_seconds(lambda here=here, layer=layer: backend.encode(here, [layer]), rounds)
        maps = backend.encode(here, [layer])
        flat = maps.reshape(-1, maps.shape[3])
        projection = backend.encoder.prepare(layer, here.shape[1:])[1].projection
        product = median_seconds(lambda a=flat, b=projection: backend.gpu.cupy.matmul(a, b), rounds)
        each = 1e9 / len(here)
        found[f"layer {number}"] = f"{each * alone:.0f} ns (projection {each * product:.0f})"
    return found


def rate(subject: Subject, precision: str, n: int, rounds: int) -> dict[str, Any]:
    """Rates and error of a network at a precision."""
    backend, layers = our_backend(precision), subject.ckn.layers
    maps = backend.asarray(subject.images[:n])
    seconds = median_seconds(lambda: backend.encode(maps, layers), rounds)
    off = difference(backend.encode(maps[:CHECKED], layers), subject.reference[: min(n, CHECKED)])
    return {
        "passed": off <= ERRORS[precision],
        "rate": f"{n / seconds:,.0f} images/s",
        "each": f"{1e9 * seconds / n:.0f} ns",
        **layer_rates(backend, subject, maps, rounds),
        "error": f"{off:.1e}",
    }


def main() -> int:
    """Measure what is not known yet; what fails stands in its place."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--once", action="store_true", help="each layer once, few images")
    parser.add_argument("--rehearse", action="store_true", help="tiny, once")
    options = parser.parse_args()
    networks = dict(zip(IMAGES, (TINY if options.rehearse else FULL).networks, strict=False))
    units = {
        f"{name}, {p}": (name, p) for name in IMAGES for p in PRECISIONS[: 1 if options.rehearse else None]
    }
    if options.once:
        for name, precision in units.values():
            subject = Subject(networks[name])
            backend = our_backend(precision)
            backend.encode(backend.asarray(subject.images[:FEW]), subject.ckn.layers)
        return 0
    subjects = {name: Subject(network) for name, network in networks.items()}

    def rate_of(name: str, precision: str) -> dict[str, Any]:
        n, rounds = (2, 1) if options.rehearse else (IMAGES[name], ROUNDS)
        return rate(subjects[name], precision, n, rounds)

    rates = {unit: functools.partial(rate_of, *pair) for unit, pair in units.items()}
    return Results(folder_of_results() / "rates.json").find(rates)


if __name__ == "__main__":
    np.seterr(all="ignore")
    sys.exit(main())
