"""Images per second of a training's steps: ours with and without Numba beside PyTorch at its best.

    python bench/train.py [--torch-python PYTHON] [--rounds 7]

A step goes forward and back through all layers, from a batch of 128 images to a linear head's cross-entropy
and to the anchor points, and takes a step of Adam on their spheres, with K_ZZ^{-1/2} anew.  Each contender is
a process of its own; they take turns, so that a machine whose speed drifts treats them alike, and the median
counts.  PyTorch takes the same steps by its own derivatives, in the best of several forms: channels last or
first, pooling by convolutions or by matrices; memory is kept by malloc.  It need not be installed beside us:
name an interpreter that has it.  Where there is none, ours are measured alone.
"""

import argparse
import concurrent.futures
import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

EXP, NARROW, SQUARE = ("exp", 0.6), ("exp", 0.5), ("square", None)
NETWORKS = {  # filters, side of patches, subsampling and kernel of each layer, on 32x32x3 images
    "S: 64/64/128 filters, patches of 3, subsampling 2/2/2": (
        (64, 3, 2, EXP),
        (64, 3, 2, EXP),
        (128, 3, 2, EXP),
    ),
    "CKN-5: 128 filters, patches of 3/1/3/1/3, subsampling 2/1/2/1/3": (
        (128, 3, 2, NARROW),
        (128, 1, 1, SQUARE),
        (128, 3, 2, NARROW),
        (128, 1, 1, SQUARE),
        (128, 3, 3, NARROW),
    ),
}
STEPS = {"S": 8, "CKN-5": 2}  # a turn
TITLES = {"torch": "PyTorch", "plain": "ours, plain", "compiled": "ours, with `fast`"}
MALLOC = {
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TOP_PAD_": str(1 << 30),
}
BATCH, CLASSES, RATE, EPSILON = 128, 10, 3e-3, 1e-3
COMPARED = 8  # images whose gradients are compared with the reference's


def named(network):
    """Return the layers of the network whose name begins so."""
    return next(layers for name, layers in NETWORKS.items() if name.startswith(f"{network}:"))


def anchors_of(layers):
    """Draw anchor points [filters, side, side, channels] for each layer, the same for all contenders."""
    rng, channels, result = np.random.default_rng(0), 3, []
    for filters, side, _, _ in layers:
        result.append(on_spheres(rng.normal(size=(filters, side, side, channels)).astype(np.float32)))
        channels = filters
    return result


def on_spheres(anchors):
    """Divide each anchor point by its norm."""
    return anchors / np.linalg.norm(anchors.reshape(len(anchors), -1), axis=1)[:, None, None, None]


def images_and_labels():
    """Draw a batch of images [n, 32, 32, 3] and labels [n]."""
    rng = np.random.default_rng(1)
    images = rng.normal(size=(BATCH, 32, 32, 3)).astype(np.float32)
    return images, rng.integers(CLASSES, size=BATCH)


def output_side(layers):
    """Compute the side of the last map."""
    side = 32
    for _, _, s, _ in layers:
        side = -(-side // s)
    return side


def head_of(layers):
    """Draw a linear head [features, classes]."""
    features = output_side(layers) ** 2 * layers[-1][0]
    return np.random.default_rng(2).normal(size=(features, CLASSES)).astype(np.float32) / features**0.5


def upstream_of(layers):
    """Draw a gradient by the output of some images, for which gradients are compared."""
    side = output_side(layers)
    return np.random.default_rng(3).normal(size=(COMPARED, side, side, layers[-1][0])).astype(np.float32)


def adam(parameter, gradient, moments, step):
    """Take a step of Adam in place."""
    first, second = moments
    first += 0.1 * (gradient - first)
    second += 0.001 * (gradient**2 - second)
    rate = RATE * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
    parameter -= rate * first / (np.sqrt(second) + 1e-8)


class OurTraining:
    """The steps of our backend."""

    def __init__(self, layers, compiled):
        from ckncuda import Exponential, LayerSpec, Polynomial
        from ckncuda.backend.numpy import NumpyBackend

        self.backend = NumpyBackend(compiled=compiled)
        self.specs = [
            LayerSpec(p, side, s, Exponential(sigma) if name == "exp" else Polynomial(2))
            for p, side, s, (name, sigma) in layers
        ]
        self.images, self.labels = images_and_labels()
        self.anchors, self.head = anchors_of(layers), head_of(layers)
        self.moments = [(np.zeros_like(z), np.zeros_like(z)) for z in [*self.anchors, self.head]]
        self.pool, self.taken = concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))), 0
        self.layers = self.new_layers()

    def new_layers(self):
        """Return layers of the anchor points, their spectra computed on all cores."""
        import threadpoolctl

        from ckncuda import Layer

        def of(spec, anchors):
            return Layer.from_anchors(spec, anchors, keep_spectrum=True)

        with threadpoolctl.threadpool_limits(1):
            return list(self.pool.map(of, self.specs, self.anchors))

    def step(self):
        """Take a step."""
        self.taken += 1

        def loss(encoded, images):
            flat = encoded.reshape(len(encoded), -1)
            scores = flat @ self.head
            by_scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            by_scores /= by_scores.sum(axis=1, keepdims=True)
            by_scores[np.arange(len(flat)), self.labels[images]] -= 1
            by_scores /= BATCH
            self.by_head = flat.T @ by_scores
            return (by_scores @ self.head.T).reshape(encoded.shape)

        _, gradients = self.backend.encode_backward(self.images, self.layers, loss, by_maps=False)
        for anchors, gradient, moments in zip(self.anchors, gradients, self.moments, strict=False):
            gradient = gradient.astype(np.float32)
            radial = (gradient * anchors).sum(axis=(1, 2, 3), keepdims=True)
            adam(anchors, gradient - radial * anchors, moments, self.taken)
            anchors[...] = on_spheres(anchors)
        adam(self.head, self.by_head, self.moments[-1], self.taken)
        self.layers = self.new_layers()

    def gradients(self, upstream):
        """Return the gradients by the anchor points of the first images, for a gradient by their output."""
        images = self.images[: len(upstream)]
        return self.backend.encode_backward(images, self.layers, upstream, by_maps=False)[1]


