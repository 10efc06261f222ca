"""Draw docs/pictures/layer.png: one layer on a photograph, from a patch to the pooled maps.

    python docs/pictures/draw_layer.py

Nothing in it is made up: the anchor points are learned by `ckncuda` on scikit-learn's two sample photographs,
and the maps are those of the definition, `ckncuda.backend.reference`.  Needs the extra `demo`.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import ConnectionPatch, Rectangle
from PIL import Image
from sklearn.datasets import load_sample_images

from ckncuda import CKN, Exponential, LayerSpec
from ckncuda.backend.reference import extract_patches, unpooled_map
from ckncuda.images.preprocess import LocalWhitening

OUTPUT = Path(__file__).with_name("layer.png")
SIZE = (96, 144)  # height and width of the photographs here
PATCH, FILTERS, SUBSAMPLING = 7, 24, 8
LAYER = LayerSpec(filters=FILTERS, patch=PATCH, subsampling=SUBSAMPLING, kernel=Exponential(sigma=0.6))
CROP = (slice(4, 92), slice(0, 88))  # the temple
AT = (37, 50)  # the patch, in the crop: an edge of a roof
COLOURS = ("#d1242f", "#0969da", "#1a7f37")  # of three anchor points, whose maps are shown
GREY, INK = "#6e7781", "#1f2328"


def photographs():
    """Both sample photographs, whitened as `ckn fit` whitens photographs: float32 [2, h, w, 3]."""
    height, width = SIZE
    images = [Image.fromarray(image) for image in load_sample_images().images]
    small = [np.asarray(image.resize((width, height), Image.LANCZOS)) for image in images]
    return LocalWhitening().apply(np.array(small, dtype=np.float32) / 255)


def shown(values, spread):
    """Whitened values as colours: 0 is grey."""
    return np.clip(0.5 + values / (2 * spread), 0, 1)


def frame(axes, title, below=""):
    """A picture without ticks, with words above and below."""
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=11, color=INK, pad=7)
    axes.set_xlabel(below, fontsize=9.5, color=GREY, labelpad=6)
    for spine in axes.spines.values():
        spine.set(color=GREY, linewidth=0.6)


def arrow(figure, start, end):
    """An arrow from left to right, halfway up."""
    style = {"arrowstyle": "-|>", "mutation_scale": 13, "color": GREY, "lw": 1.3}
    figure.add_artist(ConnectionPatch((start, 0.5), (end, 0.5), figure.transFigure, **style))


def three(anchors, responses):
    """Numbers of three anchors: of largest response, the best vertical edge, the most coloured one."""
    vertical = np.linalg.norm(anchors.mean(axis=(1, 3)), axis=1)
    coloured = np.linalg.norm((anchors - anchors.mean(axis=3, keepdims=True)).mean(axis=(1, 2)), axis=1)
    return [int(values.argmax()) for values in (responses, vertical, coloured)]


def draw():
    """Learn, compute and draw."""
    whitened = photographs()
    layer = CKN(LAYER).fit(whitened, patches=20_000, seed=0).layers[0]
    x = whitened[:1, *CROP]
    maps = unpooled_map(x, layer)[0]
    rows, columns = LAYER.pooling_matrices(x.shape[1:])
    pooled = np.einsum("ih,jw,hwp->ijp", rows, columns, maps)
    patch = extract_patches(x, LAYER)[0, *AT]
    cosines = patch @ layer.anchors.reshape(FILTERS, -1).T / np.linalg.norm(patch)
    chosen = three(layer.anchors, maps[AT])

    plt.rcParams["font.family"] = "DejaVu Sans"
    figure = plt.figure(figsize=(10.4, 3.5), facecolor="white")
    spread = 2.5 * x.std()

    axes = figure.add_axes((0.01, 0.17, 0.22, 0.66))
    axes.imshow(shown(x[0], spread))
    half = PATCH / 2
    axes.add_patch(Rectangle((AT[1] - half, AT[0] - half), PATCH, PATCH, fill=False, color=COLOURS[0], lw=2))
    frame(axes, "image x, whitened", "each position u has a patch")

    axes = figure.add_axes((0.265, 0.36, 0.095, 0.28))
    axes.imshow(shown(patch.reshape(PATCH, PATCH, 3), 2.5 * patch.std()))
    frame(axes, "patch P x(u)", f"{PATCH} x {PATCH} x 3 numbers")
    for spine in axes.spines.values():
        spine.set(color=COLOURS[0], linewidth=2)

    side = 4
    left, bottom, step = 0.405, 0.2, 0.0322
    for j in range(FILTERS):
        row, column = divmod(j, side)
        cell = figure.add_axes((left + column * step, bottom + (5 - row) * 0.1, step * 0.9, 0.086))
        anchor = layer.anchors[j]
        cell.imshow(shown(anchor, 2.5 * anchor.std()))
        cell.set(xticks=[], yticks=[])
        for spine in cell.spines.values():
            spine.set(color=GREY, linewidth=0.4)
            if j in chosen:
                spine.set(color=COLOURS[chosen.index(j)], linewidth=1.8)
    figure.text(left + 2 * step, 0.862, "anchor points z", ha="center", fontsize=11, color=INK)
    figure.text(left + 2 * step, 0.1, "learned by k-means", ha="center", fontsize=9.5, color=GREY)

    axes = figure.add_axes((0.585, 0.3, 0.125, 0.38))
    t = np.linspace(-1, 1, 200)
    axes.plot(t, layer.spec.kernel.value(t), color=INK, lw=1.4)
    others = np.delete(np.arange(FILTERS), chosen)
    axes.plot(cosines[others], layer.spec.kernel.value(cosines[others]), "o", color=GREY, ms=3.5)
    for j, colour, size in zip(chosen, COLOURS, (7, 7, 4), strict=True):  # two of them may coincide
        axes.plot(cosines[j], layer.spec.kernel.value(cosines[j]), "o", color=colour, ms=size)
    axes.set(xlim=(-1, 1.04), ylim=(-0.04, 1.06), xticks=[-1, 0, 1], yticks=[0, 1])
    axes.tick_params(labelsize=9, colors=GREY)
    axes.set_title("kernel κ(t)", fontsize=11, color=INK, pad=7)
    axes.set_xlabel("t = cos(z, P x(u))", fontsize=9.5, color=GREY, labelpad=2)
    axes.spines[["top", "right"]].set_visible(False)

    for place, j in enumerate(chosen):
        for array, left in ((maps, 0.75), (pooled, 0.885)):
            axes = figure.add_axes((left, 0.595 - place * 0.222, 0.075, 0.21))
            axes.imshow(array[..., j], cmap="magma", vmin=0, vmax=np.quantile(array[..., j], 0.995))
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color=COLOURS[place], linewidth=1.8)
    figure.text(0.7875, 0.862, "maps y", ha="center", fontsize=11, color=INK)
    figure.text(0.7875, 0.1, "one for each z", ha="center", fontsize=9.5, color=GREY)
    figure.text(0.9225, 0.862, "pooled: A y", ha="center", fontsize=11, color=INK)
    figure.text(0.935, 0.1, r"then $\times$ K(Z, Z)$^{-1/2}$", ha="center", fontsize=9.5, color=GREY)

    arrow(figure, 0.235, 0.262)
    arrow(figure, 0.363, 0.4)
    arrow(figure, 0.535, 0.565)
    arrow(figure, 0.715, 0.747)
    arrow(figure, 0.828, 0.881)
    figure.savefig(OUTPUT, dpi=200, facecolor="white", metadata={"Software": None})


if __name__ == "__main__":
    draw()
