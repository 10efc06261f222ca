"""Images per second of feature extraction: ours with and without Numba beside PyTorch at its best.

    python bench/extract.py [--torch-python PYTHON] [--rounds 7]

Each contender is a process of its own; they take turns, so that a machine whose speed drifts treats
them alike, and the median counts.  PyTorch runs the same layers in its best form on CPUs:
channels-last, every elementwise step in place, inference mode, a 1x1 convolution for the projection,
memory kept by malloc, the best of several batch sizes.  It need not be installed beside us: name an
interpreter that has it.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

NETWORKS = {  # filters and subsampling of each layer; patches of 3x3, exp with sigma 0.6, 32x32x3 images
    "S: 64/64/128 filters, subsampling 2/2/2": ((64, 2), (64, 2), (128, 2)),
    "L: 256/1024 filters, subsampling 2/6": ((256, 2), (1024, 6)),
}
IMAGES = {"S": 2048, "L": 256}
TITLES = {"torch": "PyTorch", "plain": "ours, plain", "compiled": "ours, with `fast`"}
CONTENDERS = tuple(TITLES)
MALLOC = {
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TOP_PAD_": str(1 << 30),
}


def anchors_of(layers):
    """Draw anchor points [filters, 3, 3, channels] for each layer, the same for all contenders."""
    import numpy as np

    rng, channels, result = np.random.default_rng(0), 3, []
    for filters, _ in layers:
        z = rng.normal(size=(filters, 3, 3, channels)).astype(np.float32)
        result.append(z / np.linalg.norm(z.reshape(filters, -1), axis=1)[:, None, None, None])
        channels = filters
    return result


def images_of(n):
    """Draw images [n, 32, 32, 3]."""
    import numpy as np

    return np.random.default_rng(1).normal(size=(n, 32, 32, 3)).astype(np.float32)


def our_run(layers, n, compiled):
    """Return a function that encodes n images, and its features of the first four."""
    from ckncuda import CKN, Exponential, LayerSpec
    from ckncuda.backend.numpy import NumpyBackend

    specs = [LayerSpec(filters=p, patch=3, subsampling=s, kernel=Exponential(sigma=0.6)) for p, s in layers]
    network, images = CKN.from_anchors(specs, anchors_of(layers)), images_of(n)
    backend = NumpyBackend(compiled=compiled)
    return lambda: network.transform(images, backend=backend), network.transform(images[:4], backend=backend)


def reference_features(layers):
    """Compute the features of the first four images in float64, by the definition."""
    from ckncuda import CKN, Exponential, LayerSpec

    specs = [LayerSpec(filters=p, patch=3, subsampling=s, kernel=Exponential(sigma=0.6)) for p, s in layers]
    images = images_of(IMAGES["L" if len(layers) == 2 else "S"])[:4]
    return CKN.from_anchors(specs, anchors_of(layers)).transform(images, backend="reference")


def torch_run(layers, n):
    """Return the same for PyTorch, at the batch size that is fastest here."""
    import numpy as np
    import torch
    import torch.nn.functional as functional

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    last = torch.channels_last
    stack = []
    for z, (p, s) in zip(anchors_of(layers), layers, strict=True):
        flat = z.reshape(p, -1).astype(np.float64)
        eigenvalues, vectors = np.linalg.eigh(np.exp((flat @ flat.T - 1) / 0.36))
        projection = (vectors / np.sqrt(np.maximum(eigenvalues, 0) + 1e-3)) @ vectors.T
        taps = np.exp(-(np.arange(-s, s + 1) ** 2) / s**2)
        taps /= taps.sum()
        pool = np.broadcast_to(np.outer(taps, taps), (p, 1, 2 * s + 1, 2 * s + 1))
        stack.append(
            (
                torch.tensor(z).permute(0, 3, 1, 2).contiguous(memory_format=last),
                torch.tensor(pool.astype(np.float32)).contiguous(memory_format=last),
                torch.tensor(projection[:, :, None, None].astype(np.float32)).contiguous(memory_format=last),
                s,
                p,
            )
        )
    ones = torch.ones(1, 1, 3, 3)

    @torch.inference_mode()
    def encode(x):
        for z, pool, projection, s, p in stack:
            norms = functional.conv2d((x * x).sum(1, keepdim=True), ones, padding=1).sqrt_()
            y = functional.conv2d(x, z, padding=1)
            y.div_(norms.clamp(min=1e-5)).sub_(1).mul_(1 / 0.36).exp_().mul_(norms)
            x = functional.conv2d(functional.conv2d(y, pool, stride=s, padding=s, groups=p), projection)
        return x

    images = torch.tensor(images_of(n)).permute(0, 3, 1, 2).contiguous(memory_format=last)

    def run(size):
        return [encode(batch) for batch in images.split(size)]

    def seconds(size):
        run(size)
        start = time.perf_counter()
        run(size)
        return time.perf_counter() - start

    best = min((16, 32, 64, 128), key=seconds)
    return lambda: run(best), encode(images[:4]).permute(0, 2, 3, 1).numpy()


def operations(layers):
    """Count multiplications and additions of an image: products of all patches, projections."""
    side, channels, total = 32, 3, 0
    for filters, subsampling in layers:
        total += 2 * side**2 * 9 * channels * filters
        side = -(-side // subsampling)
        total += 2 * side**2 * filters**2
        channels = filters
    return total


def matrix_rate():
    """Measure GFLOP/s of NumPy's single-precision product on all cores."""
    import numpy as np

    a = np.ones((4096, 4096), np.float32)
    a @ a
    start = time.perf_counter()
    a @ a
    return 2 * 4096**3 / (time.perf_counter() - start) / 1e9


