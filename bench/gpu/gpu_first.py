"""First contact: every kernel once, in a process of its own: one that faults or hangs takes only itself.

python bench/gpu/gpu_first.py             # started by gpu_suite.py, which sets OUT and PYTHONPATH
python bench/gpu/gpu_first.py --unit X    # one kernel, in this process
"""

import argparse
import concurrent.futures
import os
import re
import subprocess
import sys
import time
from typing import Any

import numpy as np
from gpu_results import Results, end_with_parent, folder_of_results
from numpy.typing import NDArray

UNIT_SECONDS = 45  # of a process, which compiles, too
PROCESSES = 12
PAIRS, KAPPA, ALGEBRA = 1e-5, 2e-5, 1e-10  # tolerances of what has none in tests/tolerances.py
STEEP = 1e-3  # of κ whose slope is infinite at 1


def units() -> list[str]:
    """Return what is tried: kind, precision, and which."""
    import gpu
    import kernel_cases as cases

    found = [f"encode:{p}:{case}" for p in gpu.PRECISIONS for case in cases.CASES]
    found += [f"k-means:{p}:{size}" for p in gpu.PRECISIONS for size in (36, 37)]
    found += [f"pairs:{p}:{case}" for p in cases.PAIR_PRECISIONS for case in cases.PAIR_CASES]
    found += [f"kappa:cupy, float32:{i}" for i in range(len(cases.KAPPAS))]
    found += [f"backward:cupy, float32:{case}" for case in cases.BACKWARD_CASES]
    found += [f"slope:cupy, float32:{i}" for i in range(len(cases.KAPPAS) - 1)]  # of all but arccos0
    return [*found, "blocks:cupy, float32:streams", "algebra:cupy, float32:solve"]


def difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Norm of the difference over the norm of what is expected."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def run(unit: str) -> tuple[float, float]:
    """Run a unit; return how far it is from the reference, and how far it may be."""
    import gpu

    kind, precision, which = unit.split(":", 2)
    with gpu.a_gpu():
        backend = gpu.cupy_backend(precision)
        return KINDS[kind](backend, precision, which)


def encode(backend: Any, precision: str, case: str) -> tuple[float, float]:
    """One layer, its projection included, which may double the error of few bits."""
    import kernel_cases
    import tolerances

    most = tolerances.ENCODE[precision]
    return difference(*kernel_cases.run_encode(backend, case)), most * (2 if most > 1e-4 else 1)


def kmeans(backend: Any, precision: str, size: str) -> tuple[float, float]:
    """Nearest anchors and sums: the larger of both errors, in units of the former's tolerance."""
    import kernel_cases
    import tolerances

    (_, cosine, sums), (_, cosines, expected) = kernel_cases.run_kmeans(backend, d=int(size))
    most = tolerances.COSINE[precision]
    same_anchors = most < 1e-4
    of_sums = float(abs(sums - expected).max()) / 1e-5 if same_anchors else 0.0
    return max(float(abs(cosine - cosines).max()), most * of_sums), most


def pairs(backend: Any, precision: str, case: str) -> tuple[float, float]:
    """An exact kernel of a few images."""
    import kernel_cases

    return difference(*kernel_cases.run_pairs(backend, case)), PAIRS


def kappa(backend: Any, precision: str, number: str) -> tuple[float, float]:
    """A layer with another κ."""
    import kernel_cases

    from ckncuda import ArcCosine
    from ckncuda.backend import get_backend

    kernel = kernel_cases.KAPPAS[int(number)]
    layer = kernel_cases.make_layer(2, kernel=kernel)
    maps = np.random.default_rng(0).normal(size=(2, 8, 8, 2)).astype(np.float32)
    found = backend.to_host(backend.encode(backend.asarray(maps), [layer]))
    most = STEEP if isinstance(kernel, ArcCosine) and kernel.degree == 0 else KAPPA
    return difference(found, get_backend("reference").encode(maps, [layer])), most


def backward(backend: Any, precision: str, case: str) -> tuple[float, float]:
    """The way back through a layer: the larger error of both gradients."""
    import kernel_cases
    import tolerances

    found, expected = kernel_cases.run_backward(backend, case)
    return max(map(difference, found, expected)), tolerances.GRADIENTS[precision]