class TorchTraining:
    """The steps of PyTorch, in one of its forms."""

    def __init__(self, layers, last, matrices):
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.torch, self.layers, self.matrices = torch, layers, matrices
        self.format = torch.channels_last if last else torch.contiguous_format
        images, labels = images_and_labels()
        self.images = self.tensor(images)
        self.labels = torch.tensor(labels)
        self.anchors = [self.tensor(z).requires_grad_() for z in anchors_of(layers)]
        self.head = torch.tensor(head_of(layers)).requires_grad_()
        self.optimizer = torch.optim.Adam([*self.anchors, self.head], RATE)
        self.pools = [self.pool_of(p, s) for p, _, s, _ in layers]

    def tensor(self, array):
        """Return [n, h, w, c] as PyTorch has it: [n, c, h, w]."""
        return self.torch.tensor(array).permute(0, 3, 1, 2).contiguous(memory_format=self.format)

    def pool_of(self, p, s):
        """Return the weights of Gaussian pooling as a convolution's, or as a function of a side's matrix."""
        taps = np.exp(-(np.arange(-s, s + 1) ** 2) / s**2)
        taps = (taps / taps.sum()).astype(np.float32)
        if not self.matrices:
            window = np.broadcast_to(np.outer(taps, taps), (p, 1, len(taps), len(taps)))
            return self.torch.tensor(window.copy()).contiguous(memory_format=self.format)

        def matrix(side):
            rows = np.zeros((-(-side // s), side + 2 * s), np.float32)
            for i, row in enumerate(rows):
                row[i * s : i * s + len(taps)] = taps
            return self.torch.tensor(rows[:, s : s + side].copy())

        return matrix

    def pooled(self, y, pool, p, s):
        """Pool y [n, p, h, w]."""
        if s == 1:
            return y
        if not self.matrices:
            return self.torch.nn.functional.conv2d(y, pool, stride=s, padding=s, groups=p)
        return self.torch.einsum("ih,nphw,jw->npij", pool(y.shape[2]), y, pool(y.shape[3]))

    def encode(self, x):
        """Encode images [n, c, h, w]."""
        torch, functional = self.torch, self.torch.nn.functional
        for z, pool, (p, side, s, (name, sigma)) in zip(self.anchors, self.pools, self.layers, strict=True):
            flat = z.permute(0, 2, 3, 1).reshape(p, -1).double()
            cosines = flat @ flat.T
            gram = torch.exp((cosines - 1) / sigma**2) if name == "exp" else cosines**2
            eigenvalues, vectors = torch.linalg.eigh(gram)
            projection = ((vectors / (eigenvalues.clamp(min=0) + EPSILON).sqrt()) @ vectors.T).float()
            ones = torch.ones(1, 1, side, side)
            squares = functional.conv2d((x * x).sum(1, keepdim=True), ones, padding=side // 2)
            norms = squares.clamp(min=1e-10).sqrt()
            t = functional.conv2d(x, z, padding=side // 2) / norms
            y = norms * (torch.exp((t - 1) / sigma**2) if name == "exp" else t * t)
            x = functional.conv2d(self.pooled(y, pool, p, s), projection[:, :, None, None])
        return x

    def step(self):
        """Take a step."""
        self.optimizer.zero_grad(set_to_none=True)
        flat = self.encode(self.images).permute(0, 2, 3, 1).reshape(BATCH, -1)
        self.torch.nn.functional.cross_entropy(flat @ self.head, self.labels).backward()
        with self.torch.no_grad():
            for z in self.anchors:
                z.grad -= (z.grad * z).sum(dim=(1, 2, 3), keepdim=True) * z
            self.optimizer.step()
            for z in self.anchors:
                z /= (z * z).sum(dim=(1, 2, 3), keepdim=True).sqrt()

    def gradients(self, upstream):
        """Return the gradients by the anchor points of the first images, for a gradient by their output."""
        out = self.encode(self.images[: len(upstream)])
        found = self.torch.autograd.grad((out * self.tensor(upstream)).sum(), self.anchors)
        return [gradient.permute(0, 2, 3, 1).numpy() for gradient in found]


def best_of_torch(layers):
    """Return PyTorch's training in the form that is fastest here."""

    def seconds(form):
        training = TorchTraining(layers, *form)
        training.step()
        start = time.perf_counter()
        training.step()
        return time.perf_counter() - start

    return TorchTraining(layers, *min(itertools.product((True, False), repeat=2), key=seconds))


def worker(contender, network, path):
    """Answer each line of standard input with images per second."""
    layers = named(network)
    training = best_of_torch(layers) if contender == "torch" else OurTraining(layers, contender == "compiled")
    np.savez(path, *training.gradients(upstream_of(layers)))
    training.step()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(STEPS[network]):
            training.step()
        print(STEPS[network] * BATCH / (time.perf_counter() - start), flush=True)


def start(contender, network, python, folder):
    """Start a worker process and let it warm up; return it and where it left its gradients."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")} | MALLOC
    path = folder / f"{contender}-{network}.npz"
    command = [python, __file__, "--worker", contender, network, str(path)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    if process.stdout.readline().strip() != "ready":
        raise SystemExit(f"{contender} did not start")
    return process, path


def reference_gradients(layers):
    """Compute the gradients of the first images in float64, by the definition."""
    from ckncuda.backend import get_backend

    training = OurTraining(layers, None)
    training.backend = get_backend("reference")
    return training.gradients(upstream_of(layers))


def measure(network, pythons, rounds, folder):
    """Measure median images per second of each contender, and how far its gradients are from float64's."""
    workers = {c: start(c, network, python, folder) for c, python in pythons.items()}
    rates = {c: [] for c in workers}
    for _ in range(rounds):
        for contender, (process, _) in workers.items():
            process.stdin.write("\n")
            process.stdin.flush()
            rates[contender].append(float(process.stdout.readline()))
    expected, errors = reference_gradients(named(network)), {}
    for contender, (process, path) in workers.items():
        process.stdin.close()
        process.wait()
        found = np.load(path).values()
        errors[contender] = max(
            np.linalg.norm(f - e) / np.linalg.norm(e) for f, e in zip(found, expected, strict=True)
        )
    return {c: statistics.median(r) for c, r in rates.items()}, errors


def torch_version(python):
    """Return the version of an interpreter's PyTorch, or None."""
    command = [python, "-c", "import torch; print(torch.__version__)"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else None


def main():
    """Measure both networks and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch-python", default=sys.executable, help="an interpreter that has PyTorch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "train.md")
    arguments = parser.parse_args()
    if arguments.worker:
        worker(*arguments.worker)
        return
    version = torch_version(arguments.torch_python)
    pythons = {"torch": arguments.torch_python} if version else {}
    pythons |= dict.fromkeys(("plain", "compiled"), sys.executable)
    beside = f"PyTorch {version}" if version else "without PyTorch, which was not found: give --torch-python"
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    lines = [
        "# Training on CPUs",
        "",
        f"Made by `python bench/train.py`, medians of {arguments.rounds} turns, on "
        f"{len(os.sched_getaffinity(0))} cores ({names[0]}),",
        f"Python {platform.python_version()}, NumPy {np.__version__}, {beside}.",
        f"Steps of {BATCH} images: forward, back to the anchor points, Adam, K_ZZ^{{-1/2}}.  Gradients are "
        "compared with those of float64, the layer that is farthest.",
        "",
        "| network | | images/s | over PyTorch | difference of gradients |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS:
            rates, errors = measure(name.partition(":")[0], pythons, arguments.rounds, Path(folder))
            for contender, rate in rates.items():
                over = f"{rate / rates['torch']:.2f}" if version else "-"
                lines.append(
                    f"| {name} | {TITLES[contender]} | {rate:,.0f} | {over} | {errors[contender]:.1e} |"
                )
                print(lines[-1], flush=True)
    arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