def worker(contender, network, path):
    """Answer each line of standard input with images per second."""
    layers = next(layers for name, layers in NETWORKS.items() if name.startswith(network))
    n = IMAGES[network]
    run, features = (
        torch_run(layers, n) if contender == "torch" else our_run(layers, n, contender == "compiled")
    )
    import numpy as np

    np.save(path, features)
    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(n / (time.perf_counter() - start), flush=True)


def start(contender, network, python, folder):
    """Start a worker process and let it warm up; return it and where it left its features."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")} | MALLOC
    path = folder / f"{contender}-{network}.npy"
    command = [python, __file__, "--worker", contender, network, str(path)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    if process.stdout.readline().strip() != "ready":
        raise SystemExit(f"{contender} did not start; for PyTorch, give --torch-python")
    return process, path


def measure(network, pythons, rounds, folder):
    """Measure median images per second of each contender, and its features' distance from the reference's."""
    import numpy as np

    workers = {c: start(c, network, pythons[c], folder) for c in CONTENDERS}
    rates = {c: [] for c in CONTENDERS}
    for _ in range(rounds):
        for contender, (process, _) in workers.items():
            process.stdin.write("\n")
            process.stdin.flush()
            rates[contender].append(float(process.stdout.readline()))
    features = {}
    for contender, (process, path) in workers.items():
        process.stdin.close()
        process.wait()
        features[contender] = np.load(path)
    reference = reference_features(NETWORKS[next(name for name in NETWORKS if name.startswith(network))])
    errors = {c: np.linalg.norm(f - reference) / np.linalg.norm(reference) for c, f in features.items()}
    return {c: statistics.median(r) for c, r in rates.items()}, errors


def main():
    """Measure both networks and write the table."""
    import tempfile

    import numpy as np

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch-python", default=sys.executable, help="an interpreter that has PyTorch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "extract.md")
    arguments = parser.parse_args()
    if arguments.worker:
        worker(*arguments.worker)
        return
    pythons = {c: arguments.torch_python if c == "torch" else sys.executable for c in CONTENDERS}
    version = subprocess.run(
        [arguments.torch_python, "-c", "import torch; print(torch.__version__)"],
        capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    rate = matrix_rate()
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    lines = [
        "# Feature extraction on CPUs",
        "",
        f"Made by `python bench/extract.py`, medians of {arguments.rounds} turns, on "
        f"{len(os.sched_getaffinity(0))} cores ({names[0]}),",
        f"Python {platform.python_version()}, NumPy {np.__version__}, PyTorch {version}.",
        f"NumPy's single-precision matrix product ran at {rate:.0f} GFLOP/s on all cores in the same run.",
        "GFLOP/s count the products and projections of the definition; Winograd's algorithm needs fewer.",
        "",
        "| network | | images/s | over PyTorch | GFLOP/s | of the matrix product | difference of features |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS:
            rates, errors = measure(name[0], pythons, arguments.rounds, Path(folder))
            for contender, title in TITLES.items():
                speed = 1e-9 * rates[contender] * operations(NETWORKS[name])
                lines.append(
                    f"| {name} | {title} | {rates[contender]:,.0f} | {rates[contender] / rates['torch']:.2f} "
                    f"| {speed:.0f} | {speed / rate:.0%} | {errors[contender]:.1e} |"
                )
                print(lines[-1], flush=True)
    arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