def slope(backend: Any, precision: str, number: str) -> tuple[float, float]:
    """The way back through a layer with another κ, of one filter at a time and of four."""
    import kernel_cases
    import tolerances

    from ckncuda.backend import get_backend

    rng, off = np.random.default_rng(0), 0.0
    for filters in (7, 8):
        kernel = kernel_cases.KAPPAS[int(number)]
        layer = kernel_cases.make_layer(2, kernel=kernel, filters=filters, epsilon=1e-2)
        maps, upstream = rng.normal(size=(2, 8, 8, 2)), rng.normal(size=(2, 4, 4, filters))
        by_maps, (by_anchors,) = backend.encode_backward(maps, [layer], upstream)
        expected, (of_layer,) = get_backend("reference").encode_backward(maps, [layer], upstream)
        off = max(off, difference(backend.to_host(by_maps), expected), difference(by_anchors, of_layer))
    return off, tolerances.GRADIENTS[precision]


def blocks(backend: Any, precision: str, which: str) -> tuple[float, float]:
    """Blocks of images on two streams, copied while others are computed."""
    import kernel_cases

    from ckncuda import CKN

    network = CKN.from_layers([kernel_cases.make_layer(3), kernel_cases.make_layer(10)])
    images = np.random.default_rng(0).normal(size=(23, 12, 10, 3)).astype(np.float32)
    backend.images_per_block = lambda layers, shape: 4
    found = network.transform(images, backend=backend)
    return difference(found, network.transform(images, backend="reference")), KAPPA


def algebra(backend: Any, precision: str, which: str) -> tuple[float, float]:
    """Cholesky and triangular solves: what classifiers ask of cuSOLVER and cuBLAS."""
    from ckncuda.backend import linear_algebra

    matrix = np.random.default_rng(0).normal(size=(300, 200))
    gram = matrix.T @ matrix + np.eye(200)
    on_device = backend.gpu.cupy.asarray
    solved = linear_algebra.solve(linear_algebra.cholesky(on_device(gram)), on_device(matrix.T.copy()))
    return difference(solved.get(), np.linalg.solve(gram, matrix.T)), ALGEBRA


KINDS = {
    "encode": encode,
    "k-means": kmeans,
    "pairs": pairs,
    "kappa": kappa,
    "backward": backward,
    "slope": slope,
    "blocks": blocks,
    "algebra": algebra,
}


def child(unit: str) -> dict[str, Any]:
    """Run a unit in a process of its own; return what it said, or how it ended."""
    start = time.perf_counter()
    command = [sys.executable, __file__, "--unit", unit]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=UNIT_SECONDS)
        last = (done.stdout.strip().splitlines() or [""])[-1]
        said = last if done.returncode in (0, 1) and last.startswith("error ") else ""
        said = said or f"ended with {done.returncode}: {' '.join(done.stderr.split())[-300:]}"
        passed = done.returncode == 0
    except subprocess.TimeoutExpired:
        said, passed = f"nothing after {UNIT_SECONDS} s", False
    return {"passed": passed, "said": said, "seconds": round(time.perf_counter() - start, 1)}


def main() -> int:
    """Run one unit here, or all that are not known yet, each in its process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--unit", help="run this one here")
    parser.add_argument("--only", default="", help="units that match this expression")
    parser.add_argument("--processes", type=int, default=min(PROCESSES, os.cpu_count() or 1))
    options = parser.parse_args()
    if options.unit:
        end_with_parent()
        off, most = run(options.unit)
        print(f"error {off:.1e} of {most:.0e}")
        return int(not off <= most)  # NaN too
    names = [unit for unit in units() if re.search(options.only, unit)]
    results = Results(folder_of_results() / "first.json")
    with concurrent.futures.ThreadPoolExecutor(options.processes) as pool:
        under_way = {pool.submit(child, unit): unit for unit in results.rest(names)}
        for done in concurrent.futures.as_completed(under_way):
            results.add(under_way[done], done.result())
    return results.conclude(names)


if __name__ == "__main__":
    sys.exit(main())
