"""Everything that an NVIDIA GPU has to show, in one run: extraction, k-means, exact kernels.

    python bench/gpu/gpu_measure.py [--seconds 300]       needs CuPy and, for the other side, PyTorch
    python bench/gpu/gpu_measure.py --rehearse            tiny sizes, no GPU; the figures mean nothing

Ours and PyTorch's take turns on data that is on the device, timed by CUDA events, and medians count;
exact kernels have nobody beside them.
PyTorch runs the form that is fastest here: several batch sizes and ways of pooling, eager and compiled
(gpu_torch.py).  Floors come from ceilings measured in the same run.  What fails or no longer fits the
time is said in its row; the files are written anew after each row, so that an interrupted run keeps
what it has.
"""

import argparse
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gpu_bench import NO_TORCH, OURS, TORCH, Bench, LostTheGpu, Run, difference, gpu_torch, wall_seconds
from gpu_exact import exact_kernels
from gpu_plan import CHECKED, FULL, TINY, Budget, Subject
from gpu_report import Report, Row, gpu_state, machine
from gpu_results import AGAIN, one_line
from numpy.typing import NDArray

from ckncuda import Layer
from ckncuda.backend import Backend, get_backend

PRECISIONS = ("float32", "tf32", "bfloat16")
CHECKED_PATCHES = 1_000
COMPILATION = 60  # seconds that must be left where nobody knows yet how many the compiler takes
RESERVE = 30  # seconds that it leaves to what comes after it
SLICE_BYTES = 3 << 25  # of input in a turn, at least: twice what the L2 of an H200 holds
RESULTS = Path(__file__).parents[1] / "results"
NOTES = (
    "Rates are medians of turns; images and features are on the device but for the rows of the whole way",
    "from host memory and back.  PyTorch's are those of its fastest form, named in the remarks.",
    "TFLOP/s count the products of all patches by the definition and the projections after pooling.",
    "The floor is the longer of these FLOP at the rate of the matrix product at the same precision and of",
    "input, anchors and output in float32 at the rate of a copy.  In float32, ours may go below that floor:",
    "it takes three TF32 products, while the matrix product of float32 takes plain arithmetic.",
    "The floor of exact kernels is the longest of three products of halves for each of float32 at the rate",
    "of bfloat16, of an exponential for each κ, and of the maps between layers at the rate of a copy.",
)


def measure(bench: Bench) -> None:
    """Everything: what takes little time first, each until a share of all time is gone."""
    for share, measurement in (
        (0.1, ceilings),
        (0.25, single_layers),
        (0.35, kmeans),
        (0.45, from_host),
        (0.55, exact_kernels),
        (1.0, networks),
    ):
        bench.budget.share = share
        measurement(bench)
        bench.release()


