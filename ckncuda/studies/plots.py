"""Pictures of what studies find, PNG files: of a model, of distances to an exact kernel, of a search."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.errors import InvalidData, require
from ckncuda.files.atomic_file import atomic_file
from ckncuda.model.model import Model
from ckncuda.studies.distance import Distance
from ckncuda.studies.search.leaderboard import Row, pareto_front

MAX_FILTERS = 64
ROWS, COLUMNS = 4, 8  # of predictions
PIXELS = 6  # of the picture, for one of an anchor
LINE = (0.45, 0.6, 0.85)
MATPLOTLIB = ("matplotlib.figure", "matplotlib.backends.backend_agg")  # what draws


@contextlib.contextmanager
def _plain_style() -> Iterator[None]:
    """Draw as matplotlib does by default, whatever a ``matplotlibrc`` says.

    It takes the one in the current folder, which may be anybody's, and starts LaTeX where that says so.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


def filter_mosaic(anchors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Lay out anchor points side by side, as an image.

    Parameters
    ----------
    anchors : [filters, k, k, c]
        Of one channel (shown grey) or three (shown in colour); of more, the first is shown.

    Returns
    -------
    float32 [rows, columns, 3]
        Each anchor stretched to 0…1, its least entry black, and enlarged; a blue line between them.
    """
    tiles = np.asarray(anchors[:MAX_FILTERS], np.float32)
    if tiles.shape[3] != 3:
        tiles = np.repeat(tiles[..., :1], 3, axis=3)
    low, high = tiles.min(axis=(1, 2, 3), keepdims=True), tiles.max(axis=(1, 2, 3), keepdims=True)
    tiles = (tiles - low) / np.maximum(high - low, 1e-12)
    tiles = tiles.repeat(PIXELS, axis=1).repeat(PIXELS, axis=2)
    columns = int(np.ceil(np.sqrt(len(tiles))))
    rows = -(-len(tiles) // columns)
    k = tiles.shape[1]
    mosaic = np.empty((rows * (k + 2) - 2, columns * (k + 2) - 2, 3), np.float32)
    mosaic[...] = LINE
    for i, tile in enumerate(tiles):
        y, x = (i // columns) * (k + 2), (i % columns) * (k + 2)
        mosaic[y : y + k, x : x + k] = tile
    return mosaic


def hardest_first(scores: NDArray[np.float32], truth: NDArray[np.intp]) -> NDArray[np.intp]:
    """Order images by how far the true class leads the best other one: mistakes, then close calls.

    Parameters
    ----------
    scores : float32 [n, classes]
    truth : int [n]
        Column of each image's true class.
    """
    images = np.arange(len(scores))
    others = scores.copy()
    others[images, truth] = -np.inf
    return np.argsort(scores[images, truth] - others.max(axis=1), kind="stable")


@_plain_style()
def draw_model(
    model: Model,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    scores: NDArray[np.float32],
    path: Path,
) -> None:
    """Draw filters on the left, on the right the hardest images as predicted, mistakes in red."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.45], squeeze=False)[0]
    first = model.network.layers[0]
    filters = first.spec.filters
    left.suptitle(f"first layer: {min(filters, MAX_FILTERS)} of {filters} anchor points")
    axes = left.subplots()
    axes.imshow(filter_mosaic(first.anchors), interpolation="nearest")
    axes.axis("off")
    assert model.classifier is not None
    classes = model.classifier.classes_
    predicted = classes[scores.argmax(axis=1)]
    mistakes = f"{np.sum(labels != predicted)} mistakes in {len(labels)} images it did not train on"
    right.suptitle(f"{mistakes}; hardest first: predicted (true)")
    grid = right.subplots(ROWS, COLUMNS)
    for cell in grid.flat:
        cell.axis("off")
    for cell, i in zip(grid.flat, hardest_first(scores, np.searchsorted(classes, labels)), strict=False):
        cell.imshow(images[i].squeeze(), cmap="gray", interpolation="nearest")
        correct = labels[i] == predicted[i]
        title = f"{predicted[i]}" if correct else f"{predicted[i]} ({labels[i]})"
        cell.set_title(title, color="black" if correct else "#c00000", fontsize=11, pad=2)
    _save(figure, path)


@_plain_style()
def draw_distances(
    distances: Sequence[Distance], path: str, title: str, given: Distance | None = None
) -> None:
    """Draw the distance against the number of anchor points, and as lines across that of a given network."""
    check_plotting(path)
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log", title=title)
    numbers = [each.filters[0] for each in distances]
    shown = [("distance", "tab:blue", "Gram matrices"), ("centred", "tab:orange", "the same, centred")]
    for name, colour, label in shown:
        values = [getattr(each, name) for each in distances]
        axes.plot(numbers, values, "o-", color=colour, label=label)
        for number, value in zip(numbers, values, strict=True):
            axes.annotate(f"{value:.2g}", (number, value), (6, 6), textcoords="offset points", color=colour)
        if given is not None:
            points = "/".join(map(str, given.filters))
            label = f"{label}: {points} anchor points"
            axes.axhline(getattr(given, name), color=colour, linestyle="--", label=label)
    axes.legend(frameon=False)
    axes.set_xticks(numbers, [f"{number:,}" for number in numbers])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("anchor points of each layer")
    axes.set_ylabel("distance to the exact kernel, relative")
    axes.margins(x=0.12, y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    _save(figure, path)


@_plain_style()
def draw_training(trainings: Sequence[Sequence[Mapping[str, Any]]], path: str) -> None:
    """Draw loss and accuracy of each epoch, on the images trained on and on those held out."""
    check_plotting(path)
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 3.6 * len(trainings)), layout="constrained")
    grid = figure.subplots(len(trainings), 2, squeeze=False)
    for number, (history, row) in enumerate(zip(trainings, grid, strict=True), 1):
        for name, axes in zip(("loss", "accuracy"), row, strict=True):
            for key, label, line in ((name, "as trained on", "o-"), (f"held_out_{name}", "held out", "s-")):
                known = [(each["epoch"], each[key]) for each in history if each[key] is not None]
                if known:
                    axes.plot(*zip(*known, strict=True), line, markersize=3, label=label)
            axes.set(xlabel="epoch", ylabel=name)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(alpha=0.3)
            axes.legend()
        if len(trainings) > 1:
            row[0].set_title(f"encoder {number}", loc="left")
    _save(figure, Path(path))


