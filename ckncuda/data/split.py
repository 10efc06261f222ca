"""Train or test, where a data set holds both."""

from collections.abc import Collection

from ckncuda.errors import InvalidData

SPLITS = ("train", "test")


def check_split(split: str | None) -> None:
    """Raise `InvalidData` unless ``split`` is "train", "test" or None."""
    if split is not None and split not in SPLITS:
        raise InvalidData(f"split {split!r}; expected train or test")


def choose_split(present: Collection[str], wanted: str | None, where: str) -> str:
    """Return the split to read: the one wanted, or the only one present.

    Examples
    --------
    >>> choose_split(["train"], None, "mnist/")
    'train'
    """
    found = [split for split in SPLITS if split in present]
    if wanted is not None:
        if wanted not in found:
            raise InvalidData(f"{where}: there is no {wanted} split, only {' and '.join(found)}")
        return wanted
    if len(found) > 1:
        raise InvalidData(f"{where} holds both train and test images: give --split train or --split test")
    return found[0]
