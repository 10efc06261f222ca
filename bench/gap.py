"""Find out why leave-one-out on the challenge's images promises more than other images then keep.

    python bench/gap.py SHARED      SHARED/data holds CIFAR-10 batches, the challenge's index, make_files.py

A are the challenge's 5,000 training images, B 5,000 other CIFAR-10 training images, whitened alike. One
network learns on A, without labels; then a ridge is fitted on the features of one set and judged by
leave-one-out on it and on the other set. If leave-one-out were optimistic, it would promise too much
on both. The same is done with whole-image ZCA of several strengths, learned on A or on 5,000 images C that
are neither: ZCA learns d² numbers from n images, and sees those that are then left out.
"""

import argparse
import importlib.util
from pathlib import Path

import numpy as np
from challenge import machine

from ckncuda import CKN, Exponential, LayerSpec, Ridge
from ckncuda.images.preprocess import ZCA
from ckncuda.images.sources import as_images
from ckncuda.images.symmetries import Symmetries
from ckncuda.model.model import Model
from ckncuda.network.encoder import Encoder

REGULARIZATION = 1e-5  # for all, so that nothing is chosen
PATCHES = 100_000
EPSILONS = (0.01, 0.1, 1.0)


def sets(shared):
    """Read images and labels of A, B and C."""
    data = shared / "data"
    spec = importlib.util.spec_from_file_location("make_files", data / "make_files.py")
    make_files = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_files)
    first, second = (np.load(data / f"cifar10_train_{i}.npz") for i in (1, 2))
    chosen = np.load(data / "challenge.npz")["train_index"]
    raw = np.concatenate([first["images"][chosen], second["images"]])
    labels = np.concatenate([first["labels"][chosen], second["labels"]]).astype(int)
    white = make_files.whiten(raw)
    white *= 0.0369317 / white[:5000].std()
    white = white.astype(np.float32)
    return [(white[i : i + 5000], labels[i : i + 5000]) for i in (0, 5000, 10_000)]


def model(images, preprocessing):
    """Fit an encoder of the default's kind, on images that are preprocessed already."""
    kernel = Exponential(sigma=0.6)
    network = CKN(
        [
            LayerSpec(filters=64, patch=3, subsampling=2, kernel=kernel),
            LayerSpec(filters=1024, patch=3, subsampling=6, kernel=kernel),
        ]
    )
    prepared = images
    for preprocessor in preprocessing:
        prepared = preprocessor.apply(prepared)
    network.fit(prepared, patches=PATCHES, seed=0)
    return Model((Encoder(network, preprocessing, Symmetries(flip=True)),))


def judged(ours, theirs):
    """Return the leave-one-out accuracy of a ridge fitted on one set, and its accuracy on the other."""
    ridge = Ridge(REGULARIZATION).fit(*ours)
    features, labels = theirs
    return ridge.validation_accuracy_, float(np.mean(ridge.predict(features) == labels))


def main():
    """Measure and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shared", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "gap.md")
    arguments = parser.parse_args()
    (a, ya), (b, yb), (c, _) = sets(arguments.shared)
    lines = [
        "# Leave-one-out and other images",
        "",
        f"Made by `python bench/gap.py SHARED` on {machine()}. A: the challenge's 5,000 training images;",
        "B: 5,000 other CIFAR-10 training images; C: 5,000 more; all whitened alike. 64 and 1,024",
        f"filters learned on A, flips, ridge with λ = {REGULARIZATION:g}. The standard error of each",
        "accuracy is 0.6 points.",
        "",
        "| preprocessing | leave-one-out on A | A to B | leave-one-out on B | B to A |",
        "|---|---|---|---|---|",
    ]

    def row(name, preprocessing):
        encoder = model(a, preprocessing)
        fa, fb = (encoder.features(x) for x in (a, b))
        numbers = [*judged((fa, ya), (fb, yb)), *judged((fb, yb), (fa, ya))]
        lines.append(f"| {name} | " + " | ".join(f"{x:.4f}" for x in numbers) + " |")
        print(lines[-1], flush=True)
        return fa, fb

    fa, fb = row("none", ())
    order = np.random.default_rng(0).permutation(10_000)
    features, labels = np.concatenate([fa, fb])[order], np.concatenate([ya, yb])[order]
    mixed = [
        x
        for one, other in ((slice(5000), slice(5000, None)), (slice(5000, None), slice(5000)))
        for x in judged((features[one], labels[one]), (features[other], labels[other]))
    ]
    lines.append(
        "| none; A and B mixed at random into two halves | " + " | ".join(f"{x:.4f}" for x in mixed) + " |"
    )
    print(lines[-1], flush=True)
    for epsilon in EPSILONS:
        for name, images in (("A", a), ("C", c)):
            zca = ZCA(epsilon).fit(as_images(images))
            row(f"ZCA of ε = {epsilon:g} learned on {name}", (zca,))
    arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