def check_plotting(path: str) -> None:
    """Raise `NotInstalled` unless matplotlib is there, `InvalidData` unless the path is a PNG's."""
    if not path.lower().endswith(".png"):
        raise InvalidData(f"the plot is a PNG: give a name ending in .png, not {path}")
    require(*MATPLOTLIB, purpose="the plot needs matplotlib", extra="demo")


@_plain_style()
def draw_search(rows: Sequence[Row], images: int, path: Path) -> None:
    """Draw the accuracy of each complete trial against the seconds of its fit, best and front marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes: Any = figure.subplots()
    front, best = pareto_front(rows), rows[0]
    seconds = [*(row.seconds for row in front), max(row.seconds for row in rows)]
    accuracies = [*(row.accuracy for row in front), front[-1].accuracy]
    label = "best within so many seconds (Pareto front)"
    axes.step(seconds, accuracies, where="post", color="#4c72b0", linewidth=1, label=label)
    presets = [row for row in rows if row.preset is not None]
    others = [row for row in rows if row.preset is None]
    for chosen, marker, label in ((others, "o", "trials"), (presets, "s", "presets")):
        if chosen:
            seconds, accuracies = [row.seconds for row in chosen], [row.accuracy for row in chosen]
            axes.scatter(seconds, accuracies, s=28, marker=marker, alpha=0.8, label=label)
    presets.sort(key=lambda row: row.seconds)
    for number, row in enumerate(presets):  # below and above in turn: neighbours would hide one another
        place, side = ((0, -8), "top") if number % 2 == 0 else ((0, 8), "bottom")
        at = {"xytext": place, "textcoords": "offset points", "ha": "center", "va": side}
        axes.annotate(row.preset, (row.seconds, row.accuracy), **at, fontsize=8)
    label = f"best: {best.accuracy:.4f}, trial {best.trial}"
    axes.scatter(best.seconds, best.accuracy, s=220, marker="*", color="#c44e52", zorder=3, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(0.08, 0.1)
    axes.set_xlabel("seconds of the fit")
    axes.set_ylabel(f"leave-one-out accuracy on {images:,} images")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=9)
    _save(figure, path)


def _save(figure: Any, path: str | Path) -> None:
    """Write a figure to a PNG file, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with atomic_file(path) as file:
        canvas: Any = FigureCanvasAgg(figure)  # matplotlib types it where it is installed, in part
        canvas.print_png(file)
