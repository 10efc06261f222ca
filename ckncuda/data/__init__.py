"""Images, labels and features on disk: readers and writers.

    open_images(path) ──▶ ImageSource ──▶ blocks [n, h, w, c], uint8 or float32
    read_labels(path) ──▶ int64 [n]
    feature_writer(path), write_submission(path)  ──▶ files that appear whole or not at all

====================  ==============================================================
file                  what it holds
====================  ==============================================================
`source.py`           `ImageSource`, what every reader is, and the checks that all share
`split.py`            train or test, where a data set holds both
`challenge_csv.py`    the data challenge's CSV: an image a line, planar
`numpy_files.py`      ``.npy`` and ``.npz``
`cifar.py`            CIFAR-10 and CIFAR-100, binary and pickled
`idx.py`              MNIST's IDX files, gzipped or not
`image_folder.py`     folders of PNG, JPEG, ... files
`open.py`             `open_images`, which chooses among these
`labels.py`           `read_labels`
`writers.py`          `write_submission`, `feature_writer`
====================  ==============================================================

Nothing here knows of networks or GPUs.  Every failure that a user can cause raises
`ckncuda.errors.InvalidData`.
"""

from ckncuda.data.labels import read_labels
from ckncuda.data.open import open_images
from ckncuda.data.source import ArraySource, ImageSource
from ckncuda.data.writers import feature_writer, write_submission

__all__ = ["ArraySource", "ImageSource", "feature_writer", "open_images", "read_labels", "write_submission"]
