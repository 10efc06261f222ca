"""Exact kernels on a GPU: kernels of pairs of images a second, beside what the device could do at best."""

import math

import numpy as np
from gpu_bench import OURS, Bench, difference, wall_seconds
from gpu_plan import ExactNetwork
from gpu_report import Row

from ckncuda import ArcCosine, Exponential, LayerSpec
from ckncuda.backend import get_backend
from ckncuda.backend.operations import NormedMaps

CHECKED = 2  # images of either side
PRODUCTS = 3  # of halves, for one in float32
EXPONENTIALS = r"""
extern "C" __global__ void exponentials(float* sums, int times) {
    float x[8];
    for (int i = 0; i < 8; ++i) x[i] = 0.001f * (threadIdx.x + i);
    for (int k = 0; k < times; ++k)
        for (int i = 0; i < 8; ++i) x[i] = exp2f(-x[i]);
    float sum = 0;
    for (int i = 0; i < 8; ++i) sum += x[i];
    sums[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}"""


def exp_rate(bench: Bench) -> float:
    """Exponentials a second, which κ is bound by: there is a unit for them, slower than that for products."""
    if bench.cupy is None:
        x = np.ones(1 << 16, np.float32)
        return x.size / bench.typical_seconds(OURS, lambda: np.exp(x))
    blocks, threads, times = (2, 32, 4) if bench.rehearsal else (2048, 256, 512)
    kernel = bench.cupy.RawKernel(EXPONENTIALS, "exponentials")
    sums = bench.cupy.empty(blocks * threads, np.float32)
    seconds = bench.typical_seconds(OURS, lambda: kernel((blocks,), (threads,), (sums, np.int32(times))))
    return 8 * times * blocks * threads / seconds


def specs_of(network: ExactNetwork) -> list[LayerSpec]:
    """The layers of a network, as programs for exact kernels take them."""
    kernel = Exponential(sigma=0.6) if network.kernel == "exp" else ArcCosine(1)
    return [
        LayerSpec(filters=1, patch=3, subsampling=s, kernel=kernel, alignment="valid")
        for s in network.subsamplings
    ]


def floor(bench: Bench, network: ExactNetwork, pairs: int) -> tuple[float, str]:
    """Seconds that so many pairs take at best, and what bounds that."""
    shape, products, kappas, moved = (network.side, network.side, 3), 0, 0, 0
    specs = specs_of(network)
    for number, spec in enumerate(specs):
        positions = math.prod(spec.map_shape(shape)[:2])
        if number == 0:
            products = PRODUCTS * 2 * spec.patch**2 * 3 * positions**2
        kappas += positions**2
        shape = spec.output_shape(shape)
        if number + 1 < len(specs):  # written, and read by the next layer
            moved += 2 * 4 * math.prod(shape[:2]) ** 2 * (1 + network.tangent)
    report = bench.report
    bounds = [
        (pairs * amount / rate, name)
        for amount, rate, name in (
            (products, report.matrix_rates.get("bfloat16"), "products"),
            (kappas, report.exp_rate, "exponentials"),
            (moved, report.copy_rate, "memory"),
        )
        if rate
    ]
    return max(bounds, default=(0.0, ""))


def exact_kernel(bench: Bench, row: Row, network: ExactNetwork) -> None:
    """Kernels of each of some images with each of others, from host memory and back, the norms given."""
    n, specs = bench.plan.exact_images, specs_of(network)
    maps = np.random.default_rng(5).standard_normal((2 * n, network.side, network.side, 3), dtype=np.float32)
    backend = bench.backend("float32")
    images = NormedMaps(maps, backend.patch_norms(maps, specs))
    first, second = images[:n], images[n:]

    def run() -> object:
        return backend.gram_block(first, second, specs, tangent=network.tangent)

    bench.in_turns(row, {OURS: run}, {OURS: wall_seconds})
    pairs = n * n
    seconds = bench.rates(row, pairs, 0)
    if seconds:
        least, bound = floor(bench, network, pairs)
        each = 1e6 / pairs  # from seconds to milliseconds a thousand pairs
        row.of_floor = least / seconds if least else None
        row.remarks.append(
            f"{each * seconds:.3g} ms a thousand pairs, floor {each * least:.3g} ms by {bound}"
        )
    few, others = first[:CHECKED], second[:CHECKED]
    expected = get_backend("reference").gram_block(few, others, specs, tangent=network.tangent)
    row.our_error = difference(backend.gram_block(few, others, specs, tangent=network.tangent), expected)


def exact_kernels(bench: Bench) -> None:
    """Every network."""
    try:
        bench.report.exp_rate = exp_rate(bench)
    except Exception as error:
        bench.report.failures.append(f"No rate of exponentials: {error}")
    for network in bench.plan.exact_networks:
        row = Row(
            f"exact kernel: {network.name}, {network.side}x{network.side} images", "float32", unit="pairs/s"
        )
        bench.add(row, lambda row, network=network: exact_kernel(bench, row, network))