def ceilings(bench: Bench) -> None:
    """The rates of a copy and of matrix products, which floors are counted from."""

    def copy_rate() -> None:
        xp = bench.cupy if bench.cupy is not None else np
        source = xp.ones(bench.plan.copied // 4, np.float32)
        target = xp.empty_like(source)
        seconds = bench.typical_seconds(OURS, lambda: target.__setitem__(Ellipsis, source))
        bench.report.copy_rate = 2 * source.nbytes / seconds

    def matrix_rate(precision: str) -> None:
        if gpu_torch is None:
            raise ModuleNotFoundError(NO_TORCH)
        run = gpu_torch.matrix_run(bench.plan.matrix, precision, bench.device)
        seconds = bench.typical_seconds(TORCH, run)
        bench.report.matrix_rates[precision] = 2 * bench.plan.matrix**3 / seconds

    measurements: dict[str, Run] = {"copies": copy_rate}
    for precision in PRECISIONS:
        measurements[f"matrix products in {precision}"] = lambda precision=precision: matrix_rate(precision)
    known = ["copies"] if bench.report.copy_rate else []
    known += [f"matrix products in {precision}" for precision in bench.report.matrix_rates]
    for name, measurement in measurements.items():
        if name in known:
            continue
        try:
            measurement()
        except Exception as error:
            bench.report.failures.append(f"No rate of {name}: {one_line(error)}")
        bench.release()
    if state := gpu_state():
        bench.report.machine["nvidia-smi after the matrix products"] = state


def encode_in_blocks(backend: Backend, maps: Any, layers: Sequence[Layer]) -> list[Any]:
    """Feature maps, as many images at a time as the backend likes best."""
    block = backend.images_per_block(layers, maps.shape[1:])
    return [backend.encode(maps[i : i + block], layers) for i in range(0, len(maps), block)]


def single_layers(bench: Bench) -> None:
    """Each layer of ours alone, beside its floor."""
    for subject in bench.subjects:
        for precision in PRECISIONS:
            for number in range(len(subject.ckn.layers)):
                what = f"{subject.network.name}: layer {number + 1} alone"
                row = Row(what, precision, least_of_floor=0.5)
                bench.add(row, lambda row, s=subject, i=number: single_layer(bench, row, s, i))
        bench.release()


def single_layer(bench: Bench, row: Row, subject: Subject, number: int) -> None:
    """One layer, on what the layers below it make of the images."""
    backend, layers = bench.backend(row.precision), subject.ckn.layers
    n = subject.network.layer_images
    maps = backend.asarray(subject.images[:n])
    for below in layers[:number]:
        blocks = encode_in_blocks(backend, maps, [below])
        maps = blocks[0] if len(blocks) == 1 else bench.cupy.concatenate(blocks)
    bench.in_turns(row, {OURS: lambda: encode_in_blocks(backend, maps, [layers[number]])})
    flop, image_bytes, anchor_bytes = subject.costs[number]
    seconds = bench.rates(row, n, n * flop)
    bench.of_floor(row, seconds, n * flop, n * image_bytes + anchor_bytes)


def from_host(bench: Bench) -> None:
    """From images in host memory to features in host memory: what a caller of `CKN.transform` waits for."""

    def way(row: Row, subject: Subject) -> None:
        images, backend = subject.images[: subject.network.host_images], bench.backend(row.precision)
        run = {OURS: lambda: subject.ckn.transform(images, backend=backend)}
        bench.in_turns(row, run, {OURS: wall_seconds})
        bench.rates(row, len(images), len(images) * subject.flop)

    for subject in bench.subjects:
        for precision in PRECISIONS:
            n = subject.network.host_images
            row = Row(f"{subject.network.name}: {n:,} images, from host memory and back", precision)
            bench.add(row, lambda row, s=subject: way(row, s))


def networks(bench: Bench) -> None:
    """Every network at every precision beside PyTorch; then, in what time is left, its slower compiler."""
    measured = []
    for subject in bench.subjects:
        for precision in PRECISIONS:
            whats = [f"{subject.network.name}: {n:,} images" for n in subject.network.sizes]
            known = all((what, precision) in bench.report.earlier for what in whats)
            theirs, remark = (None, "") if known else tuned(bench, subject, precision)
            rows = []
            for n in subject.network.sizes:
                row = Row(f"{subject.network.name}: {n:,} images", precision)
                row.least_ratio, row.remarks = subject.network.least_ratio, [remark] if remark else []
                rows.append(bench.add(row, lambda row, s=subject, n=n, t=theirs: encode(bench, row, s, n, t)))
            measured.append((subject, precision, theirs, rows))
            finish(bench, subject, precision)
    for subject, precision, theirs, rows in measured:
        if theirs is not None:
            autotune(bench, subject, precision, theirs, rows)
            finish(bench, subject, precision)


def finish(bench: Bench, subject: Subject, precision: str) -> None:
    """Keep a network's images on the device only while it is measured."""
    if precision == PRECISIONS[-1]:
        subject.release()
    bench.release()


def tuned(bench: Bench, subject: Subject, precision: str) -> tuple[Any, str]:
    """PyTorch's network with the forms that were tried, or None and why not."""
    if gpu_torch is None:
        return None, NO_TORCH
    if bench.budget.left() <= 0:
        return None, ""
    try:
        theirs = gpu_torch.TorchNetwork(subject.ckn.layers, subject.shape, precision, bench.device)
        theirs.try_eager(tuning_images(bench, subject), subject.network.batches, bench.clocks[TORCH])
        compile_form(bench, subject, theirs, gpu_torch.MODES[0], subject.network.sizes[0])
        return theirs, ""
    except Exception as error:
        return None, f"PyTorch failed: {one_line(error)}"


def tuning_images(bench: Bench, subject: Subject) -> Any:
    """Images on which PyTorch's forms are tried: two of the largest batches."""
    return subject.theirs(bench.device)[: 2 * max(subject.network.batches)]


def turns_need(bench: Bench, subject: Subject, theirs: Any) -> float:
    """Seconds that the turns of both sides will take, roughly."""
    images = sum(n * len(slices_of(n, subject)) for n in subject.network.sizes)
    return 1.3 * (bench.rounds + 1) * images * theirs.best(subject.network.sizes[-1]).seconds


def compile_form(bench: Bench, subject: Subject, theirs: Any, mode: str, most: int) -> None:
    """Compile the best eager form of at most so many images a batch, where there is time for it."""
    known = bench.compiler_seconds.get(mode)
    spare = bench.budget.left() - turns_need(bench, subject, theirs) - RESERVE
    if spare < (COMPILATION if known is None else known):
        about = "" if known is None else f": it takes about {known:.0f} s"
        theirs.remarks.append(f"compiled ({mode}) not tried, no time{about}")
        return
    images = tuning_images(bench, subject)
    taken = theirs.try_compiled(images, mode, most, bench.clocks[TORCH], bench.rehearsal)
    bench.compiler_seconds[mode] = taken


def autotune(bench: Bench, subject: Subject, precision: str, theirs: Any, rows: list[Row]) -> None:
    """Let the compiler look for faster forms; measure again where it finds them."""
    sizes, forms, remarks = subject.network.sizes, len(theirs.forms), len(theirs.remarks)
    gpu_torch.set_precision(precision)
    best = theirs.best(sizes[-1]).batch
    if best > sizes[0]:
        compile_form(bench, subject, theirs, gpu_torch.MODES[0], best)
    compile_form(bench, subject, theirs, gpu_torch.MODES[1], best)
    rows[0].remarks += theirs.remarks[remarks:]
    bench.report.write()
    for row, n in zip(rows, sizes, strict=True):
        if any(theirs.best(n) is form for form in theirs.forms[forms:]):
            again = Row(row.what, precision, least_ratio=row.least_ratio)
            bench.fill(again, lambda again, n=n: encode(bench, again, subject, n, theirs))
            if again.theirs:
                bench.report.replace(row, again)


def slices_of(n: int, subject: Subject) -> list[slice]:
    """So many images again and again, never the same ones, until a turn reads more than a cache holds."""
    calls = min(-(-SLICE_BYTES // (n * 4 * math.prod(subject.shape))), len(subject.images) // n)
    return [slice(i * n, (i + 1) * n) for i in range(max(1, calls))]


def encode(bench: Bench, row: Row, subject: Subject, n: int, theirs: Any) -> None:
    """A whole network on so many images: ours beside PyTorch's best form for as many."""
    layers, slices = subject.ckn.layers, slices_of(n, subject)

    def our_run() -> list[Any]:
        backend = bench.backend(row.precision)
        return [encode_in_blocks(backend, subject.ours(backend)[part], layers) for part in slices]

    runs: dict[str, Run] = {OURS: our_run}
    if theirs is not None:
        form, images = theirs.best(n), subject.theirs(bench.device)
        runs[TORCH] = lambda: [form.run(images[part]) for part in slices]
        row.remarks += [f"PyTorch {form}", *(theirs.remarks if n == subject.network.sizes[0] else ())]
        row.tried = {str(tried): 1 / tried.seconds for tried in theirs.forms}
    bench.in_turns(row, runs)
    bench.rates(row, n * len(slices), n * len(slices) * subject.flop)
    reference = subject.reference
    if OURS in row.seconds:
        backend = bench.backend(row.precision)
        row.our_error = difference(backend.encode(subject.ours(backend)[:CHECKED], layers), reference)
    if TORCH in row.seconds:
        features = form.first_features(images, CHECKED)
        row.their_error = difference(features, reference[: len(features)])


def kmeans(bench: Bench) -> None:
    """The two steps of an iteration of k-means, on unit patches that are on the device."""
    for size in bench.plan.patch_sizes:
        patches = unit_rows(bench.plan.patches, size, seed=2)
        for k in bench.plan.anchors:
            what = f"k-means: {len(patches):,} patches of {size}, {k:,} anchors"
            for precision in PRECISIONS:
                row = Row(f"{what}, nearest", precision, unit="patches/s", least_of_floor=0.5)
                bench.add(row, lambda row, p=patches, k=k: nearest_anchors(bench, row, p, k))
            row = Row(f"{what}, sums", "float32", unit="patches/s", least_of_floor=0.5)
            bench.add(row, lambda row, p=patches, k=k: sums_by_anchor(bench, row, p, k))
            bench.release()


def unit_rows(n: int, size: int, seed: int) -> NDArray[np.float32]:
    """Random unit vectors [n, size]; the first ones again where they are many."""
    few = np.random.default_rng(seed).standard_normal((min(n, 125_000), size), dtype=np.float32)
    few /= np.linalg.norm(few, axis=1, keepdims=True)
    return np.resize(few, (n, size))


def nearest_anchors(bench: Bench, row: Row, patches: NDArray[np.float32], k: int) -> None:
    """The nearest anchor of each patch; PyTorch's patches are of the precision's type beforehand."""
    anchors, backend = unit_rows(k, patches.shape[1], seed=3), bench.backend(row.precision)
    on_device, ours = backend.asarray(patches), backend.asarray(anchors)
    runs: dict[str, Run] = {OURS: lambda: backend.nearest_anchor(on_device, ours)}
    if gpu_torch:
        gpu_torch.set_precision(row.precision)
        theirs = [gpu_torch.device_rows(rows, row.precision, bench.device) for rows in (patches, anchors)]
        chunk = gpu_torch.best_chunk(*theirs, bench.clocks[TORCH])
        runs[TORCH] = gpu_torch.nearest_run(*theirs, chunk)
        row.remarks.append(f"PyTorch {chunk:,} patches at a time")
    else:
        row.remarks.append(NO_TORCH)
    bench.in_turns(row, runs)
    flop = 2.0 * patches.size * k
    seconds = bench.rates(row, len(patches), flop)
    bench.of_floor(row, seconds, flop, patches.nbytes + anchors.nbytes + 12 * len(patches))
    _, cosines = get_backend("reference").nearest_anchor(patches[:CHECKED_PATCHES], anchors)
    for side in row.seconds:
        row.set_error(side, difference(runs[side]()[1][:CHECKED_PATCHES], cosines))


def sums_by_anchor(bench: Bench, row: Row, patches: NDArray[np.float32], k: int) -> None:
    """The sums of the patches by their nearest anchor, here one at random."""
    backend, nearest = bench.backend(row.precision), np.random.default_rng(4).integers(k, size=len(patches))
    on_device, numbers = (
        backend.asarray(patches),
        nearest if bench.cupy is None else bench.cupy.asarray(nearest),
    )
    runs: dict[str, Run] = {OURS: lambda: backend.sum_by_anchor(on_device, numbers, k)}
    if gpu_torch:
        theirs = gpu_torch.device_rows(patches, row.precision, bench.device)
        runs[TORCH] = gpu_torch.sums_run(theirs, gpu_torch.device_integers(nearest, bench.device), k)
    else:
        row.remarks.append(NO_TORCH)
    bench.in_turns(row, runs)
    bench.of_floor(row, bench.rates(row, len(patches), 0), 0, patches.nbytes + 8 * len(patches))
    few = patches[:, :CHECKED].astype(np.float64)  # enough to compare; the reference is slow
    expected = get_backend("reference").sum_by_anchor(few, nearest, k)
    for side in row.seconds:
        row.set_error(side, difference(runs[side]()[:, :CHECKED], expected))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, with paths: a rehearsal writes only where it is told to, and never over results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=300, help="that the whole run may take [300]")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side [5]")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, one turn, no GPU")
    parser.add_argument("--resume", action="store_true", help="keep the rows that the files hold already")
    parser.add_argument("-o", "--output", type=Path, help="the table [bench/results/gpu.md]")
    parser.add_argument("--json", type=Path, help="the same as data [bench/results/gpu.json]")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    results = RESULTS / "gpu.md", RESULTS / "gpu.json"
    if not options.rehearse:
        options.output, options.json = options.output or results[0], options.json or results[1]
        return options
    options.rounds = 1
    if {path.resolve() for path in (options.output, options.json) if path} & {p.resolve() for p in results}:
        parser.error("a rehearsal does not overwrite the results of a GPU")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; 1 where it was interrupted, `AGAIN` where it lost the GPU."""
    options = parsed(arguments)
    if not options.rehearse:
        from ckncuda.backend.cupy import why_unavailable

        if reason := why_unavailable():
            raise SystemExit(f"{reason}; without a GPU, --rehearse shows what would be measured")
    command = shlex.join(
        ["python", "bench/gpu/gpu_measure.py", *(sys.argv[1:] if arguments is None else arguments)]
    )
    report = Report(command, options.rehearse, options.output, options.json, NOTES)
    if options.resume:
        report.resume()
    budget = Budget(options.seconds)
    bench = Bench(TINY if options.rehearse else FULL, report, budget, options.rounds)
    report.machine = machine(bench.cupy, gpu_torch and gpu_torch.torch)
    try:
        measure(bench)
        end, status = "took", 0
    except KeyboardInterrupt:
        end, status = "interrupted after", 1
    except LostTheGpu:
        end, status = "lost the GPU after", AGAIN
    report.status = f"{end} {budget.taken():.0f} of {options.seconds:g} s, medians of {options.rounds} turns"
    report.write()
    print(f"{len(report.rows)} rows; {report.status}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
