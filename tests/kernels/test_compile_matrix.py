"""Every instantiation of every kernel, compiled for every supported architecture, within a budget.

The budget is ``budget.json``: registers a thread, and shared memory of a block for the networks that the
benchmarks measure. Nothing may take static shared memory, and nothing may spill but for a few numbers that
the kernels of pairs, which take all registers for their sums, read back once a row.
"""

import itertools
import json
import re
from pathlib import Path

import nvrtc
import pytest

from ckncuda import ArcCosine, Exponential, LayerSpec
from ckncuda.backend.cupy import nearest
from ckncuda.backend.cupy import pair_tiling as cuda_pair_tiling
from ckncuda.backend.cupy.encode_tiling import Tiling, tiling
from ckncuda.backend.cupy.product import THREADS, WORDS
from ckncuda.kernels import source
from ckncuda.layer.dot_product import DotProductKernel

BUDGET = json.loads(Path(__file__).with_name("budget.json").read_text())
SHARED_LIMITS = {
    "sm_75": 64 << 10, "sm_80": 163 << 10, "sm_89": 99 << 10, "sm_90a": 227 << 10, "sm_100": 227 << 10,
    "sm_120": 99 << 10,
}  # fmt: skip
FEW = (
    "sm_89",
    "sm_120",
)  # one instantiation of each operation: of what the others are, with less shared memory
REGISTERS = 65536  # of a multiprocessor


def precisions(architecture):
    """Those that the backend takes on such a device."""
    return ["Fma"] if architecture == "sm_75" else ["Fma", "Tf32x3", "Tf32", "Bf16"]


def kernels(base=DotProductKernel):
    """C++ names of all κ."""
    names = set()
    for kind in base.__subclasses__():
        name = kind.device_name
        names |= kernels(kind) | ({"ArcCosine0", "ArcCosine1"} if isinstance(name, property) else {name})
    return names - {None}


POOLINGS = ["5, 2", "11, 5", "1, 1", "33, 16"]  # taps and subsampling


def pair_kernels(architecture, operation):
    """Instantiations of kernels of pairs: every κ with the usual pooling, every pooling with one κ."""
    of_kernel = [(kernel, "false", POOLINGS[0]) for kernel in sorted(kernels())]
    of_pooling = [("Exponential", "false", pooling) for pooling in POOLINGS[1:]]
    both = [("ArcCosine1", "true", pooling) for pooling in POOLINGS]
    instances = [", ".join(instance) for instance in (*of_kernel, *of_pooling, *both)]
    if operation == "pair_sums":
        return [f"pair_sums<{instance}>" for instance in instances]
    names = [f"pair_products<Fma, {instance}>" for instance in instances]
    if architecture != "sm_75":
        names += [f"pair_products<F16x3<2>, {instance}>" for instance in instances]
        few = instances[0], instances[-4]
        names += [f"pair_products<F16x3<{n}>, {instance}>" for n in (0, 1) for instance in few]
    return names


WAY_BACK = ("encode_backward", "extract_patches", "fold_patches")


def way_back(operation):
    """Instantiations of kernels of the way back: one number at a time and four, of every smooth κ."""
    smooth = sorted(kernels() - {"ArcCosine0"}) if operation == "encode_backward" else [""]
    return [f"{operation}<{', '.join(filter(None, (k, v)))}>" for k, v in itertools.product(smooth, "14")]


MATRIX = [
    (architecture, operation, precision)
    for architecture in SHARED_LIMITS
    for operation in ("encode", "nearest_anchor")
    for precision in precisions(architecture)
] + [
    (architecture, operation, None)
    for architecture in SHARED_LIMITS
    for operation in (*("sum_by_anchor", "pair_products", "pair_sums"), *WAY_BACK)
]


@pytest.fixture(scope="module")
def compiler():
    library = nvrtc.library()
    if library is None:
        pytest.skip("NVRTC, the package nvidia-cuda-nvrtc, is not installed")
    return library


@pytest.mark.parametrize(("architecture", "operation", "precision"), MATRIX)
def test_kernels_compile_within_the_budget(compiler, architecture, operation, precision):
    names = {
        "encode": [f"encode<{precision}, {kernel}>" for kernel in sorted(kernels())],
        "nearest_anchor": [f"nearest_anchor<{precision}>"],
        "sum_by_anchor": ["sum_by_anchor"],
        "pair_products": pair_kernels(architecture, "pair_products"),
        "pair_sums": pair_kernels(architecture, "pair_sums"),
        **{name: way_back(name) for name in WAY_BACK},
    }[operation]
    names = names[:1] if architecture in FEW else names
    found = nvrtc.resources_of(compiler, source(operation), names, architecture)
    assert list(found) == names
    for name, resources in found.items():
        assert 0 < resources.registers <= BUDGET["registers"][operation], f"{name}: {resources}"
        assert resources.spilled_bytes <= BUDGET["spilled_bytes"][operation], f"{name}: {resources}"
        # No arrays on the stack.
        assert resources.stack_bytes <= BUDGET["spilled_bytes"][operation], f"{name}: {resources}"
        assert resources.static_shared_bytes <= 1024, f"{name}: {resources}"  # the system's own
    assert BUDGET["registers"][operation] * THREADS * BUDGET["blocks"][operation] <= REGISTERS


