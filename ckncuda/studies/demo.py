"""The main job on handwritten digits, as `ckn demo` runs it."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend import Backend
from ckncuda.classifier import Ridge
from ckncuda.data import feature_writer, write_submission
from ckncuda.errors import InvalidData, require
from ckncuda.layer.dot_product import Exponential
from ckncuda.layer.spec import LayerSpec
from ckncuda.model.model import Model
from ckncuda.network.encoder import EncoderSpec
from ckncuda.progress import Progress
from ckncuda.studies.plots import MATPLOTLIB, draw_model

N_TEST = 500


@dataclass(frozen=True)
class DemoResult:
    """Findings of the demo, and the files it wrote."""

    accuracy: float
    n_test: int
    seconds: float
    files: list[Path]


def load_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return scikit-learn's 1,797 handwritten digits, uint8 [1797, 8, 8, 1] of 0…255, and their labels."""
    require(
        "sklearn.datasets", *MATPLOTLIB, purpose="the demo needs scikit-learn and matplotlib", extra="demo"
    )
    from sklearn.datasets import load_digits as digits

    pixels, labels = digits(return_X_y=True)
    images = np.rint(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)  # theirs count to 16
    return images, labels.astype(np.int64)


def run_demo(folder: Path, seed: int, backend: Backend, progress: Progress | None = None) -> DemoResult:
    """Fit on 1,297 digits, extract and predict the 500 others, draw; leave all files in a folder.

    The folder is made if it does not exist; files in it of the same names are replaced.  The seed is for the
    split and the fit.
    """
    started = time.perf_counter()
    images, labels = load_digits()
    order = np.random.default_rng(seed).permutation(len(images))
    test, train = np.sort(order[:N_TEST]), np.sort(order[N_TEST:])
    if folder.exists() and not folder.is_dir():
        raise InvalidData(f"{folder} is a file; the demo needs a folder: give another name with -o")
    folder.mkdir(parents=True, exist_ok=True)

    kernel = Exponential(sigma=0.6)
    layers = [
        LayerSpec(filters=64, patch=3, subsampling=1, kernel=kernel),
        LayerSpec(filters=256, patch=3, subsampling=2, kernel=kernel),
    ]
    classifier = Ridge()
    encoders = [EncoderSpec(layers, ())]
    model = Model.fit(
        images[train],
        labels[train],
        encoders,
        classifier=classifier,
        seed=seed,
        backend=backend,
        progress=progress,
    )
    files = {name: folder / name for name in ("model.ckn", "features.npy", "submission.csv", "picture.png")}
    model.save(files["model.ckn"])
    features = model.features(images[test], backend=backend, progress=progress)
    with feature_writer(files["features.npy"], *features.shape) as writer:
        writer.write(features)
    scores = model.scores(images[test], backend=backend)
    predicted = classifier.classes_[scores.argmax(axis=1)]
    write_submission(files["submission.csv"], predicted)
    draw_model(model, images[test], labels[test], scores, files["picture.png"])
    accuracy = float(np.mean(predicted == labels[test]))
    return DemoResult(accuracy, N_TEST, time.perf_counter() - started, list(files.values()))
