"""How kernels run on a CPU: threads, barriers, asynchronous copies, tensor cores."""

import math
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import ORDERS
from numpy.typing import NDArray


def test_threads_and_blocks_run_in_the_order_chosen(cp, toys, monkeypatch):
    orders = {}
    for name in ("", *ORDERS, "shuffled:1"):
        monkeypatch.setenv("CKNCUDA_CPU_ORDER", name)
        seen = cp.zeros(4 * 96, np.int32)
        toys.get_function("arrivals")((4,), (96,), (cp.zeros(1, np.int32), seen))
        arrived = seen.get()
        assert name not in orders or (orders[name] == arrived).all()
        orders[name] = arrived
    everybody = np.arange(4 * 96)
    np.testing.assert_array_equal(orders[""], everybody)
    np.testing.assert_array_equal(orders["forward"], everybody)
    np.testing.assert_array_equal(orders["backward"], everybody[::-1])
    np.testing.assert_array_equal(np.sort(orders["shuffled:1"]), everybody)
    assert (orders["shuffled:1"] != orders["shuffled:2"]).any()


@pytest.mark.parametrize("name", ["float", "int", "double", "unsigned"])
def test_shuffles(cp, toys, order, name):
    dtype = {"float": "f4", "int": "i4", "double": "f8", "unsigned": "u4"}[name]
    x = np.random.default_rng(1).integers(0, 2**31, 32).astype(dtype)
    y = cp.empty(160, dtype)
    toys.get_function(f"shuffles<{name}>")((1,), (32,), (cp.asarray(x), y))
    i = np.arange(32)
    down, up = np.where(i + 3 < 32, i + 3, i), np.where(i % 8 >= 2, i - 2, i)
    sources = i ^ 5, (3 * i + 1) % 32, down, up, i // 8 * 8 + 3
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
        (0, r"deadlock.*0-6 wait at __syncthreads.*toy.cu.*7-31 wait at __shfl_sync.*32-63 have ended"),
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


@pytest.mark.parametrize(("name", "dtype"), [("int", "i4"), ("float", "f4"), ("unsigned", "u4")])
def test_atomic_operations(cp, toys, order, name, dtype):
    y = cp.asarray(np.array([1, 5, 5], dtype))
    toys.get_function(f"atomics<{name}>")((3,), (50,), (y,))
    assert y.get().tolist() == [1 + 2 * 150, 49, 0]


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
        (1, 0, 1, "multiples of 16"),
        (0, 2, 1, "multiples of 16"),
        (16, 0, 0, "not in the block's 64 bytes"),
        (-1, 0, 0, "not in the block"),
        (13, 0, 1, "not in the block"),
    ],
)
def test_copies_to_where_they_cannot_go(cp, toys, to, source, sixteen, message):
    numbers = (np.int32(to), np.int32(source), np.int32(sixteen))
    toys.get_function("copy_to")((1,), (1,), (cp.zeros(8, np.float32), *numbers), shared_mem=64)
    with pytest.raises(cp.KernelFault, match=f"(?s)copy_async.*toy.cu.*{message}"):
        cp.cuda.Device().synchronize()


def tf32(x: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Rounded to 10 bits of mantissa, ties away from zero."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    scaled = np.abs(mantissa) * 2**11
    rounded = np.copysign(np.floor(scaled + 0.5), x) * 2.0 ** (exponent - 11)
    return rounded.astype(np.float32).view(np.uint32)


def bf16(x: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Rounded to 7 bits of mantissa, ties to even, as the upper half of a float."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return (np.rint(mantissa * 2**8) * 2.0 ** (exponent - 8)).astype(np.float32).view(np.uint32) >> 16


def test_roundings(cp, toys, rng):
    x = rng.normal(size=1000).astype(np.float32)
    x[:6] = [1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-11, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8]  # ties
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
    return fragments_tf32(a[:, 0::2] | a[:, 1::2] << 16, b[0::2] | b[1::2] << 16)


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


def summed(start, products, terms, extra):
    """Start plus products, so many at a time, all aligned to the largest and cut off: by whole numbers."""
    for i in range(0, len(products), terms):
        addends = [start, *products[i : i + terms]]
        unit = 2.0 ** (math.frexp(max(map(abs, addends)))[1] - 24 - extra)
        mantissa, exponent = math.frexp(sum(math.trunc(addend / unit) for addend in addends) * unit)
        start = math.ldexp(math.trunc(mantissa * 2**24), exponent - 24)
    return start


@pytest.mark.parametrize(
    ("capability", "terms", "extra"), [(80, (4, 8), 1), (89, (4, 8), 1), (90, (8, 16), 2)]
)
@pytest.mark.parametrize("kind", ["tf32", "f16"])
def test_sums_are_cut_off_as_tensor_cores_do(cp, toys, rng, monkeypatch, kind, capability, terms, extra):
    """Bits, not tolerances; terms of very different sizes."""
    monkeypatch.setenv("CKNCUDA_CPU_COMPUTE_CAPABILITY", str(capability))
    depth = 8 if kind == "tf32" else 16
    a, b = (rng.normal(size=s) * 2.0 ** rng.integers(-6, 6, s) for s in ((16, depth), (depth, 8)))
    d = (rng.normal(size=(16, 8)) * 2.0 ** rng.integers(-9, 9, (16, 8))).astype(np.float32)
    if kind == "tf32":
        bits = [tf32(m.astype(np.float32)) for m in (a, b)]
        exact, held = [m.view(np.float32).astype(np.float64) for m in bits], fragments_tf32(*bits)
    else:
        exact = [m.astype(np.float16).astype(np.float64) for m in (a, b)]
        held = fragments_bf16(*(m.astype(np.float16).view(np.uint16).astype(np.uint32) for m in (a, b)))
    sums = cp.asarray(held_sums(d))
    operands = [cp.asarray(np.ascontiguousarray(m)) for m in held]
    toys.get_function(f"multiply<{kind}>")((1,), (32,), (*operands, sums, np.int32(1)))
    at_once = terms[kind == "f16"]
    expected = [
        [summed(float(d[i, j]), exact[0][i] * exact[1][:, j], at_once, extra) for j in range(8)]
        for i in range(16)
    ]
    np.testing.assert_array_equal(sums.get(), held_sums(np.array(expected, np.float32)))
    rounded = held_sums((d + exact[0] @ exact[1]).astype(np.float32))
    assert (sums.get() != rounded).any()
