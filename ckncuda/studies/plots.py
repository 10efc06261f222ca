"""A picture of a model: the anchor points of its first layer, and some of its predictions."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.files.atomic_file import atomic_file
from ckncuda.model.model import Model

MAX_FILTERS = 64
ROWS, COLUMNS = 4, 8  # of predictions
PIXELS = 6  # of the picture, for one of an anchor
LINE = (0.45, 0.6, 0.85)


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


def draw(
    model: Model,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    scores: NDArray[np.float32],
    path: Path,
) -> None:
    """Write a PNG: filters on the left; on the right the hardest images as predicted, mistakes in red."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.45], squeeze=False)[0]
    first = model.network.layers[0]
    left.suptitle(
        f"first layer: {min(first.spec.filters, MAX_FILTERS)} of {first.spec.filters} anchor points"
    )
    axes = left.subplots()
    axes.imshow(filter_mosaic(first.anchors), interpolation="nearest")
    axes.axis("off")
    assert model.classifier is not None
    classes = model.classifier.classes_
    predicted = classes[scores.argmax(axis=1)]
    mistakes = int(np.sum(labels != predicted))
    right.suptitle(
        f"{mistakes} mistakes in {len(labels)} images it did not train on; hardest first: predicted (true)"
    )
    grid = right.subplots(ROWS, COLUMNS)
    for cell in grid.flat:
        cell.axis("off")
    for cell, i in zip(grid.flat, hardest_first(scores, np.searchsorted(classes, labels)), strict=False):
        cell.imshow(images[i].squeeze(), cmap="gray", interpolation="nearest")
        correct = labels[i] == predicted[i]
        title = f"{predicted[i]}" if correct else f"{predicted[i]} ({labels[i]})"
        cell.set_title(title, color="black" if correct else "#c00000", fontsize=11, pad=2)
    with atomic_file(path) as file:
        canvas: Any = FigureCanvasAgg(figure)  # matplotlib types it where it is installed, in part
        canvas.print_png(file)
