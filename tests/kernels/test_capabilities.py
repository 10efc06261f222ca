"""Every kernel on every compute capability: what its launches ask for, and how far its tensor cores are off.

How tensor cores of each sum is in `cuda_on_cpu/headers/tensor_core.h`. Tolerances are set by it: what is
found here may be half of them, as the model is one of measurements that others have made.
"""

import importlib
from pathlib import Path

import gpu
import kernel_cases
import numpy as np
import pytest
import tolerances
from cuda_on_cpu import environment

from ckncuda import ArcCosine, Exponential, Layer, LayerSpec
from ckncuda.backend import get_backend
from ckncuda.backend.cupy import device
from ckncuda.backend.operations import NormedMaps

if environment.why_unavailable() is not None:
    pytest.skip(str(environment.why_unavailable()), allow_module_level=True)

SHARED = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}  # KiB that a block may have
SUMMED = [75, 80, 90]  # that sum differently
PAIRS = 3e-6  # of exact kernels, of the largest: as in tests/parity


@pytest.fixture
def on(monkeypatch):
    """Let the device be one of a capability."""
    if device.why_unavailable() is None:
        pytest.skip("there is a GPU here, of one capability")
    with gpu.a_gpu():
        yield lambda capability: monkeypatch.setenv("CKNCUDA_CPU_COMPUTE_CAPABILITY", str(capability))


def precisions(capability):
    """Those of `gpu.PRECISIONS` that a device has; before 8.0, float32 is without tensor cores by itself."""
    return list(gpu.PRECISIONS)[: 1 if capability < 80 else None]


class Noted:
    """A kernel that is not launched: what is asked of it is noted."""

    max_dynamic_shared_size_bytes = 48 << 10

    def __init__(self, name, asked):
        self.name, self.asked = name, asked

    def __call__(self, grid, block, arguments, shared_mem):
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        self.asked.append((self.name, grid, block, shared_mem))


@pytest.fixture
def asked(monkeypatch):
    """Launches: names of kernels, grids, blocks, bytes of shared memory."""
    asked = []
    monkeypatch.setattr(device, "compiled", lambda operation, name: Noted(name, asked))
    return asked


def encode(backend, sizes, side, patch=3):
    """Ask for the layers (filters, subsampling) of a network on one image."""
    maps = backend.asarray(np.ones((1, side, side, 3), np.float32))
    for filters, subsampling in sizes:
        channels, kernel = maps.shape[3], Exponential(sigma=0.6)
        spec = LayerSpec(filters=filters, subsampling=subsampling, patch=patch, kernel=kernel)
        anchors = np.zeros((filters, patch, patch, channels), np.float32)
        maps = backend.encode(maps, [Layer(spec, anchors, np.eye(filters, dtype=np.float32))])
        maps[...] = 1


def exact(backend, kernel, subsamplings, tangent):
    """Ask for the layers of an exact kernel of one pair of images."""
    options = {"filters": 1, "patch": 3, "kernel": kernel, "alignment": "valid"}
    specs = [LayerSpec(subsampling=subsampling, **options) for subsampling in subsamplings]
    maps = np.ones((1, 32, 32, 3), np.float32)
    norms = [
        np.ones((1, *spec.map_shape(shape)[:2])) for spec, shape in zip(specs, shapes(specs), strict=True)
    ]
    backend.gram_block(NormedMaps(maps, tuple(norms)), NormedMaps(maps, tuple(norms)), specs, tangent=tangent)


def shapes(specs):
    """Inputs of layers on images of 32x32x3."""
    shape = (32, 32, 3)
    for spec in specs:
        yield shape
        shape = spec.output_shape(shape)


def back(backend, sizes, side):
    """Ask for the way back through the layers (filters, subsampling) of a network on one image."""
    channels, layers = 3, []
    for filters, subsampling in sizes:
        spec = LayerSpec(filters=filters, subsampling=subsampling, patch=3, kernel=Exponential(sigma=0.6))
        anchors = np.zeros((filters, 3, 3, channels), np.float32)
        layers.append(Layer(spec, anchors, np.eye(filters)))
        channels = filters
    maps = np.ones((1, side, side, 3), np.float32)
    backend.encode_backward(maps, layers, lambda encoded, images: np.ones(encoded.shape, np.float32))


@pytest.mark.parametrize("capability", SHARED)
def test_every_launch_fits_the_device(on, asked, capability):
    on(capability)
    for precision in precisions(capability):
        backend = gpu.cupy_backend(precision)
        assert backend.gpu.shared_limit == SHARED[capability] << 10
        encode(backend, ((64, 2), (64, 2), (128, 2)), 32)
        encode(backend, ((256, 2), (1024, 6)), 32)
        encode(backend, ((64, 4), (128, 4)), 224)
        encode(backend, ((32, 2), (32, 2)), 48, patch=7)
        back(backend, ((64, 2), (64, 2), (128, 2)), 32)
        for size in (27, 576, 2304):
            patches = backend.asarray(np.ones((300, size), np.float32))
            nearest, _ = backend.nearest_anchor(patches, patches[:70])
            nearest[...] = 0
            backend.sum_by_anchor(patches, nearest, 70)
    for precision in precisions(capability)[:2]:
        backend = gpu.cupy_backend(precision)
        exact(backend, Exponential(sigma=0.6), (2, 5), False)
        exact(backend, Exponential(sigma=0.6), (2, 2, 2), False)
        exact(backend, ArcCosine(1), (2, 5), True)
    operations = {name.partition("<")[0] for name, *_ in asked}
    of_back = {"encode_backward", "extract_patches", "fold_patches"}
    assert operations == of_back | {"encode", "nearest_anchor", "sum_by_anchor", "pair_products", "pair_sums"}
    of_networks = 9 + 6 + 4 * 3  # layers, k-means, layers there and back
    assert len(asked) == len(precisions(capability)) * of_networks + len(precisions(capability)[:2]) * (
        2 + 3 + 2
    )
    for name, grid, block, shared in asked:
        assert shared <= SHARED[capability] << 10, f"{name} takes {shared} bytes"
        assert all(0 < n <= most for n, most in zip(grid, (2**31 - 1, 65535), strict=False)), name
        assert block == (256,)


