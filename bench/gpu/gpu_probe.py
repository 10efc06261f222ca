"""What the next kernels rest on, asked of the hardware: how tensor cores sum, wgmma's operands, rates.

Each probe is a unit of its own in OUT/probes.json and fails alone; those of wgmma need capability 9.0.

    python bench/gpu/gpu_probe.py             # started by gpu_suite.py, which sets OUT and PYTHONPATH
"""

import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from gpu_bench import cupy_seconds
from gpu_results import Results, folder_of_results
from numpy.typing import NDArray

HERE = Path(__file__).parent
HALVES, TERMS = "f16", {"tf32": 8, "f16": 16}
LARGEST = 1e-3  # relative error of a product of halves
TIMES, ROUNDS = 4000, 6


def wgmma(columns: int, registers: bool, kind: str) -> str:
    """One wgmma of 64 × columns × 16 as a function of its sums; A from registers or shared memory."""
    sums = columns // 2
    name = f"wgmma_{kind}_n{columns}_{'registers' if registers else 'shared'}"

    def operands(first: int, count: int) -> str:
        return ", ".join(f"%{i}" for i in range(first, first + count))

    if registers:
        of_a, parameter, held = 4, "const u32 (&a)[4]", '"r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])'
        a, flags = f"{{{operands(sums, 4)}}}", "p, 1, 1, 0"
    else:
        of_a, parameter, held = 1, "u64 a", '"l"(a)'
        a, flags = f"%{sums}", "p, 1, 1, 0, 0"
    out = ", ".join(f'"+f"(d[{i}])' for i in range(sums))
    return f"""
__device__ __forceinline__ void {name}(float (&d)[{sums}], {parameter}, u64 b, int add) {{
    asm volatile("{{\\n.reg .pred p;\\nsetp.ne.b32 p, %{sums + of_a + 1}, 0;\\n"
        "wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{kind}.{kind} "
        "{{{operands(0, sums)}}}, {a}, %{sums + of_a}, {flags};\\n}}\\n"
        : {out} : {held}, "l"(b), "r"(add));
}}
"""


def source(name: str) -> str:
    """A file of probes, with the products that it takes."""
    text = (HERE / f"probe_{name}.cu").read_text(encoding="utf-8")
    products = {
        "checks": [(64, True, "f16"), (64, False, "f16")],
        "rates": [(64, True, "bf16"), (128, True, "bf16"), (256, True, "bf16"), (256, False, "bf16")],
        "sums": [],
    }[name]
    header = HERE / "probe.cuh" if products else files("ckncuda.kernels") / "primitives.cuh"
    shared = header.read_text(encoding="utf-8").replace("#pragma once", "")
    whole = shared + "".join(wgmma(*product) for product in products) + text
    return whole.encode("ascii", "replace").decode()


def module(name: str) -> Any:
    """The file compiled: for sm_90a beside CuPy's own choice, where it needs that."""
    import cupy

    architecture = () if name == "sums" else ("-arch=sm_90a",)
    return cupy.RawModule(code=source(name), options=("--std=c++17", *architecture))


# ---- How tensor cores sum ----


def tensor_core_sum(kind: str, start: float, terms: dict[int, float]) -> float:
    """Start plus products at some places, as the device adds them."""
    import cupy

    dtype = np.float32 if kind == "tf32" else np.float16
    a, b = np.zeros(TERMS[kind], dtype), np.full(TERMS[kind], 2.0**-12, dtype)
    for place, value in terms.items():
        a[place] = value * 2.0**12  # which halves can hold
    total = cupy.asarray(np.array([start], np.float32))
    packed = [cupy.asarray(x.view(np.uint32)) for x in (a, b)]
    module("sums").get_function(f"sum_{kind}")((1,), (32,), (*packed, total))
    return float(total[0])


def sums(kind: str) -> dict[str, Any]:
    """How many terms are added at once, and how many bits below a float's last they keep meanwhile."""
    half = 2.0**-24  # of the last bit of 1: two make one, where they meet and are kept
    together = [
        place for place in range(1, TERMS[kind]) if tensor_core_sum(kind, 1.0, {0: half, place: half}) > 1
    ]
    extra = 0
    while extra < 3 and tensor_core_sum(kind, 1.0, {i: 2.0 ** -(24 + extra) for i in range(2 << extra)}) > 1:
        extra += 1
    cut = (
        tensor_core_sum(kind, 1.0, {0: 1.5 * half}) == 1.0
        and tensor_core_sum(kind, -1.0, {0: -1.5 * half}) == -1.0
    )
    return {
        "passed": cut,
        "terms at once": len(together) + 1,
        "extra bits": extra,
        "cut off towards zero": cut,
    }


# ---- Operands of wgmma ----


