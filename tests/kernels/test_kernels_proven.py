"""The kernels in every order of their threads, under sanitizers, with faults planted, line by line.

Where there is no GPU they run on the CPU; what is shown here does not depend on one.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys

import gpu
import kernel_cases
import numpy as np
import pytest
import tolerances
from cuda_on_cpu import ORDERS, environment, line_coverage, sanitize
from kernel_cases import (
    BACKWARD_CASES,
    CASES,
    PAIR_CASES,
    PAIR_PRECISIONS,
    run_backward,
    run_encode,
    run_kmeans,
    run_pairs,
)

from ckncuda.backend.cupy import device
from ckncuda.kernels import source

if environment.why_unavailable() is not None:
    pytest.skip(str(environment.why_unavailable()), allow_module_level=True)


@pytest.fixture
def on_a_cpu(monkeypatch):
    """Execution on the CPU, on a machine with a GPU too."""
    if device.why_unavailable() is None:
        pytest.skip("there is a GPU here: its own tools look at the kernels (make gpu)")
    with gpu.a_gpu():
        yield


def error(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("precision", gpu.PRECISIONS)
def test_the_order_of_blocks_and_threads_changes_no_bit(on_a_cpu, monkeypatch, precision):
    found = []
    for order in ORDERS:
        monkeypatch.setenv("CKNCUDA_CPU_ORDER", order)
        backend = gpu.cupy_backend(precision)
        maps, references = zip(*(run_encode(backend, case) for case in CASES), strict=True)
        found.append([array.tobytes() for array in (*maps, *run_kmeans(backend)[0])])
    if tolerances.ENCODE[precision] < 1e-4:
        assert max(map(error, maps, references)) <= tolerances.ENCODE[precision]
    assert found == [found[0]] * len(ORDERS)


@pytest.mark.parametrize("precision", PAIR_PRECISIONS)
def test_the_order_changes_no_bit_of_exact_kernels(on_a_cpu, monkeypatch, precision):
    found = []
    for order in ORDERS:
        monkeypatch.setenv("CKNCUDA_CPU_ORDER", order)
        backend = gpu.cupy_backend(precision)
        grams, references = zip(*(run_pairs(backend, case) for case in PAIR_CASES), strict=True)
        found.append([gram.tobytes() for gram in grams])
    assert max(map(error, grams, references)) <= 1e-5
    assert found == [found[0]] * len(ORDERS)


def test_the_order_changes_no_bit_of_gradients(on_a_cpu, monkeypatch):
    found = []
    for order in ORDERS:
        monkeypatch.setenv("CKNCUDA_CPU_ORDER", order)
        backend = gpu.cupy_backend("cupy, float32")
        gradients, references = zip(*(run_backward(backend, case) for case in BACKWARD_CASES), strict=True)
        found.append([array.tobytes() for of_case in gradients for array in of_case])
    pairs = zip(itertools.chain(*gradients), itertools.chain(*references), strict=True)
    assert max(itertools.starmap(error, pairs)) <= tolerances.GRADIENTS["cupy, float32"]
    assert found == [found[0]] * len(ORDERS)


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_sanitizers_find_nothing_in_the_way_back(on_a_cpu, tmp_path, sanitizer):
    if reason := sanitize.why_unavailable(sanitizer):
        pytest.skip(reason)
    cases = list(BACKWARD_CASES)[: 1 if sanitizer == "thread" else None]  # which is slow
    with sanitize.recorded_to(tmp_path):
        for case in cases:
            run_backward(gpu.cupy_backend("cupy, float32 without tensor cores"), case)
    done = sanitize.replay(tmp_path, sanitizer)
    assert done.launches == 4 * len(cases)
    assert done.returncode == 0, done.report


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize("precision", PAIR_PRECISIONS)
def test_sanitizers_find_nothing_in_exact_kernels(on_a_cpu, tmp_path, sanitizer, precision):
    if reason := sanitize.why_unavailable(sanitizer):
        pytest.skip(reason)
    cases = list(PAIR_CASES) if sanitizer == "address" else ["colour, two layers"]  # threads are slow there
    with sanitize.recorded_to(tmp_path):
        backend = gpu.cupy_backend(precision)
        for case in cases:
            run_pairs(backend, case)
    done = sanitize.replay(tmp_path, sanitizer)
    assert done.launches == sum(len(PAIR_CASES[case][1]) for case in cases)
    assert done.returncode == 0, done.report


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize("precision", gpu.PRECISIONS)
def test_sanitizers_find_nothing(on_a_cpu, tmp_path, sanitizer, precision):
    if reason := sanitize.why_unavailable(sanitizer):
        pytest.skip(reason)
    cases, clusters = list(CASES), 66
    if sanitizer == "thread":  # which is slow; of clusters a block each
        cases, clusters = ["colour", "two parts of channels, two slabs of anchors"], 3
    with sanitize.recorded_to(tmp_path):
        backend = gpu.cupy_backend(precision)
        for case in cases:
            run_encode(backend, case)
        run_kmeans(backend, clusters=clusters)
    done = sanitize.replay(tmp_path, sanitizer)
    assert done.launches == len(cases) + 2
    assert done.returncode == 0, done.report


# Faults planted in a copy: what stands in the source, what is put in its place.
FAULTS = {
    "out of bounds": ("sum_by_anchor", "if (warp == 0 && column < size) {", "if (warp == 0) {"),
    "missing barrier": ("encode", "__syncthreads();  // the buffer may be filled again", ""),
    "missing barrier of pairs": (
        "pair_products",
        "__syncthreads();  // all are done with the tile before",
        "",
    ),
    "copies by some lanes": ("pair_products", "__syncwarp();  // some lanes copy more than others", "//"),
    "κ by branches": ("pair_products", "if constexpr (TANGENT || Kernel::BRANCHES) __syncwarp();", ""),
    "norms by some lanes": ("encode", "__syncwarp();  // the products are those of whole warps", ""),
    "patches beyond the maps": (
        "extract_patches",
        "last = min(patch_width, width - left) * channels;",
        "last = patch_width * channels;",
    ),
    "two lanes for all": ("extract_patches", "run.lane == 0) norms", "run.lane < 2) norms"),
    "one pooled position less": (
        "encode_backward",
        "by_step.quotient(max(0, from_origin + subsampling))) - first;",
        "by_step.quotient(max(0, from_origin))) - first;",
    ),
    "wrong halo": (
        "encode",
        "int bottom = min(map_height, origin_y + (last_row - 1) * subsampling + taps_y);",
        "int bottom = min(map_height, origin_y + (last_row - 1) * subsampling + taps_y - 1);",
    ),
}


@pytest.fixture
def planted(on_a_cpu, monkeypatch, request):
    """A copy of the sources with one fault, which the backend takes for its own."""
    operation, right, wrong = FAULTS[request.param]
    assert source(operation).count(right) == 1

    def with_fault(name):
        return source(name).replace(right, wrong) if name == operation else source(name)

    monkeypatch.setattr(device, "source", with_fault)
    device.compiled.cache_clear()
    yield request.param
    device.compiled.cache_clear()


@pytest.mark.parametrize("planted", ["out of bounds"], indirect=True)
def test_an_access_out_of_bounds_is_caught(planted, tmp_path):
    import cupy

    with sanitize.recorded_to(tmp_path), pytest.raises(cupy.KernelFault, match="sum_by_anchor"):
        run_kmeans(gpu.cupy_backend("cupy, float32"))
    if reason := sanitize.why_unavailable("address"):
        pytest.skip(reason)
    done = sanitize.replay(tmp_path, "address")
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.report
    assert "sum_by_anchor.cu" in done.report


@pytest.mark.parametrize("planted", ["missing barrier"], indirect=True)
def test_a_missing_barrier_is_caught(planted, tmp_path, monkeypatch):
    """By the sanitizer as a race; and by the parity suite, in one order of the threads or another."""
    case = "two parts of channels, two slabs of anchors"
    errors = []
    for order in ORDERS:
        monkeypatch.setenv("CKNCUDA_CPU_ORDER", order)
        actual, expected = run_encode(gpu.cupy_backend("cupy, float32"), case)
        errors.append(error(actual, expected))
    assert not max(errors) <= 2e-5  # NaN too
    if reason := sanitize.why_unavailable("thread"):
        pytest.skip(reason)
    with sanitize.recorded_to(tmp_path):
        run_encode(gpu.cupy_backend("cupy, float32"), case)
    done = sanitize.replay(tmp_path, "thread")
    assert done.returncode != 0
    assert "data race" in done.report
    assert "encode.cu" in done.report


@pytest.mark.parametrize("planted", ["missing barrier of pairs"], indirect=True)
def test_a_missing_barrier_of_pairs_is_caught(planted, tmp_path):
    if reason := sanitize.why_unavailable("thread"):
        pytest.skip(reason)
    with sanitize.recorded_to(tmp_path):
        run_pairs(gpu.cupy_backend("cupy, float32"), "many terms, wide maps")
    done = sanitize.replay(tmp_path, "thread")
    assert done.returncode != 0
    assert "data race" in done.report
    assert "pair_pooling.cuh" in done.report


@pytest.mark.parametrize(
    ("planted", "sanitizer", "message"),
    [
        ("patches beyond the maps", "address", "heap-buffer-overflow"),
        ("two lanes for all", "thread", "data race"),
    ],
    indirect=["planted"],
)
def test_a_fault_of_the_way_back_is_caught(planted, sanitizer, message, tmp_path):
    if reason := sanitize.why_unavailable(sanitizer):
        pytest.skip(reason)
    import cupy

    with sanitize.recorded_to(tmp_path), contextlib.suppress(cupy.KernelFault):
        run_backward(gpu.cupy_backend("cupy, float32 without tensor cores"), "colour")
    done = sanitize.replay(tmp_path, sanitizer)
    assert done.returncode != 0
    assert message in done.report
    assert f"{FAULTS[planted][0]}.cu" in done.report


@pytest.mark.parametrize("planted", ["one pooled position less"], indirect=True)
def test_a_pooled_position_that_is_forgotten_is_caught(planted):
    """Parity finds it in both gradients."""
    found, expected = run_backward(gpu.cupy_backend("cupy, float32"), "colour")
    assert min(map(error, found, expected)) > 1e-2


@pytest.fixture
def followed(on_a_cpu, monkeypatch):
    """Kernels whose warps must be together, by way of the same branches, at each product."""
    if environment.why_no_ways():
        pytest.skip(environment.why_no_ways())
    monkeypatch.setenv("CKNCUDA_CPU_FLAGS", environment.WAYS)
    device.compiled.cache_clear()
    yield
    device.compiled.cache_clear()


def test_warps_are_together_where_they_must_be(followed):
    for precision in (name for name in gpu.PRECISIONS if "without" not in name):
        backend = gpu.cupy_backend(precision)
        for case in CASES:
            run_encode(backend, case)
        run_kmeans(backend)
    for case in PAIR_CASES:
        run_pairs(gpu.cupy_backend("cupy, float32"), case)


@pytest.mark.parametrize(
    ("planted", "case"),
    [
        ("copies by some lanes", "colour, two layers"),
        ("κ by branches", "tangents of two layers"),
        ("norms by some lanes", "colour"),
    ],
    indirect=["planted"],
)
def test_a_warp_that_a_branch_has_parted_is_caught_at_its_product(followed, planted, case):
    """The result is right here; but a GPU need not bring the lanes together, and the product needs all."""
    import cupy

    run = run_pairs if case in PAIR_CASES else run_encode
    with pytest.raises(cupy.KernelFault, match="mma_.*has come here by other branches than lane"):
        run(gpu.cupy_backend("cupy, float32"), case)


@pytest.mark.parametrize("planted", ["wrong halo"], indirect=True)
def test_a_wrong_halo_is_caught(planted):
    """Only where an image is cut into tiles: in the rows at their seams."""
    backend = gpu.cupy_backend("cupy, float32")
    actual, expected = run_encode(backend, "tiles of rows and columns")
    assert error(actual, expected) > 1e-3
    whole = run_encode(gpu.cupy_backend("cupy, float32"), "colour", many_multiprocessors=False)
    assert error(*whole) <= 2e-5


def test_all_lines_of_the_kernels_are_executed(tmp_path, record_property):
    if reason := line_coverage.why_unavailable():
        pytest.skip(reason)
    if device.why_unavailable() is None:
        pytest.skip("there is a GPU here, which does not count lines")
    variables = os.environ | line_coverage.variables(tmp_path)
    subprocess.run([sys.executable, kernel_cases.__file__], env=variables, check=True, timeout=300)
    counted = line_coverage.lines(tmp_path)
    counted = {name: lines for name, lines in counted.items() if name.startswith("kernels/")}
    report = {name: f"{lines.covered} of {lines.executable}" for name, lines in counted.items()}
    record_property("lines of kernels executed", json.dumps(report))
    names = "block", "dot_product", "lanes", "pair_pooling", "product"
    headers = {f"kernels/{name}.cuh" for name in names}
    operations = "encode", "nearest_anchor", "pair_products", "pair_sums", "sum_by_anchor"
    operations += "encode_backward", "extract_patches", "fold_patches"
    assert set(counted) == headers | {f"kernels/{name}.cu" for name in operations}
    assert {name: lines.missed for name, lines in counted.items() if lines.missed} == {}
