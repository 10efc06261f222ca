"""What the kernels of the way back take, counted without a GPU, and the time that they may take on one.

Compiled by NVRTC and disassembled: instructions of each loop. Times are estimates for an H200, not measured:
of each step the longest of its bytes at the rate of a copy, its FLOP at that of cuBLAS's float32 products,
and its instructions at four a clock and multiprocessor.

    python bench/gpu/gpu_counts.py     # writes bench/results/gpu_counts.md

It needs the packages nvidia-cuda-nvrtc and nvidia-cuda-nvdisasm.
"""

import importlib.util
import math
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

import nvrtc  # noqa: E402
from gpu_plan import FULL  # noqa: E402

from ckncuda import Exponential, LayerSpec  # noqa: E402
from ckncuda.backend.cupy.encode_backward import runs_of, vector_of  # noqa: E402
from ckncuda.kernels import source  # noqa: E402
from ckncuda.types import Shape  # noqa: E402

OUTPUT = ROOT / "bench" / "results" / "gpu_counts.md"
ARCHITECTURE = "sm_90a"
COPY, PRODUCTS = 4.3e12, 5e13  # bytes and FLOP a second
INSTRUCTIONS = 132 * 4 * 1.755e9 * 32  # of a thread, a second
KERNELS = {
    "extract_patches": ["position", "row of the patch", "piece of the row", "shuffle"],
    "encode_backward": ["position", "filters", "pooled row", "pooled column", "shuffle"],
    "fold_patches": ["position", "channels", "row of the patch", "column of the patch"],
}
"""Loops, as they stand in the source."""


@dataclass(frozen=True)
class Loop:
    """Instructions of a loop, without those of loops within it."""

    depth: int
    instructions: int
    loads: int


def disassembler() -> str | None:
    """Return the path of nvdisasm, or None: it is not installed."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or [] if spec else []:
        for path in sorted(Path(folder).glob("*/bin/nvdisasm")):
            return str(path)
    return shutil.which("nvdisasm")


def loops_of(operation: str, name: str) -> tuple[list[Loop], int]:
    """Return the loops of an instantiation, in their order, and its instructions beside them."""
    library, program = nvrtc.library(), disassembler()
    assert library is not None
    assert program is not None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as binary:
        binary.write(nvrtc.binary_of(library, source(operation), name, ARCHITECTURE))
        binary.flush()
        text = subprocess.run([program, "-c", binary.name], capture_output=True, text=True, check=True).stdout
    return found_in(text)


def found_in(text: str) -> tuple[list[Loop], int]:
    """Find loops in what nvdisasm prints: branches back to a label, before the kernel's last end.

    Of a nest that the compiler has doubled, for the case that a run has a single lane, the other one counts.
    """
    lines: list[str] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(lines)
        elif instruction := re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            lines.append(instruction[1])
    lines = lines[: len(lines) - lines[::-1].index("EXIT")]  # what follows is seldom executed
    branches = {end: re.search(r"\bBRA.* `\((\.L_x_\d+)\)", line) for end, line in enumerate(lines)}
    starts = {end: labels[branch[1]] for end, branch in branches.items() if branch}
    spans = [(start, end + 1) for end, start in starts.items() if start <= end]

    def within(span: tuple[int, int]) -> list[tuple[int, int]]:
        return sorted((s for s in spans if span[0] <= s[0] and s[1] <= span[1]), key=lambda s: (s[0], -s[1]))

    def own(span: tuple[int, int]) -> list[str]:
        inner = [s for s in within(span) if s != span]
        return [lines[i] for i in range(*span) if not any(first <= i < last for first, last in inner)]

    nest = max(map(within, spans), key=len)
    depths = [sum(span in within(outer) for outer in nest) for span in nest]
    loops = [
        Loop(depth, len(own(span)), sum("LDG" in line for line in own(span)))
        for depth, span in zip(depths, nest, strict=True)
    ]
    return loops, len(own((0, len(lines))))


def counted(operation: str, vector: int) -> dict[str, Loop]:
    """Return the loops of a kernel by their names, with what is outside of them as ``run``."""
    name = f"{operation}<{'Exponential, ' if operation == 'encode_backward' else ''}{vector}>"
    loops, rest = loops_of(operation, name)
    names = KERNELS[operation]
    assert len(loops) == len(names), f"{name}: {loops}"
    return {"run": Loop(0, rest, 0), **dict(zip(names, loops, strict=True))}


def trips(operation: str, spec: LayerSpec, shape: Shape) -> dict[str, float]:
    """Count the passes through each loop, of all lanes, for an image."""
    height, width, filters = spec.map_shape(shape)
    taps = 2 * spec.subsampling + 1
    pooled = math.prod(spec.output_shape(shape)[:2]) ** 0.5 * taps / (height * width) ** 0.5  # of each side
    rows, columns = spec.patch_shape
    if operation == "fold_patches":
        height, width = shape[:2]
        count, passes = shape[2], {"row of the patch": rows, "column of the patch": rows * columns}
        inner = "channels"
    elif operation == "extract_patches":
        count, passes = columns * shape[2], {"row of the patch": rows}
        inner = "piece of the row"
    else:
        count, passes = filters, {"pooled row": pooled, "pooled column": pooled**2}
        inner = "filters"
    _, (_, of_row, span, bits) = runs_of(1, height, width, count, multiprocessors=0)
    lanes, pieces = 1 << bits, -(-count // vector_of(count))
    of_position = height * of_row * span * lanes
    turns = height * width * pieces
    found = {
        "run": height * of_row * lanes,
        "position": of_position,
        "shuffle": of_position * bits,
        inner: turns,
    }
    if operation == "extract_patches":
        return found | {"row of the patch": height * width * lanes * rows, inner: turns * rows}
    return found | {name: turns * many for name, many in passes.items()}


def steps_of(spec: LayerSpec, shape: Shape, first: bool) -> dict[str, tuple[float, float, str]]:
    """Return bytes, FLOP and the kernel of each step of a layer's way back, for an image."""
    height, width, p = spec.map_shape(shape)
    patches, products = height * width * spec.terms(shape[2]), height * width * p
    out, flop = math.prod(spec.output_shape(shape)), 2.0 * products * spec.terms(shape[2])
    found = {
        "W": (4 * 4 * out, 4.0 * out * p, ""),
        "patches": (4 * (math.prod(shape) + patches), 0.0, "extract_patches"),
        "products": (4 * (patches + products), flop, ""),
        "κ": (4 * (2 * products + out), 0.0, "encode_backward"),
        "sums": (4 * (patches + products), flop, ""),
    }
    if not first:
        found["by patches"] = (4 * (patches + products), flop, "")
        found["fold"] = (4 * (patches + 2 * math.prod(shape)), 0.0, "fold_patches")
    return found


