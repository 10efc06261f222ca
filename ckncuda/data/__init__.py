"""Images, labels and features on disk: readers and writers.

    open_images(path) ──▶ ImageSource ──▶ blocks [n, h, w, c], uint8 or float32
    read_labels(path) ──▶ int64 [n]
    feature_writer(path), write_submission(path)  ──▶ files that appear whole or not at all

Nothing here knows of networks or GPUs.  Every failure that a user can cause raises
`ckncuda.errors.InvalidData`.
"""

from ckncuda.data.labels import read_labels
from ckncuda.data.open import open_images
from ckncuda.data.source import ArraySource, ImageSource
from ckncuda.data.writers import feature_writer, write_submission

__all__ = ["ArraySource", "ImageSource", "feature_writer", "open_images", "read_labels", "write_submission"]
