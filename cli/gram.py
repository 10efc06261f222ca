"""`ckn gram`: the Gram matrix of an exact kernel, tile by tile."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import click

from ckncuda.backend import Backend
from ckncuda.backend.numpy import available_threads
from ckncuda.exact import cluster as distributed
from ckncuda.exact.encoder import ExactEncoderSpec
from ckncuda.exact.job import GramJob, check_memory, seconds_a_pair
from ckncuda.exact.on_disk.folder import check_gram_path, part_of
from ckncuda.exact.on_disk.writing import GramStore, check_installed
from ckncuda.exact.tiles import TILE, Tile
from ckncuda.exact.workers import LocalWorkers
from ckncuda.images.preprocessed import fit_preprocessing
from ckncuda.progress import Report, estimated_duration, shown_bytes, shown_duration
from ckncuda.types import Array, Shape

from . import options
from .progress import ProgressBars, ProgressLines
from .system_options import SystemOptions


@click.command()
@click.argument("images")
@click.argument("images2", required=False)
@click.option("-o", "--output", required=True, help="The matrix to write: K.zarr or K.npy.")
@click.option("--config", help="A TOML file that describes the layers, as of ckn fit.")
@click.option(
    "--layer",
    multiple=True,
    help="One layer, from the image upwards; may be given several times. [default: two of 3x3 patches, "
    "exp of sigma 0.6, subsampled by 2 and by 5]",
)
@click.option(
    "--preprocess",
    multiple=True,
    help="As of ckn fit; what it learns, it learns from IMAGES. [default: as --config says, or auto]",
)
@click.option("--tangent/--no-tangent", default=None, help="The neural tangent kernel; of arccos1 layers.")
@click.option("--flip/--no-flip", default=None, help="Average over images and their mirror images.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    default="float32",
    show_default=True,
    help="In which to compute.",
)
@click.option(
    "--tile",
    type=options.POSITIVE,
    default=TILE,
    show_default=True,
    help="Images of either side of a tile: what is computed, and written, at a time.",
)
@click.option("--split2", type=click.Choice(["train", "test"]), help="--split of IMAGES2. [default: --split]")
@click.option("--workers", type=options.POSITIVE, help="Processes of this machine that compute.")
@click.option("--scheduler", help="A running Dask scheduler whose workers compute, such as tcp://host:8786.")
@options.images
@options.backend
@options.printed
def gram(
    images: str,
    images2: str | None,
    output: str,
    split2: str | None,
    workers: int | None,
    scheduler: str | None,
    how: options.ImageOptions,
    engine: Backend,
    **described: Any,
) -> options.Printed:
    """Write the exact kernel of all pairs of IMAGES, or of IMAGES with IMAGES2.

    It is the kernel that a network of these layers approximates with its anchor points.  The matrix grows
    tile by tile in OUTPUT.part; after Ctrl-C, a crash or a power cut the same command verifies the
    finished tiles and goes on.  Needs the extra `exact`, --scheduler also `distributed`.

    \b
    Examples:
        ckn gram Xtr.csv -o K.zarr
        ckn gram Xte.csv Xtr.csv --config net.toml -o K-test.npy
        ckn gram Xtr.csv --layer patch=3,subsampling=2,kernel=arccos1 --tangent -o T.zarr --workers 4
        ckn gram cifar-10-batches-bin --split train -o K.zarr --scheduler tcp://host:8786
    """
    tiles = {name: described.pop(name) for name in ("dtype", "tile")}
    system = SystemOptions(**described)
    _check(output, [images, images2, system.config], workers, scheduler)
    progress = ProgressBars() if sys.stderr.isatty() else ProgressLines()
    report = Report(progress, progress.say)
    with _saying_what_is_kept(output), progress, contextlib.ExitStack() as stack:
        client = stack.enter_context(distributed.remote_cluster(scheduler)) if scheduler else None
        with report.stage("reading"):
            first = stack.enter_context(options.opened(images, how, "Comparing"))
            how2 = how._replace(split=split2 or how.split)
            second = stack.enter_context(options.opened(images2, how2, "Comparing with")) if images2 else None
        encoder = _one_kernel(system, first.shape[1:], report)
        job = GramJob(encoder.kernel, first, second, **tiles)
        check_memory(job, engine)
        with report.stage("preprocessing"):
            steps = encoder.resolved(first, report).preprocessing or ()
            job.check_given_memory(steps, engine)
            job = replace(job, preprocessing=fit_preprocessing(first, steps, report))
        with report.stage("reading"):
            identity = job.identity(engine.name, report)
        store = stack.enter_context(GramStore(output, job.tiling, identity))
        found = _compute(job, store, engine, client, workers, report)
    seconds = report.seconds | {"total": report.total}
    result = {
        "gram": output,
        "shape": list(job.tiling.shape),
        "dtype": str(job.dtype),
        "pairs": job.tiling.pairs,
        "tiles": len(list(job.tiling)),
        "tiles_found": found,
        "preprocessing": [step.to_dict() for step in job.preprocessing],
        "backend": engine.name,
        "seconds": seconds,
    }
    n, m = job.tiling.shape
    return result, [options.shown_seconds(seconds), f"wrote {output}: {n} x {m}, {job.dtype}"]


@contextlib.contextmanager
def _saying_what_is_kept(output: str) -> Iterator[None]:
    """Tell who interrupts the command that it goes on where it was."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        part = part_of(output)
        if not part.exists():
            raise
        raise click.Abort(
            f"the finished tiles are kept in {part}, and the same command goes on with them"
        ) from interrupt


