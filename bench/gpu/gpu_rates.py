"""Rates of the networks S and L at each precision, with their errors: a minute, before all that is long.

Medians of a few runs by CUDA events, images and features on the device; each layer alone, its projection too.
Then of their gradients, in float32: what a step of a training takes, each layer alone, and its parts.

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

from ckncuda.backend import get_backend
from ckncuda.backend.any_array.encode_backward import weights_of

PRECISIONS = ("float32", "tf32", "bfloat16")
ROUNDS = 5
IMAGES = {"S": 8_192, "L": 2_048}
FEW = 256  # images for a profiler
GRADIENTS = "gradients"
WAY_BACK_ERROR = 2e-4  # of gradients through all layers
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


def way_back_rates(backend: Any, subject: Subject, maps: Any, rounds: int) -> dict[str, str]:
    """Nanoseconds an image of each layer's way back alone; of its parts, on few images."""
    found = {}
    for number, layer in enumerate(subject.ckn.layers, 1):
        encoded = backend.encode(maps, [layer])
        upstream = backend.gpu.cupy.ones_like(encoded)

        def whole(maps: Any = maps, layer: Any = layer, upstream: Any = upstream) -> Any:
            return backend.encode_backward(maps, [layer], upstream)

        alone = 1e9 * median_seconds(whole, rounds) / len(maps)
        parts = way_back_parts(backend, layer, maps[:FEW], upstream[:FEW], rounds)
        shown = ", ".join(f"{name} {ns:.0f}" for name, ns in parts.items())
        found[f"layer {number}"] = f"{alone:.0f} ns ({shown})"
        maps = encoded
    return found


def way_back_parts(backend: Any, layer: Any, maps: Any, upstream: Any, rounds: int) -> dict[str, float]:
    """Nanoseconds an image of the parts of a layer's way back, by kernels of ours and by cuBLAS."""
    matmul, steps = backend.gpu.cupy.matmul, backend.way_back.steps(layer.spec, maps.shape[1:])
    anchors = weights_of(layer, maps).anchors
    patches, norms = steps.patches(maps)
    products = matmul(patches, anchors.T)
    by_norm = steps.through_kernel(
        products, norms, upstream
    )  # in the place of the products: any numbers will do
    by_patches, out = backend.gpu.cupy.empty_like(patches), backend.gpu.cupy.empty_like(maps)
    runs: dict[str, Any] = {
        "patches": lambda: steps.patches(maps),
        "products": lambda: matmul(patches, anchors.T),
        "κ": lambda: steps.through_kernel(products, norms, upstream),
        "sums": lambda: matmul(products.T, patches),
        "by patches": lambda: matmul(products, anchors, out=by_patches),
        "fold": lambda: steps.fold(by_patches, by_norm, maps, out),
    }
    return {name: 1e9 * median_seconds(run, rounds) / len(maps) for name, run in runs.items()}


def gradients(subject: Subject, n: int, rounds: int) -> dict[str, Any]:
    """Rates and error of a network's gradients by its anchors, as a training asks for them."""
    backend, layers = our_backend("float32"), subject.ckn.layers
    maps = backend.asarray(subject.images[:n])
    upstream = np.random.default_rng(2).standard_normal(backend.encode(maps, layers).shape, np.float32)
    on_device = backend.asarray(upstream)
    seconds = median_seconds(lambda: backend.encode_backward(maps, layers, on_device, by_maps=False), rounds)
    few = slice(0, min(n, CHECKED))
    found = backend.encode_backward(maps[few], layers, upstream[few])[1]
    expected = get_backend("reference").encode_backward(subject.images[few], layers, upstream[few])[1]
    off = max(map(difference, found, expected))
    return {
        "passed": off <= WAY_BACK_ERROR,
        "rate": f"{n / seconds:,.0f} images/s",
        "each": f"{1e9 * seconds / n:.0f} ns",
        **way_back_rates(backend, subject, maps, rounds),
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
    units |= {f"{name}, {GRADIENTS}": (name, GRADIENTS) for name in IMAGES}
    if options.once:
        for name, precision in units.values():
            subject = Subject(networks[name])
            backend = our_backend("float32" if precision == GRADIENTS else precision)
            maps = backend.asarray(subject.images[:FEW])
            encoded = backend.encode(maps, subject.ckn.layers)
            if precision == GRADIENTS:
                backend.encode_backward(maps, subject.ckn.layers, encoded)
        return 0
    subjects = {name: Subject(network) for name, network in networks.items()}

    def rate_of(name: str, precision: str) -> dict[str, Any]:
        n, rounds = (2, 1) if options.rehearse else (IMAGES[name], ROUNDS)
        if precision == GRADIENTS:
            return gradients(subjects[name], n, rounds)
        return rate(subjects[name], precision, n, rounds)

    rates = {unit: functools.partial(rate_of, *pair) for unit, pair in units.items()}
    return Results(folder_of_results() / "rates.json").find(rates)


if __name__ == "__main__":
    np.seterr(all="ignore")
    sys.exit(main())