@pytest.mark.parametrize("probes", ["checks", "rates", "sums"])
def test_probes_of_the_hardware_compile(compiler, monkeypatch, probes):
    """Those of `bench/gpu`, where they are beside these tests: with wgmma, for Hopper alone."""
    bench = Path(__file__).parents[2] / "bench" / "gpu"
    if not bench.exists():
        pytest.skip("bench/gpu/ is not beside these tests")
    monkeypatch.syspath_prepend(bench)
    import gpu_probe

    text = gpu_probe.source(probes)
    names = re.findall(r'extern "C" __global__ void (?:__launch_bounds__\(.*?\) )?([a-z]\w+)\(', text)
    names += re.findall(r"^(?:WGMMA|MMA)_RATE\((\w+),", text, re.MULTILINE)
    assert len(names) == {"checks": 3, "rates": 8, "sums": 2}[probes]
    architecture = "sm_80" if probes == "sums" else "sm_90a"
    found = nvrtc.resources_of(compiler, text, names, architecture)
    assert all(resources.spilled_bytes == 0 for resources in found.values())


def test_a_kernel_beyond_the_budget_is_seen(compiler):
    """The report is read, not assumed: a kernel that must spill does."""
    hungry = "__global__ void __launch_bounds__(1024) hungry(float* x) { float a[96];\n"
    hungry += "#pragma unroll\nfor (int i = 0; i < 96; ++i) a[i] = x[i * threadIdx.x];\n__syncthreads();\n"
    hungry += "#pragma unroll\nfor (int i = 0; i < 96; ++i) x[i] = a[95 - i] * a[i]; }"
    found = nvrtc.compile_for(compiler, hungry, ["hungry"], "sm_80")
    assert found["hungry"].registers == 64
    assert found["hungry"].spilled_bytes > 0


def test_a_source_that_does_not_compile_shows_the_compilers_words(compiler):
    broken = source("encode").replace("product.clear();", "product.clean();", 1)
    with pytest.raises(RuntimeError, match=r"kernels/encode.cu\(\d+\): error.*clean"):
        nvrtc.compile_for(compiler, broken, ["encode<Fma, Linear>"], "sm_80")


def spec(filters, subsampling):
    return LayerSpec(filters=filters, patch=3, subsampling=subsampling, kernel=Exponential(sigma=0.6))


LAYERS = {
    "S1": (spec(64, 2), (32, 32, 3)),
    "S2": (spec(64, 2), (16, 16, 64)),
    "S3": (spec(128, 2), (8, 8, 64)),
    "L1": (spec(256, 2), (32, 32, 3)),
    "L2": (spec(1024, 6), (16, 16, 256)),
    "224": (spec(64, 4), (224, 224, 3)),
}


@pytest.mark.parametrize("precision", WORDS)
def test_shared_memory_of_k_means_is_within_the_budget(precision):
    """Of the oldest devices, too."""
    assert BUDGET["nearest_shared_bytes"] <= SHARED_LIMITS["sm_75"]
    assert nearest.shared_bytes(precision) <= BUDGET["nearest_shared_bytes"]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("architecture", SHARED_LIMITS)
def test_shared_memory_of_measured_layers_is_within_the_budget(architecture, layer):
    assert BUDGET["shared_bytes"].keys() == LAYERS.keys()
    for precision in precisions(architecture):
        laid_out = tiling(*LAYERS[layer], precision, SHARED_LIMITS[architecture])
        assert isinstance(laid_out, Tiling), laid_out
        assert laid_out.shared_bytes(precision) <= BUDGET["shared_bytes"][layer]


EXP, RELU = Exponential(sigma=0.6), ArcCosine(1)
PAIRS = {
    "exp 2-5": (EXP, (2, 5), False),
    "exp 2-2-2": (EXP, (2, 2, 2), False),
    "tangents 2-5": (RELU, (2, 5), True),
}


@pytest.mark.parametrize("network", PAIRS)
@pytest.mark.parametrize("architecture", SHARED_LIMITS)
def test_shared_memory_of_measured_exact_kernels_is_within_the_budget(architecture, network):
    assert BUDGET["pair_shared_bytes"].keys() == PAIRS.keys()
    kernel, subsamplings, tangent = PAIRS[network]
    options = {"filters": 1, "patch": 3, "kernel": kernel, "alignment": "valid"}
    specs = [LayerSpec(subsampling=subsampling, **options) for subsampling in subsamplings]
    laid_out = cuda_pair_tiling.tilings(specs, (32, 32, 3), tangent, SHARED_LIMITS[architecture])
    budget = BUDGET["pair_shared_bytes"][network]
    assert len(laid_out) == len(budget)
    assert all(t.shared_bytes() <= most for t, most in zip(laid_out, budget, strict=True))


def test_every_precision_is_known_to_the_host():
    assert set(WORDS) == set(precisions("sm_90a"))