def product_error(found: Any, a: NDArray[np.float16], b: NDArray[np.float16]) -> float:
    """Relative error of A Bᵀ."""
    expected = a.astype(float) @ b.T.astype(float)
    return float(np.linalg.norm(found.get() - expected) / np.linalg.norm(expected))


def halves(rng: np.random.Generator, *shape: int) -> tuple[NDArray[np.float16], Any]:
    """Random halves, and their bits on the device."""
    import cupy

    values = rng.normal(size=shape).astype(np.float16)
    return values, cupy.asarray(values.view(np.uint16))


def from_registers() -> dict[str, Any]:
    """A in registers, B without swizzle."""
    import cupy

    rng = np.random.default_rng(0)
    (a, a_bits), (b, b_bits) = halves(rng, 64, 64), halves(rng, 64, 64)
    found = cupy.full((64, 64), np.nan, np.float32)
    module("checks").get_function("from_registers")((1,), (128,), (a_bits, b_bits, found))
    return judged(product_error(found, a, b))


def moved_window() -> dict[str, Any]:
    """A, a window of a map, moved to each place of a patch."""
    import cupy

    rng, worst = np.random.default_rng(0), 0.0
    for dy, dx in np.ndindex(3, 3):
        (maps, map_bits), (b, b_bits) = halves(rng, 10, 10, 16), halves(rng, 64, 16)
        found = cupy.full((64, 64), np.nan, np.float32)
        arguments = map_bits, b_bits, found, np.int32(dy), np.int32(dx)
        module("checks").get_function("moved_window")((1,), (128,), arguments)
        error = product_error(found, maps[dy : dy + 8, dx : dx + 8].reshape(64, 16), b)
        worst = error if not error <= worst else worst
    return judged(worst)


def judged(error: float) -> dict[str, Any]:
    """An error, and whether it is that of halves."""
    return {"passed": error <= LARGEST, "error": f"{error:.1e}"}


def bulk_copy() -> dict[str, Any]:
    """A copy in one piece that completes on an mbarrier."""
    import cupy

    x = cupy.arange(1024, dtype=np.float32)
    y = cupy.zeros_like(x)
    module("checks").get_function("bulk_copy")((1,), (128,), (x, y))
    return {"passed": bool((x == y).all())}


# ---- Rates ----


def rate(name: str, blocks: int, amount: float, shared: int) -> dict[str, Any]:
    """Of a kernel that repeats an instruction: so much a block and turn, FLOP or loads, in 10¹² a second."""
    import cupy

    kernel = module("rates").get_function(name)
    if shared > 48 << 10:
        kernel.max_dynamic_shared_size_bytes = shared
    out = cupy.zeros(256, np.float32)
    grid = blocks * cupy.cuda.Device().attributes["MultiProcessorCount"]
    launch = (grid,), (256,), (out, np.int32(TIMES))
    best = min(cupy_seconds(lambda: kernel(*launch, shared_mem=shared)) for _ in range(ROUNDS))
    return {"passed": True, "rate": f"{amount * TIMES * grid / best / 1e12:,.1f} T/s"}


def wgmma_rate(columns: int, operand: str) -> Callable[[], dict[str, Any]]:
    """Two groups of four warps a block, four products of 64 × columns × 16 a turn each."""
    return lambda: rate(f"{operand}{columns}", 1, 2 * 4 * 2 * 64 * columns * 16, 64 << 10)


PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    "sums of tf32": lambda: sums("tf32"),
    "sums of halves": lambda: sums(HALVES),
    "rate of mma.sync in bfloat16": lambda: rate("mma_bf16", 2, 8 * 16 * 4096, 0),
    "rate of mma.sync in halves": lambda: rate("mma_f16", 2, 8 * 16 * 4096, 0),
    "rate of mma.sync in tf32": lambda: rate("mma_tf32", 2, 8 * 16 * 2048, 0),
    "rate of 32-bit loads from shared memory": lambda: rate("shared_loads", 2, 8 * 16 * 32, 32 << 10),
    "wgmma, A in registers": from_registers,
    "wgmma, A a window of a map": moved_window,
    "copy in one piece": bulk_copy,
    "rate of wgmma, 64 columns, A in registers": wgmma_rate(64, "registers"),
    "rate of wgmma, 128 columns, A in registers": wgmma_rate(128, "registers"),
    "rate of wgmma, 256 columns, A in registers": wgmma_rate(256, "registers"),
    "rate of wgmma, 256 columns, A in shared memory": wgmma_rate(256, "shared"),
}


def main() -> int:
    """Ask what is not known yet."""
    return Results(folder_of_results() / "probes.json").find(PROBES)


if __name__ == "__main__":
    sys.exit(main())