def _check(output: str, inputs: list[str | None], workers: int | None, scheduler: str | None) -> None:
    """Refuse what cannot be, before anything is read."""
    if workers is not None and scheduler is not None:
        raise click.UsageError(
            "--workers starts processes here, --scheduler takes those of a cluster: give one of them"
        )
    check_installed()
    if scheduler is not None:
        distributed.check_installed()
    options.check_no_input(output, inputs)
    check_gram_path(output)


def _one_kernel(system: SystemOptions, shape: Shape, report: Report) -> ExactEncoderSpec:
    """Return the kernel of the options; say which, where they do not."""
    encoder = system.one_kernel(shape, ", each a kernel of its own: give one file, and one output, to each")
    if not (system.config or system.layer):
        layers = " and ".join(f"{layer.shown_patch}/{layer.subsampling}" for layer in encoder.kernel.layers)
        report.tell(f"Kernel: two layers, {layers}, exp of sigma 0.6, centred; --layer gives others")
    return encoder


def _compute(
    job: GramJob, store: GramStore, engine: Backend, client: Any, workers: int | None, report: Report
) -> int:
    """Compute what is left to be done and give the matrix its name; returns how many tiles were there."""
    with report.stage("verifying"):
        left = store.unfinished(report)
    tiles = len(list(job.tiling))
    if store.replaces:
        report.tell(
            f"Output: {store.path} holds another matrix, which is replaced when this one is finished; it "
            f"differs in {store.replaces}"
        )
    with report.stage("computing"), contextlib.ExitStack() as stack:
        if left:
            store.check_space(left)
            _say_plan(job, store, left, engine, report)
            store.fill(_blocks(job, left, engine, client, workers, report, stack), report)
        else:
            report.tell(f"Plan: all {tiles:,} tiles are finished and verified")
    with report.stage("writing"):
        store.finish()
    return tiles - len(left)


def _blocks(
    job: GramJob,
    tiles: list[Tile],
    engine: Backend,
    client: Any,
    workers: int | None,
    report: Report,
    stack: contextlib.ExitStack,
) -> Iterator[tuple[Tile, Array]]:
    """Compute the tiles: here, in processes that the stack ends, or on the cluster."""
    how = engine.options
    if client is not None:
        report.tell(f"Workers: {len(client.nthreads())}")
        return distributed.distributed_blocks(client, job, tiles, how, report.tell)
    if workers is None:
        return job.blocks(tiles, engine)
    if "threads" in how:
        how = how | {"threads": max(1, (how["threads"] or available_threads()) // workers)}
    report.tell(f"Workers: {workers}")
    return stack.enter_context(LocalWorkers(workers, job, how)).blocks(tiles)


def _say_plan(job: GramJob, store: GramStore, tiles: list[Tile], engine: Backend, report: Report) -> None:
    """Say what there is to be done and what it costs."""
    pairs = sum(tile.pairs for tile in tiles)
    seconds = seconds_a_pair(job, tiles[0], engine)
    all_tiles = len(list(job.tiling))
    widest = max(tiles, key=lambda tile: tile.pairs)
    report.tell(
        f"Plan: {pairs:,} pairs of images in {len(tiles):,} tile{'s' * (len(tiles) > 1)}; "
        f"{all_tiles - len(tiles):,} of {all_tiles:,} tiles are finished and verified"
    )
    report.tell(
        f"Time: {estimated_duration(seconds * pairs)} on this machine alone, "
        f"{shown_duration(seconds * widest.pairs)} a tile"
    )
    report.tell(
        f"Size: {shown_bytes(store.nbytes)} in {store.path}, {shown_bytes(store.bytes_of(widest))} a tile"
    )