def test_the_stand_in_refuses_what_a_device_has_not(on, tmp_path):
    import cupy

    kernel = cupy.RawKernel('extern "C" __global__ void f(float* x) { *x = 1; }', "f")
    for capability, limit in SHARED.items():
        on(capability)
        kernel.max_dynamic_shared_size_bytes = limit << 10
        with pytest.raises(cupy.cuda.driver.CUDADriverError, match=str(limit << 10)):
            kernel.max_dynamic_shared_size_bytes = (limit << 10) + 1


def test_before_8_there_are_no_tensor_cores(on):
    import cupy

    on(75)
    backend = gpu.cupy_backend("cupy, float32")
    assert backend.gpu.products == "Fma"
    backend.gpu.products = "Tf32"  # what the library does not do
    with pytest.raises(cupy.KernelFault, match=r"mma_tf32 .* needs compute capability 8.0"):
        kernel_cases.run_encode(backend, "colour")


@pytest.mark.parametrize("capability", SUMMED)
def test_every_kernel_is_within_half_of_its_tolerance(on, capability):
    on(capability)
    for precision in precisions(capability):
        backend, fast = gpu.cupy_backend(precision), precision
        if capability < 80:
            fast = "cupy, float32 without tensor cores"
        for case in kernel_cases.CASES:
            found, expected = kernel_cases.run_encode(backend, case)
            off = np.linalg.norm(found - expected) / np.linalg.norm(expected)
            assert off <= tolerances.ENCODE[fast] / 2, f"{precision}: {case}: {off}"
        (_, cosine, sums), (_, expected, expected_sums) = kernel_cases.run_kmeans(backend)
        assert abs(cosine - expected).max() <= tolerances.COSINE[fast] / 2, precision
        np.testing.assert_allclose(sums, expected_sums, atol=1e-6)
        for case in kernel_cases.BACKWARD_CASES:
            for found, expected in zip(*kernel_cases.run_backward(backend, case), strict=True):
                off = np.linalg.norm(found - expected) / np.linalg.norm(expected)
                assert off <= tolerances.GRADIENTS[fast] / 2, f"{precision}: gradients, {case}: {off}"
    for precision in kernel_cases.PAIR_PRECISIONS[: 1 if capability < 80 else None]:
        backend = gpu.cupy_backend(precision)
        for case in kernel_cases.PAIR_CASES:
            found, expected = kernel_cases.run_pairs(backend, case)
            off = abs(found - expected).max() / abs(expected).max()
            assert off <= PAIRS / 2, f"{precision}: {case}: {off}"


@pytest.mark.parametrize("capability", SUMMED)
def test_the_nearest_anchor_of_many(on, capability, rng):
    """The first of equal ones, whichever thread, warp and slab has it; of patches that do not fill a tile."""
    on(capability)
    backend = gpu.cupy_backend("cupy, float32")
    patches = rng.normal(size=(200, 20))
    patches = (patches / np.linalg.norm(patches, axis=1)[:, None]).astype(np.float32)
    anchors = np.concatenate([patches[:90], patches[:90]])
    nearest, cosine = map(backend.to_host, backend.nearest_anchor(*map(backend.asarray, (patches, anchors))))
    expected, cosines = get_backend("reference").nearest_anchor(patches, anchors)
    assert nearest[:90].tolist() == list(range(90))
    assert (nearest == expected).all()
    np.testing.assert_allclose(cosine, cosines, atol=1e-6)


@pytest.fixture
def gpu_probe(monkeypatch):
    """Return the probes of the hardware; before `on`, which puts more on the path."""
    bench = Path(__file__).parents[2] / "bench" / "gpu"
    if not bench.exists():
        pytest.skip("bench/gpu/ is not beside these tests")
    monkeypatch.syspath_prepend(bench)
    return importlib.import_module("gpu_probe")


@pytest.mark.parametrize(
    ("capability", "terms", "extra"), [(80, (4, 8), 1), (86, (4, 8), 1), (90, (8, 16), 2)]
)
def test_the_probe_of_a_gpu_finds_how_tensor_cores_sum(gpu_probe, on, capability, terms, extra):
    """What `make gpu` asks of the hardware; here it finds the model."""
    on(capability)
    for kind, at_once in zip(("tf32", "f16"), terms, strict=True):
        found = gpu_probe.sums(kind)
        assert (found["terms at once"], found["extra bits"], found["passed"]) == (at_once, extra, True)
