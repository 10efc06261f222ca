"""Parts of the data sets, as files that `ckn` reads, for measurements on images that no fit has seen.

    python bench/splits.py DATA OUT
    python bench/splits.py DATA OUT --index FILE.npz   train_index: which of CIFAR-10 are the challenge's

DATA holds folders as users have them: challenge/ (Xtr.csv, Ytr.csv), cifar/ (CIFAR-10's binary batches) and
mnist/ (IDX files); what is absent is left out. OUT receives, drawn at random with seed 0,

    challenge-4000.npz, challenge-1000.npz    the challenge's training images, a fifth of them held out
    cifar-5000.npz, cifar-5000-others.npz     CIFAR-10 training images, and as many others
    cifar-1000.npz, cifar-1000-others.npz     the first fifth of each of these
    cifar-512.npz                             512 of them
    challenge-raw-5000.npz, challenge-raw-others.npz    with --index: the challenge's training images, not
                                              whitened, and 4,000 of CIFAR-10's second batch
    cifar-18000.npz, cifar-2000.npz           20,000 CIFAR-10 training images, a tenth of them held out
    mnist-300-0.npz, …, mnist-300-4.npz       five draws of 300 MNIST training images
"""

import argparse
from pathlib import Path

import numpy as np

from ckncuda.data import open_images, read_labels

BATCH = 10_000  # images of each batch of CIFAR-10


def read(path, split=None):
    """Read all images and labels of a data set."""
    with open_images(str(path), split=split) as source:
        return source.read(0, len(source)), source.labels


def save(out, name, images, labels, chosen):
    """Write the chosen images, in the order of the data set."""
    chosen = np.sort(chosen)
    np.savez(out / f"{name}.npz", images=images[chosen], labels=labels[chosen])


def main():
    """Write the parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--index", type=Path)
    arguments = parser.parse_args()
    data, out = arguments.data, arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if (data / "challenge").exists():
        images, _ = read(data / "challenge" / "Xtr.csv")
        labels = read_labels(str(data / "challenge" / "Ytr.csv"), len(images))
        order = np.random.default_rng(0).permutation(len(images))
        save(out, "challenge-4000", images, labels, order[1000:])
        save(out, "challenge-1000", images, labels, order[:1000])
    if (data / "cifar").exists():
        images, labels = read(data / "cifar" / "cifar-10-batches-bin", "train")
        order = np.random.default_rng(0).permutation(len(images))
        save(out, "cifar-5000", images, labels, order[:5000])
        save(out, "cifar-5000-others", images, labels, order[5000:10_000])
        save(out, "cifar-1000", images, labels, order[:1000])
        save(out, "cifar-1000-others", images, labels, order[5000:6000])
        save(out, "cifar-512", images, labels, order[:512])
        save(out, "cifar-18000", images, labels, order[2000:20_000])
        save(out, "cifar-2000", images, labels, order[:2000])
        if arguments.index is not None:
            with np.load(arguments.index) as index:
                chosen = index["train_index"]
            save(out, "challenge-raw-5000", images, labels, chosen)
            second = np.random.default_rng(0).permutation(BATCH)[:4000] + BATCH
            save(out, "challenge-raw-others", images, labels, second)
    if (data / "mnist").exists():
        images, labels = read(data / "mnist", "train")
        for draw in range(5):
            chosen = np.random.default_rng(draw).choice(len(images), 300, replace=False)
            save(out, f"mnist-300-{draw}", images, labels, chosen)


if __name__ == "__main__":
    main()
