"""A folder with the data that the pages name, small, in the formats of those who distribute them."""

import numpy as np
import pytest
from factories import write_challenge_csv
from PIL import Image

from ckncuda import Exponential, Layer, LayerSpec, conventions
from ckncuda.layer.pooling import pooling_filter

CLASSES = 4


def images(n, height, width, channels, seed):
    """Bytes [n, height, width, channels] whose classes are stripes of different widths; their labels."""
    labels = np.arange(n) % CLASSES
    stripes = np.arange(width) // (1 + labels[:, None]) % 2
    noise = np.random.default_rng(seed).integers(0, 120, (n, height, width, channels))
    return (noise + 120 * stripes[:, None, :, None]).astype(np.uint8), labels


def write_labels(path, labels):
    path.write_text("Id,Prediction\n" + "".join(f"{i},{label}\n" for i, label in enumerate(labels, 1)))


def write_folder(path, pixels, labels=None):
    """PNG files, in one sub-folder a class where there are labels."""
    for i, image in enumerate(pixels):
        folder = path if labels is None else path / f"class-{labels[i]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")


def write_cifar(path, pixels, labels):
    """Binary records: a label, then the planes of red, green and blue."""
    planes = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    path.write_bytes(np.concatenate([labels[:, None].astype(np.uint8), planes], axis=1).tobytes())


def write_network_of_chen(path):
    """Tensors of a small network of his program, with their names: two layers and five classes."""
    state, channels, rng = {}, 3, np.random.default_rng(12)
    for i, (filters, step) in enumerate([(8, 2), (6, 4)]):
        spec = LayerSpec(filters, 3, step, Exponential(sigma=0.5), **conventions.CHEN)
        anchors = rng.normal(size=(filters, 3, 3, channels))
        anchors /= np.linalg.norm(anchors.reshape(filters, -1), axis=1)[:, None, None, None]
        taps = pooling_filter(32, step, "gaussian", "corner")[1]
        name = f"features.ckn_layers.{i}"
        state[f"{name}.weight"] = anchors.transpose(0, 3, 1, 2)
        state[f"{name}.pooling_filter"] = np.array([[np.outer(taps, taps)]] * filters)
        state[f"{name}.lintrans"] = Layer.from_anchors(spec, anchors).projection
        channels = filters
    state["classifier.weight"], state["classifier.bias"] = rng.normal(size=(5, 6 * 4 * 4)), np.zeros(5)
    np.savez(path, **{name: array.astype(np.float32) for name, array in state.items()})


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """The files that the pages call Xtr.csv, Ytr.csv, photos/, train/ and so on."""
    folder = tmp_path_factory.mktemp("data")
    for name, n, seed in (("tr", 20, 0), ("te", 8, 1), ("va", 8, 2)):
        pixels, labels = images(n, 28, 28, 1, seed)  # of 32x32x3 ZCA would take seconds
        write_challenge_csv(folder / f"X{name}.csv", pixels / 255 - 0.5)
        write_labels(folder / f"Y{name}.csv", labels)
    (folder / "cifar-10-batches-bin").mkdir()
    for name, n, seed in (("data_batch_1", 20, 3), ("test_batch", 8, 4)):
        write_cifar(folder / "cifar-10-batches-bin" / f"{name}.bin", *images(n, 32, 32, 3, seed))
    write_folder(folder / "photos", *images(20, 24, 20, 3, 5))
    write_folder(folder / "new-photos", images(4, 24, 20, 3, 6)[0])
    write_folder(folder / "train", *images(24, 16, 16, 3, 7))
    write_folder(folder / "test", images(4, 16, 16, 3, 8)[0])
    pixels, labels = images(40, 8, 8, 1, 9)
    write_challenge_csv(folder / "digits.csv", pixels / 255 - 0.5)
    np.save(folder / "digit-labels.npy", labels)
    write_network_of_chen(folder / "network.npz")
    (x_train, y_train), (x_test, y_test) = images(20, 28, 28, 1, 10), images(8, 28, 28, 1, 11)
    arrays = {"x_train": x_train[..., 0], "x_test": x_test[..., 0], "y_train": y_train, "y_test": y_test}
    np.savez(folder / "mnist.npz", **arrays)
    return folder
