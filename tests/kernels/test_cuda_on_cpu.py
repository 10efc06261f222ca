"""The harness that executes CUDA kernels on a CPU, on kernels small enough to know what they do."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

TESTS = Path(__file__).resolve().parents[1]
if str(TESTS) not in sys.path:
    sys.path.append(str(TESTS))

from cuda_on_cpu import compiler, environment, line_coverage, sanitize  # noqa: E402

pytestmark = pytest.mark.skipif(
    environment.why_unavailable() is not None, reason=str(environment.why_unavailable())
)
ORDERS = ("forward", "backward", "shuffled:1", "shuffled:2")

SOURCE = r"""
#line 1 "kernels/toy.cu"
typedef unsigned int u32;
__device__ float* shared_floats() { return reinterpret_cast<float*>(dynamic_shared()); }

__global__ void arrivals(int* counter, int* order) {
    order[atomicAdd(counter, 1)] = blockIdx.x * blockDim.x + threadIdx.x;
}
template <class T> __global__ void shuffles(const T* x, T* y) {
    int i = threadIdx.x;
    y[i] = __shfl_xor_sync(~0u, x[i], 5);
    y[32 + i] = __shfl_sync(~0u, x[i], (3 * i + 1) % 32);
    y[64 + i] = __shfl_down_sync(~0u, x[i], 3);
    y[96 + i] = __shfl_up_sync(~0u, x[i], 2, 8);
    y[128 + i] = __shfl_sync(~0u, x[i], 11, 8);
}
__global__ void votes(const int* x, u32* y) {
    u32 ballot = __ballot_sync(~0u, x[threadIdx.x]);
    y[threadIdx.x] = ballot + 0 * __any_sync(~0u, 0);
    y[32 + threadIdx.x] = __any_sync(~0u, x[threadIdx.x]) + 2 * __all_sync(~0u, x[threadIdx.x]);
}
__global__ void half_warps(const float* x, float* y) {
    int i = threadIdx.x;
    if (i < 16) y[i] = __shfl_xor_sync(0x0000ffffu, x[i], 1);
    else y[i] = __shfl_xor_sync(0xffff0000u, x[i], 2) + __shfl_sync(0xffff0000u, x[i], 0);
}
__global__ void reverse(const float* x, float* y) {
    float* s = shared_floats();
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
}
__global__ void reverse_without_barrier(const float* x, float* y) {
    float* s = shared_floats();
    s[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
}
__global__ void leftovers(float* y) {
    y[blockIdx.x * blockDim.x + threadIdx.x] = shared_floats()[threadIdx.x];
    shared_floats()[threadIdx.x] = 1;
}
template <int groups> __global__ void copies(const float* x, float* y) {
    float* s = shared_floats();
    int i = threadIdx.x;
    copy_async_4(s + i, x + i, true);
    copy_commit();
    copy_async_16(s + 32 + 4 * i, x + 4 * i, i % 2 == 0);
    copy_commit();
    if (groups >= 0) copy_wait<groups>();
    __syncthreads();
    y[i] = s[31 - i];
    for (int j = 0; j < 4; ++j) y[32 + 4 * i + j] = s[32 + 4 * i + j];
}
__global__ void copy_to(const float* x, int to, int from, int sixteen) {
    if (sixteen) copy_async_16(shared_floats() + to, x + from, true);
    else copy_async_4(shared_floats() + to, x + from, true);
}
template <int n> __device__ void load(u32 (&to)[n], const u32* from) {
    for (int i = 0; i < n; ++i) to[i] = from[threadIdx.x * n + i];
}
enum Kind { tf32, bf16, f16 };
template <Kind kind> __global__ void multiply(const u32* a, const u32* b, float* d, int times) {
    u32 fragment_a[4], fragment_b[2];
    load(fragment_a, a);
    load(fragment_b, b);
    float sums[4];
    for (int i = 0; i < 4; ++i) sums[i] = d[threadIdx.x * 4 + i];
    for (int i = 0; i < times; ++i) {
        if (kind == tf32) mma_tf32(sums, fragment_a, fragment_b);
        else if (kind == bf16) mma_bf16(sums, fragment_a, fragment_b);
        else mma_f16(sums, fragment_a, fragment_b);
    }
    for (int i = 0; i < 4; ++i) d[threadIdx.x * 4 + i] = sums[i];
}
__global__ void rounded(const float* x, u32* bf16) {
    bf16[threadIdx.x] = to_bf16_pair(x[threadIdx.x], x[blockDim.x - 1 - threadIdx.x]);
}
__global__ void diverge(int kind, float* y) {
    int i = threadIdx.x;
    if (kind == 0 && i < 7) __syncthreads();
    if (kind == 0 && i >= 7 && i < 32) __shfl_sync(~0u, 1.0f, 0);
    if (kind == 1) {
        if (i < 32) __syncthreads();
        else
            __syncthreads();
    }
    if (kind == 2) {
        if (i % 2) __shfl_sync(~0u, 1.0f, 0);
        else
            __shfl_sync(~0u, 2.0f, 0);
    }
    if (kind == 3) {
        float d[4] = {};
        u32 a[4] = {}, b[2] = {};
        if (i != 9) mma_tf32(d, a, b);
    }
    if (kind == 4) __shfl_sync(0x0000ffffu, 1.0f, 0);
    if (kind == 5) {  // threads that have ended are not waited for
        if (i >= 40) return;
        __syncthreads();
        float sum = __shfl_xor_sync(~0u, 1.0f, 1);
        y[i] = sum;
    }
    if (kind == 6 && i == 3) __trap();
}
__global__ void between_blocks(float* y) { y[0] = blockIdx.x; }
__global__ void all_blocks(float* y) { atomicAdd(y, 1.0f); }
template <class T> __global__ void atomics(T* y) {
    atomicAdd(y, 2);
    atomicMax(y + 1, static_cast<T>(threadIdx.x));
    atomicMin(y + 2, static_cast<T>(threadIdx.x));
}
__global__ void write_at(float* y, int i) { if (threadIdx.x == 0) y[i] = 1; }
__global__ void write_shared_at(float* y, int i) { if (threadIdx.x == 0) shared_floats()[i] = y[0]; }
__global__ void misaligned(float* y) { *reinterpret_cast<float4*>(y + 1) = make_float4(1, 2, 3, 4); }
__global__ void scale(float* y, float by, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] *= by;
}
struct Pair { float a; int b; };
__global__ void many(const void* v, unsigned char* bytes, const float4* q, double d, long long l, u32 u,
                     bool flag, Pair pair, float* y) {
    y[0] = q[0].y + d + l + u + flag + pair.a + pair.b;
}
extern "C" __global__ void plain(float* y) { y[threadIdx.x] = fminf(max(1, threadIdx.x), 1e-39f); }
"""
KERNELS = (
    *("arrivals", "shuffles<float>", "shuffles<int>", "shuffles<double>", "shuffles<unsigned int>", "votes"),
    *(
        "half_warps",
        "reverse",
        "reverse_without_barrier",
        "leftovers",
        "copies<-1>",
        "copies<0>",
        "copies<1>",
    ),
    *(
        "copy_to",
        "multiply<tf32>",
        "multiply<bf16>",
        "multiply<f16>",
        "rounded",
        "diverge",
        "between_blocks",
        "all_blocks",
    ),
    *("atomics<int>", "atomics<float>", "atomics<unsigned int>", "write_at", "write_shared_at", "misaligned"),
    *("scale", "many"),
)


@pytest.fixture(scope="module", name="cp")
def stand_in() -> Iterator[ModuleType]:
    with environment.installed():
        import cupy

        yield cupy


@pytest.fixture(scope="module")
def toys(cp: Any) -> Any:
    return cp.RawModule(code=SOURCE, options=("--std=c++17", "-DUNUSED=1"), name_expressions=KERNELS)


@pytest.fixture(params=ORDERS)
def order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("CKNCUDA_CPU_ORDER", request.param)
    return str(request.param)


# ---- Threads ---------------------------------------------------------------------------------------------


def arrival_order(cp: Any, toys: Any) -> NDArray[np.int32]:
    seen = cp.zeros(4 * 96, np.int32)
    toys.get_function("arrivals")((4,), (96,), (cp.zeros(1, np.int32), seen))
    return seen.get()  # type: ignore[no-any-return]


def test_threads_and_blocks_run_in_the_order_chosen(cp, toys, monkeypatch):
    orders = {}
    for name in ("", *ORDERS, "shuffled:1"):
        monkeypatch.setenv("CKNCUDA_CPU_ORDER", name)
        arrived = arrival_order(cp, toys)
        assert name not in orders or (orders[name] == arrived).all()
        orders[name] = arrived
    everybody = np.arange(4 * 96)
    np.testing.assert_array_equal(orders[""], everybody)
    np.testing.assert_array_equal(orders["forward"], everybody)
    np.testing.assert_array_equal(orders["backward"], everybody[::-1])
    np.testing.assert_array_equal(np.sort(orders["shuffled:1"]), everybody)
    assert (orders["shuffled:1"] != orders["shuffled:2"]).any()


@pytest.mark.parametrize("name", ["float", "int", "double", "unsigned int"])
def test_shuffles(cp, toys, order, name):
    dtype = {"float": "f4", "int": "i4", "double": "f8", "unsigned int": "u4"}[name]
    x = np.random.default_rng(1).integers(0, 2**31, 32).astype(dtype)
    y = cp.empty(160, dtype)
    toys.get_function(f"shuffles<{name}>")((1,), (32,), (cp.asarray(x), y))
    i = np.arange(32)
    sources = (
        *(i ^ 5, (3 * i + 1) % 32, np.where(i + 3 < 32, i + 3, i)),
        *(np.where(i % 8 >= 2, i - 2, i), i // 8 * 8 + 3),
    )
    np.testing.assert_array_equal(y.get(), np.concatenate([x[source] for source in sources]))


def test_votes(cp, toys, order):
    x = (np.arange(32) % 3 == 0).astype(np.int32)
    y = cp.empty(64, np.uint32)
    toys.get_function("votes")((1,), (32,), (cp.asarray(x), y))
    assert set(y.get()[:32]) == {sum(1 << i for i in range(0, 32, 3))}
    assert set(y.get()[32:]) == {1}


def test_parts_of_a_warp_may_go_different_ways(cp, toys, order):
    x = np.arange(32, dtype=np.float32)
    y = cp.empty_like(cp.asarray(x))
    toys.get_function("half_warps")((1,), (32,), (cp.asarray(x), y))
    result = y.get()
    np.testing.assert_array_equal(result[:16], np.arange(16) ^ 1)
    # Lane 0 is not among the upper lanes: what comes from there is undefined, shown as NaN.
    assert np.isnan(result[16:]).all()


def test_barrier_lets_threads_see_what_others_wrote(cp, toys, order):
    x = cp.arange(200, dtype=np.float32)
    y = cp.empty_like(x)
    toys.get_function("reverse")((1,), (200,), (x, y), shared_mem=800)
    np.testing.assert_array_equal(y.get(), x.get()[::-1])


def test_without_a_barrier_threads_see_nan(cp, toys):
    x = cp.arange(200, dtype=np.float32)
    y = cp.empty_like(x)
    toys.get_function("reverse_without_barrier")((1,), (200,), (x, y), shared_mem=800)
    assert np.isnan(y.get()).any()


def test_shared_memory_of_every_block_begins_as_nan(cp, toys):
    y = cp.zeros(64, np.float32)
    toys.get_function("leftovers")((2,), (32,), (y,), shared_mem=128)
    assert np.isnan(y.get()).all()
    assert np.isnan(cp.empty(5, np.float32).get()).all()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            0,
            r"deadlock.*0-6 wait at __syncthreads.*toy.cu.*7-31 wait at __shfl_sync.*32-63 have ended",
        ),
        (1, r"two barriers"),
        (2, r"divergence: lanes 0x"),
        (3, r"mma_tf32.*all 32 lanes|threads 0-8, 10-31 wait at mma_tf32|threads 0-8 10-31 wait at mma_tf32"),
        (4, r"has no bit for the lane 16"),
        (6, r"__trap.*thread \(3, 0, 0\)"),
    ],
)
def test_divergence_is_an_error(cp, toys, kind, message):
    toys.get_function("diverge")((1,), (64,), (np.int32(kind), cp.zeros(64, np.float32)))
    with pytest.raises(cp.KernelFault, match=message):
        cp.cuda.Device().synchronize()


def test_threads_that_have_ended_are_not_waited_for(cp, toys, order):
    y = cp.zeros(64, np.float32)
    toys.get_function("diverge")((1,), (64,), (np.int32(5), y))
    np.testing.assert_array_equal(y.get(), (np.arange(64) < 40).astype(np.float32))


@pytest.mark.parametrize(("name", "dtype"), [("int", "i4"), ("float", "f4"), ("unsigned int", "u4")])
def test_atomic_operations(cp, toys, order, name, dtype):
    y = cp.asarray(np.array([1, 5, 5], dtype))
    toys.get_function(f"atomics<{name}>")((3,), (50,), (y,))
    assert y.get().tolist() == [1 + 2 * 150, 49, 0]


# ---- Asynchronous copies ---------------------------------------------------------------------------------


def copied(cp: Any, toys: Any, groups: int) -> NDArray[np.float32]:
    y = cp.zeros(160, np.float32)
    x = cp.arange(128, dtype=np.float32)
    toys.get_function(f"copies<{groups}>")((1,), (32,), (x, y), shared_mem=640)
    return y.get()  # type: ignore[no-any-return]


def test_copies_are_there_after_the_wait(cp, toys, order):
    y = copied(cp, toys, 0)
    np.testing.assert_array_equal(y[:32], np.arange(32)[::-1])
    wide = np.arange(128.0)
    wide[np.arange(128) // 4 % 2 == 1] = 0  # outside: zeros
    np.testing.assert_array_equal(y[32:], wide)


def test_copies_of_a_later_group_are_not_waited_for(cp, toys, order):
    y = copied(cp, toys, 1)
    np.testing.assert_array_equal(y[:32], np.arange(32)[::-1])
    assert np.isnan(y[32:]).all()


def test_copies_without_a_wait_are_nan(cp, toys, order):
    assert np.isnan(copied(cp, toys, -1)).all()


@pytest.mark.parametrize(
    ("to", "source", "sixteen", "message"),
    [
        *(
            (1, 0, 1, "multiples of 16"),
            (0, 2, 1, "multiples of 16"),
            (16, 0, 0, "not in the block's 64 bytes"),
        ),
        *((-1, 0, 0, "not in the block"), (13, 0, 1, "not in the block")),
    ],
)
def test_copies_to_where_they_cannot_go(cp, toys, to, source, sixteen, message):
    numbers = (np.int32(to), np.int32(source), np.int32(sixteen))
    toys.get_function("copy_to")((1,), (1,), (cp.zeros(8, np.float32), *numbers), shared_mem=64)
    with pytest.raises(cp.KernelFault, match=f"(?s)copy_async.*toy.cu.*{message}"):
        cp.cuda.Device().synchronize()


# ---- Tensor cores ----------------------------------------------------------------------------------------


def tf32(x: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Rounded to 10 bits of mantissa, ties away from zero."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    scaled = np.abs(mantissa) * 2**11
    return (
        (np.copysign(np.floor(scaled + 0.5), x) * 2.0 ** (exponent - 11)).astype(np.float32).view(np.uint32)
    )


def bf16(x: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Rounded to 7 bits of mantissa, ties to even, as the upper half of a float."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return (np.rint(mantissa * 2**8) * 2.0 ** (exponent - 8)).astype(np.float32).view(np.uint32) >> 16


def test_roundings(cp, toys, rng):
    x = rng.normal(size=1000).astype(np.float32)
    ties = np.array(
        [1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-11, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8], np.float32
    )
    x[: len(ties)] = ties
    as_bf16 = cp.empty(1000, np.uint32)
    toys.get_function("rounded")((1,), (1000,), (cp.asarray(x), as_bf16))
    np.testing.assert_array_equal(as_bf16.get(), bf16(x) | bf16(x[::-1]) << 16)


def test_roundings_keep_what_is_no_number(cp, toys):
    x = np.array([np.nan, np.inf, -np.inf, 0xFFFFFFFF], np.float32)
    x[3:].view(np.uint32)[...] = 0xFFFFFFFF
    as_bf16 = cp.empty(4, np.uint32)
    toys.get_function("rounded")((1,), (4,), (cp.asarray(x), as_bf16))
    np.testing.assert_array_equal((as_bf16.get() << 16).view(np.float32), x)


def fragments_tf32(a, b):
    """A [16, 8] and B [8, 8] as the lanes hold them: [32, 4] and [32, 2]."""
    g, t = np.arange(32) // 4, np.arange(32) % 4
    held_a = np.stack([a[g, t], a[g + 8, t], a[g, t + 4], a[g + 8, t + 4]], axis=1)
    return held_a, np.stack([b[t, g], b[t + 4, g]], axis=1)


def fragments_bf16(a, b):
    """A [16, 16] and B [16, 8] as pairs of neighbours along k, the first in the lower half."""
    g, t = np.arange(32) // 4, np.arange(32) % 4
    pairs_a = a[:, 0::2] | a[:, 1::2] << 16  # [16, 8]
    pairs_b = b[0::2] | b[1::2] << 16  # [8, 8]
    held_a = np.stack([pairs_a[g, t], pairs_a[g + 8, t], pairs_a[g, t + 4], pairs_a[g + 8, t + 4]], axis=1)
    return held_a, np.stack([pairs_b[t, g], pairs_b[t + 4, g]], axis=1)


def held_sums(d):
    """D [16, 8] as the lanes hold it, [32, 4]."""
    g, t = np.arange(32) // 4, np.arange(32) % 4
    return np.stack([d[g, 2 * t], d[g, 2 * t + 1], d[g + 8, 2 * t], d[g + 8, 2 * t + 1]], axis=1)


@pytest.mark.parametrize("kind", ["tf32", "bf16", "f16"])
def test_products_of_tiles(cp, toys, rng, order, kind):
    depth = 8 if kind == "tf32" else 16
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((16, depth), (depth, 8)))
    d = rng.normal(size=(16, 8)).astype(np.float32)
    if kind == "tf32":
        bits = [tf32(m) for m in (a, b)]
        exact = [m.view(np.float32).astype(np.float64) for m in bits]
        noisy = [m | rng.integers(0, 1 << 13, m.shape, dtype=np.uint32) for m in bits]  # ignored
        held = fragments_tf32(*noisy)
    elif kind == "f16":
        a[0, :3] = 3e-6, 0, 6e4  # not normal, zero, large
        bits = [m.astype(np.float16).view(np.uint16).astype(np.uint32) for m in (a, b)]
        exact = [m.astype(np.float16).astype(np.float64) for m in (a, b)]
        held = fragments_bf16(*bits)  # laid out alike
    else:
        bits = [bf16(m) for m in (a, b)]
        exact = [(m << 16).view(np.float32).astype(np.float64) for m in bits]
        held = fragments_bf16(*bits)
    sums = cp.asarray(held_sums(d))
    operands = [cp.asarray(np.ascontiguousarray(m)) for m in held]
    toys.get_function(f"multiply<{kind}>")((1,), (32,), (*operands, sums, np.int32(2)))
    expected = held_sums(d + 2 * exact[0] @ exact[1])
    np.testing.assert_allclose(sums.get(), expected, rtol=3e-7, atol=1e-6)


# ---- Launches --------------------------------------------------------------------------------------------


def refused(cp: Any) -> list[Any]:
    y = cp.zeros(8, np.float32)
    by, n = np.float32(2), np.int32(8)
    return [
        ((y, by), TypeError, "takes 3 arguments"),
        ((y, by, n, n), TypeError, "takes 3 arguments"),
        ((y, by, 8), TypeError, "numpy.int32 is wanted; CuPy passes Python's numbers with 64 bits"),
        ((y, 2.0, n), TypeError, "numpy.float32 is wanted"),
        ((y, np.float64(2), n), TypeError, "numpy.float32 is wanted"),
        ((y, by, np.int64(8)), TypeError, "numpy.int32 is wanted"),
        ((y, by, np.uint32(8)), TypeError, "numpy.int32 is wanted"),
        ((y.get(), by, n), TypeError, "an array of the host"),
        ((y.astype(np.float64), by, n), TypeError, "its dtype is float64, the kernel reads float32"),
        ((y[::2], by, n), TypeError, "not contiguous"),
        ((by, by, n), TypeError, "an array of the device is wanted"),
        ((y, y, n), TypeError, "numpy.float32 is wanted"),
    ]


@pytest.mark.parametrize("case", range(12))
def test_wrong_arguments_are_refused(cp, toys, case):
    arguments, error, message = refused(cp)[case]
    with pytest.raises(error, match=message):
        toys.get_function("scale")((1,), (8,), arguments)


def test_offset_of_a_view_is_honoured(cp, toys):
    y = cp.ones(8, np.float32)
    toys.get_function("scale")((1,), (8,), (y[4:], np.float32(3), np.int32(2)))
    assert y.get().tolist() == [1, 1, 1, 1, 3, 3, 1, 1]


def test_parameters_of_every_kind(cp, toys):
    kernel = toys.get_function("many")
    assert kernel.parameters == (
        *("pc:v0", "p:u1", "pc:f4", "scalar:f8", "scalar:i8", "scalar:u4", "scalar:b1", "struct:8", "p:f4"),
    )
    pair = np.array([(0.5, 7)], dtype=[("a", "f4"), ("b", "i4")])[0]
    q, y = cp.asarray(np.array([0, 100, 0, 0], np.float32)), cp.zeros(1, np.float32)
    numbers = (np.float64(1), np.int64(2), np.uint32(3), np.bool_(True), pair)
    kernel((1,), (1,), (q, None, q, *numbers, y))
    assert float(y[0]) == 100 + 1 + 2 + 3 + 1 + 7.5


@pytest.mark.parametrize(
    ("grid", "block", "error"),
    [
        *(((1,), (1025,), "block"), ((1,), (32, 64), "1024 threads"), ((1, 65536), (1,), "grid")),
        *(((0,), (1,), "grid"), ((1,), (1, 1, 65), "block")),
    ],
)
def test_limits_of_grid_and_block(cp, toys, grid, block, error):
    with pytest.raises(cp.cuda.driver.CUDADriverError, match=error):
        toys.get_function("between_blocks")(grid, block, (cp.zeros(1, np.float32),))


def test_limits_of_shared_memory(cp, toys):
    kernel = toys.get_function("leftovers")
    y = cp.zeros(32, np.float32)
    kernel((1,), (32,), (y,), shared_mem=48 << 10)
    with pytest.raises(cp.cuda.driver.CUDADriverError, match="max_dynamic_shared_size_bytes"):
        kernel((1,), (32,), (y,), shared_mem=(48 << 10) + 1)
    kernel.max_dynamic_shared_size_bytes = 227 << 10
    kernel((1,), (32,), (y,), shared_mem=227 << 10)
    with pytest.raises(cp.cuda.driver.CUDADriverError, match="232448"):
        kernel.max_dynamic_shared_size_bytes = (227 << 10) + 1
    cp.cuda.Device().synchronize()


@pytest.mark.parametrize("i", [-1, 8, 60, -60])
def test_writing_just_outside_an_array_is_found(cp, toys, i):
    toys.get_function("write_at")((1,), (32,), (cp.zeros(8, np.float32), np.int32(i)))
    with pytest.raises(cp.KernelFault, match="outside of the array that is argument 0"):
        cp.cuda.Device().synchronize()


def test_writing_beyond_shared_memory_is_found(cp, toys):
    toys.get_function("write_shared_at")((1,), (32,), (cp.zeros(8, np.float32), np.int32(8)), shared_mem=32)
    with pytest.raises(cp.KernelFault, match="beyond its 32 bytes"):
        cp.cuda.Device().synchronize()


def test_a_fault_is_an_error_of_the_launch(cp, toys):
    for name, arguments in (("misaligned", ()), ("write_at", (np.int32(1 << 30),))):
        toys.get_function(name)((1,), (1,), (cp.zeros(8, np.float32), *arguments))
        with pytest.raises(cp.KernelFault, match=f"fault .*launch of {name}"):
            cp.cuda.Device().synchronize()


def test_functions_declared_extern_c_need_no_expression(cp):
    module = cp.RawModule(code=SOURCE)
    y = cp.ones(4, np.float32)
    module.get_function("plain")((1,), (4,), (y,))
    assert y.get().tolist() == [0, 0, 0, 0]  # 1e-39 is flushed to zero, as CuPy's option -ftz has it
    with pytest.raises(cp.cuda.driver.CUDADriverError, match="NOT_FOUND"):
        module.get_function("between_blocks")


def test_source_that_does_not_compile(cp):
    with pytest.raises(cp.cuda.compiler.CompileException, match="nonsense"):
        cp.RawModule(code="__global__ void f() { nonsense; }", name_expressions=("f",)).get_function("f")


def test_two_processes_compile_one_module(tmp_path):
    program = (
        "import cupy, numpy as np\n"
        "f = cupy.RawModule(code='__global__ void f(int* x) { atomicAdd(x, 2); }', name_expressions=['f'])\n"
        "x = cupy.zeros(1, np.int32); f.get_function('f')((2,), (3,), (x,)); print(int(x[0]))"
    )
    variables = {**environment.environment(), "CKNCUDA_CPU_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", program]
    both = [subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=120)[0] for process in both] == ["12\n", "12\n"]


def test_switch_of_the_system_does_the_same(cp, monkeypatch):
    monkeypatch.setenv("CKNCUDA_CPU_FLAGS", "-DCKN_UCONTEXT")
    x = cp.arange(200, dtype=np.float32)
    y = cp.empty_like(x)
    module = cp.RawModule(code=SOURCE, name_expressions=("reverse",))
    module.get_function("reverse")((1,), (200,), (x, y), shared_mem=800)
    np.testing.assert_array_equal(y.get(), x.get()[::-1])


# ---- The stand-in for CuPy -------------------------------------------------------------------------------


def test_a_child_process_finds_cupy_and_a_driver():
    program = "import ctypes, cupy; ctypes.CDLL('libcuda.so.1'); print(cupy.cuda.runtime.getDeviceCount())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1\n"


def test_host_and_device_do_not_mix(cp):
    x, host = cp.ones(3, np.float32), np.ones(3, np.float32)
    mixtures = [
        *(
            lambda: np.asarray(x),
            lambda: x + host,
            lambda: host + x,
            lambda: np.add(x, host),
            lambda: x @ host,
        ),
        *(lambda: cp.concatenate([x, host]), lambda: np.concatenate([x, host]), lambda: x[host > 0]),
        *(
            lambda: cp.dot(x, host),
            lambda: x.__setitem__(slice(None), host),
            lambda: cp.sum(host),
            lambda: np.array([x]),
        ),
        *(lambda: x.__iadd__(host), lambda: host.__iadd__(x), lambda: host.__setitem__(slice(None), x)),
    ]
    for mix in mixtures:
        with pytest.raises((TypeError, ValueError)):
            mix()


def test_numbers_of_the_host_do_mix(cp):
    x = cp.arange(4, dtype=np.float32)
    for result in (x + 1, 1 + x, np.float32(1) + x, x + np.float32(1), np.add(x, 1)):
        assert isinstance(result, cp.ndarray)
        assert result.dtype == np.float32
        assert result.get().tolist() == [1, 2, 3, 4]


def test_functions_are_numpys(cp, rng):
    host = rng.normal(size=(4, 5)).astype(np.float32)
    x = cp.asarray(host)
    pairs = [
        (x.sum(axis=0), host.sum(axis=0)),
        (cp.einsum("ij,kj->ik", x, x), np.einsum("ij,kj->ik", host, host)),
        (x[1:, ::2], host[1:, ::2]),
        (x[cp.asarray(np.array([2, 0]))], host[[2, 0]]),
        (cp.where(x > 0, x, 0), np.where(host > 0, host, 0)),
        (cp.linalg.norm(x, axis=1), np.linalg.norm(host, axis=1)),
        (x.T @ x, host.T @ host),
        (x.astype(np.float64).mean(), host.astype(np.float64).mean()),
        (
            cp.lib.stride_tricks.sliding_window_view(x, (2, 2)),
            np.lib.stride_tricks.sliding_window_view(host, (2, 2)),
        ),
        (cp.add.reduce(x, axis=1), np.add.reduce(host, axis=1)),
        (np.exp(x), np.exp(host)),
    ]
    for device, expected in pairs:
        assert isinstance(device, cp.ndarray)
        np.testing.assert_array_equal(device.get(), expected)
    assert isinstance(x.sum(), cp.ndarray)
    assert x.sum().shape == ()
    out = cp.empty_like(x)
    assert cp.multiply(x, 2, out=out) is out
    same = x
    same += 1
    assert same is x
    view = x[0]
    view[...] = 7
    assert (x.get()[0] == 7).all()


def test_a_pinned_buffer_must_not_be_written_before_the_copy_is_done(cp, toys):
    memory = cp.cuda.alloc_pinned_memory(16)
    pinned = np.frombuffer(memory, np.float32, 4)
    x, stream = cp.zeros(4, np.float32), cp.cuda.Stream(non_blocking=True)
    pinned[...] = 1
    x.set(pinned, stream=stream)
    pinned[...] = 2  # too early
    toys.get_function("scale")((1,), (4,), (x, np.float32(10), np.int32(4)), stream=stream)
    back = np.frombuffer(cp.cuda.alloc_pinned_memory(16), np.float32, 4)
    back[...] = 0
    x.get(out=back, stream=stream, blocking=False)
    assert back.tolist() == [0, 0, 0, 0]
    stream.synchronize()
    assert back.tolist() == [20, 20, 20, 20]


def test_work_of_another_stream_has_not_been_done_without_an_event(cp, toys):
    x = cp.ones(4, np.float32)
    one, other = cp.cuda.Stream(non_blocking=True), cp.cuda.Stream(non_blocking=True)
    toys.get_function("scale")((1,), (4,), (x, np.float32(5), np.int32(4)), stream=one)
    with other:
        assert float(x.sum()) == 4
        other.wait_event(one.record())
        assert float(x.sum()) == 20


def test_the_null_stream_waits_for_blocking_streams(cp, toys):
    x, stream = cp.ones(4, np.float32), cp.cuda.Stream()
    toys.get_function("scale")((1,), (4,), (x, np.float32(5), np.int32(4)), stream=stream)
    assert float(x.sum()) == 20


def test_memory_of_the_device_is_limited(cp, monkeypatch):
    monkeypatch.setenv(
        "CKNCUDA_CPU_DEVICE_MEMORY", str(cp.get_default_memory_pool().used_bytes() + (1 << 20))
    )
    free, _ = cp.cuda.runtime.memGetInfo()
    x = cp.zeros(200_000, np.float32)
    assert free - cp.cuda.runtime.memGetInfo()[0] == 800_000
    with pytest.raises(cp.cuda.memory.OutOfMemoryError, match="800,000 bytes"):
        cp.empty(200_000, np.float32)
    with pytest.raises(cp.cuda.memory.OutOfMemoryError):
        x + x
    view = x[10:]
    del x
    assert cp.cuda.runtime.memGetInfo()[0] < free
    del view
    assert cp.cuda.runtime.memGetInfo()[0] == free


# ---- Sanitizers and coverage -----------------------------------------------------------------------------


def launch_recorded(cp: Any, toys: Any, folder: Path, name: str) -> None:
    x, y = cp.arange(128, dtype=np.float32), cp.zeros(160, np.float32)
    arguments: dict[str, Any] = {
        "reverse": ((1,), (128,), (x, y), 512),
        "reverse_without_barrier": ((1,), (128,), (x, y), 512),
        "copies<0>": ((1,), (32,), (x, y), 640),
        "leftovers": ((5,), (32,), (y,), 128),
        "write_at": ((1,), (32,), (y, np.int32(160)), 0),
        "write_shared_at": ((1,), (32,), (y, np.int32(8)), 32),
        "misaligned": ((1,), (1,), (y,), 0),
        "between_blocks": ((2,), (1,), (y,), 0),
        "all_blocks": ((4,), (32,), (y,), 0),
        "multiply<tf32>": ((3,), (32,), (x.view(np.uint32), x.view(np.uint32)[:64], y[:128], np.int32(2)), 0),
    }
    grid, block, values, shared = arguments[name]
    with sanitize.recorded_to(folder):
        toys.get_function(name)(grid, block, values, shared_mem=shared)
        try:
            cp.cuda.Device().synchronize()
        except cp.KernelFault:
            assert name.startswith(("write", "misaligned"))


@pytest.fixture(params=["address", "thread"])
def sanitizer(request: pytest.FixtureRequest) -> str:
    reason = sanitize.why_unavailable(request.param)
    if reason:
        pytest.skip(reason)
    return str(request.param)


def test_sanitizers_find_nothing_in_right_kernels(cp, toys, tmp_path, sanitizer):
    for name in ("reverse", "copies<0>", "leftovers", "all_blocks"):
        launch_recorded(cp, toys, tmp_path, name)
    done = sanitize.replay(tmp_path, sanitizer)
    assert (done.returncode, done.launches) == (0, 4), done.report


@pytest.mark.parametrize(
    ("name", "sanitizer", "message"),
    [
        ("write_at", "address", "heap-buffer-overflow"),
        ("write_shared_at", "address", "heap-buffer-overflow"),
        ("misaligned", "address", "misaligned address"),
        ("reverse_without_barrier", "thread", "data race"),
        ("between_blocks", "thread", "data race"),
        ("multiply<tf32>", "thread", "data race"),  # all blocks write the same sums
    ],
)
def test_sanitizers_find_what_is_wrong(cp, toys, tmp_path, name, sanitizer, message):
    reason = sanitize.why_unavailable(sanitizer)
    if reason:
        pytest.skip(reason)
    launch_recorded(cp, toys, tmp_path, name)
    done = sanitize.replay(tmp_path, sanitizer)
    assert done.returncode != 0
    assert message in done.report
    assert "toy.cu" in done.report


def test_lines_are_counted(tmp_path):
    if line_coverage.why_unavailable():
        pytest.skip(str(line_coverage.why_unavailable()))
    program = (
        "import cupy, numpy as np, sys\n"
        "module = cupy.RawModule(code=sys.argv[1], name_expressions=['f<3>', 'f<40>'])\n"
        "module.get_function(sys.argv[2])((1,), (8,), (cupy.zeros(8, np.float32),))\n"
        "cupy.cuda.Device().synchronize()"
    )
    source = (
        '#line 1 "kernels/a.cu"\ntemplate <int n> __global__ void f(float* y) {\n    if (threadIdx.x >= n)\n'
        "        y[threadIdx.x] = n;\n    else\n        y[threadIdx.x] = 0;\n}\n"
    )
    variables = {**environment.environment(), **line_coverage.variables(tmp_path)}
    for name, missed in (("f<40>", [3]), ("f<3>", [])):
        subprocess.run([sys.executable, "-c", program, source, name], env=variables, check=True)
        counted = line_coverage.lines(tmp_path)
        assert counted["kernels/a.cu"] == line_coverage.Lines(5 - len(missed), 5, missed)


def test_modules_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("CKNCUDA_CPU_CACHE", str(tmp_path))
    source = "__global__ void f(int* x) { x[0] = NUMBER; }"
    first = compiler.build(source, ["f"], ("-DNUMBER=1",))
    made = first.stat().st_mtime_ns
    assert compiler.build(source, ["f"], ("-DNUMBER=1", "--use_fast_math")).stat().st_mtime_ns == made
    assert compiler.build(source, ["f"], ("-D", "NUMBER=2")) != first
    monkeypatch.setenv("CKNCUDA_CPU_FLAGS", "-g")
    assert compiler.build(source, ["f"], ("-DNUMBER=1",)) != first
    assert not [path for path in tmp_path.rglob("*.part")]
    assert os.environ["CKNCUDA_CPU_CACHE"] == str(tmp_path)