def seconds(spec: LayerSpec, shape: Shape, first: bool) -> dict[str, float]:
    """Estimate the seconds of each step of a layer's way back, for an image."""
    found = {}
    for step, (size, flop, kernel) in steps_of(spec, shape, first).items():
        issued = 0.0
        if kernel:
            channels = spec.filters if kernel == "encode_backward" else shape[2]
            loops, passes = counted(kernel, vector_of(channels)), trips(kernel, spec, shape)
            issued = sum(loop.instructions * passes[name] for name, loop in loops.items())
        found[step] = max(size / COPY, flop / PRODUCTS, issued / INSTRUCTIONS)
    return found


HEAD = """# Kernels of the way back, counted

Made by `bench/gpu/gpu_counts.py` without a GPU. Instructions of each loop on Hopper, global loads among them
in brackets; a lane takes one number at a time, or four where they lie together. κ is exp.

| kernel | at once | outside | loops: the outermost, what is in it, … | | | |
|---|---|---|---|---|---|---|
"""
ESTIMATES = """
Estimated nanoseconds an image on an H200 (± 40 %), **not measured**: bytes at 4.3 TB/s, products in float32
at 50 TFLOP/s, instructions at four a clock and multiprocessor, whichever is longest. By the first layer's
input, the images, a training needs no gradient. The way forward comes before.

| network | layer | W | patches | products | κ | sums | by patches | fold | all |
|---|---|---|---|---|---|---|---|---|---|
"""
STEPS = "W", "patches", "products", "κ", "sums", "by patches", "fold"


def row(*cells: str) -> str:
    """Return a row of a table in Markdown."""
    return f"| {' | '.join(cells)} |\n"


def table() -> str:
    """Write what was counted, and the estimates, in Markdown."""
    text = HEAD
    for operation in KERNELS:
        for vector in (1, 4):
            loops = counted(operation, vector).items()
            cells = [f"{name} {of.instructions}" + f" ({of.loads})" * (of.loads > 0) for name, of in loops]
            cells[0] = cells[0].removeprefix("run ")
            text += row(f"`{operation}`", str(vector), *cells, *[""] * (5 - len(cells)))
    text += ESTIMATES
    for network in FULL.networks[:2]:
        shape, total = (network.side, network.side, 3), 0.0
        for number, (filters, subsampling) in enumerate(network.layers):
            kernel = Exponential(sigma=0.6)
            spec = LayerSpec(filters=filters, patch=3, subsampling=subsampling, kernel=kernel)
            found = {step: 1e9 * of for step, of in seconds(spec, shape, number == 0).items()}
            shape, total = spec.output_shape(shape), total + sum(found.values())
            cells = [f"{found[step]:.0f}" if step in found else "" for step in STEPS]
            text += row(network.name[0], str(number + 1), *cells, f"{sum(found.values()):.0f}")
        text += row(network.name[0], "all", *[""] * len(STEPS), f"{total:.0f}")
    return text


if __name__ == "__main__":
    if nvrtc.library() is None or disassembler() is None:
        raise SystemExit("install nvidia-cuda-nvrtc and nvidia-cuda-nvdisasm")
    OUTPUT.write_text(table(), encoding="utf-8")
    print(OUTPUT.read_text(encoding="utf-8"), end="")
