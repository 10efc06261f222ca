"""The state of a training between two epochs, from which it goes on to the same bits."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ckncuda.errors import InvalidData, printable
from ckncuda.files import checkpoint as file

Arrays = dict[str, NDArray[Any]]

DIFFERING = {
    "layers": "the layers",
    "training": "the options of the training",
    "seed": "the seed",
    "shape": "the size of the images",
    "labels": "the labels, or the images held out",
    "start": "the images, their preprocessing or where the training starts",
}
"""What an identity tells apart, in words."""


@dataclass(frozen=True)
class Checkpoint:
    """All that a training needs to go on.

    Attributes
    ----------
    identity : mapping
        What it is a training of; see `identity_of`.
    history : sequence of dict
    steps : int
        That the optimizer has taken.
    regularization : float
        λ of the head.
    anchors : list of arrays
    head : dict of arrays
    optimizer : dict of lists of arrays
        What the optimizer keeps, by name, one a parameter.
    best : (int, list of arrays, dict of arrays)
        Epoch, anchor points and head of the best epoch so far.
    """

    identity: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    steps: int
    regularization: float
    anchors: Sequence[NDArray[Any]]
    head: Arrays
    optimizer: dict[str, list[NDArray[Any]]]
    best: tuple[int, Sequence[NDArray[Any]], Arrays]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it, in place of that of the epoch before."""
        epoch, anchors, head = self.best
        arrays = _numbered("anchors", self.anchors) | _prefixed("head.", self.head)
        arrays |= _numbered("best.anchors", anchors) | _prefixed("best.head.", head)
        for name, kept in self.optimizer.items():
            arrays |= _numbered(f"optimizer.{name}", kept)
        plain = {
            "identity": dict(self.identity),
            "history": [dict(each) for each in self.history],
            "steps": self.steps,
            "regularization": self.regularization,
            "best": epoch,
            "optimizer": list(self.optimizer),
        }
        file.save(path, plain, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str], identity: Mapping[str, Any]) -> Self:
        """Read it; raise `InvalidData` if it is of another training, or damaged."""
        plain, arrays = file.load(path)
        try:
            there = plain["identity"]
            differing = [DIFFERING[name] for name, value in identity.items() if there.get(name) != value]
            if differing:
                raise InvalidData(
                    f"{printable(path)} is of another training: it differs in {' and '.join(differing)}; "
                    "give the same images, labels, options and seed, or start anew without it"
                )
            count = len(plain["history"]) - 1
            found = cls(
                there,
                plain["history"],
                plain["steps"],
                plain["regularization"],
                _in_order("anchors", arrays),
                _group("head.", arrays),
                {name: _in_order(f"optimizer.{name}", arrays) for name in plain["optimizer"]},
                (plain["best"], _in_order("best.anchors", arrays), _group("best.head.", arrays)),
            )
            if not 0 <= found.best[0] <= count or len(found.anchors) != len(found.best[1]):
                raise ValueError("its parts do not fit together")
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise InvalidData(
                f"{printable(path)} is damaged ({printable(error)[:200]}); start anew without it"
            ) from error
        return found


@dataclass(frozen=True)
class Checkpoints:
    """Files of the unfinished trainings of a model, one for each encoder that is trained.

    Parameters
    ----------
    write : path-like, optional
        Written after each epoch; of further encoders the name has .2, .3 and so on at its end.
    resume : path-like, optional
        Such a file, from which a training goes on; those of further encoders stand beside it, or these have
        not begun.

    Examples
    --------
    >>> Checkpoints("model.ckn.checkpoint").of(1)
    ('model.ckn.checkpoint.2', None)
    """

    write: str | os.PathLike[str] | None = None
    resume: str | os.PathLike[str] | None = None

    def of(self, number: int) -> tuple[str | None, str | None]:
        """Return the file to write and that to go on from, of the encoder of a number, 0 for the first."""
        write, resume = (
            None if path is None else os.fspath(path) + (f".{number + 1}" if number else "")
            for path in (self.write, self.resume)
        )
        if number and resume is not None and not os.path.exists(resume):
            resume = None
        return write, resume

    def remove(self, encoders: int) -> None:
        """Remove what was written for so many encoders: all is done."""
        for number in range(encoders):
            for path in self.of(number):
                if path is not None:
                    Path(path).unlink(missing_ok=True)


def identity_of(
    layers: Sequence[Mapping[str, Any]],
    training: Mapping[str, Any],
    seed: int,
    shape: Sequence[int],
    labels: NDArray[Any],
    start: Sequence[NDArray[Any]],
) -> dict[str, Any]:
    """Return what is the same for the same training alone: names of `DIFFERING`.

    The anchor points at the start depend on every image and on the preprocessing.
    """
    plain = {"layers": list(layers), "training": dict(training), "seed": seed, "shape": list(shape)}
    digests = {"labels": _digest([labels]), "start": _digest(start)}
    result: dict[str, Any] = json.loads(json.dumps(plain)) | digests  # lists for tuples, as a file has them
    return result


def _digest(arrays: Sequence[NDArray[Any]]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str} {list(array.shape)}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def _numbered(name: str, arrays: Sequence[NDArray[Any]]) -> Arrays:
    return {f"{name}.{number}": array for number, array in enumerate(arrays)}


def _prefixed(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    return {prefix + name: array for name, array in arrays.items()}


def _in_order(name: str, arrays: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    count = sum(key.startswith(f"{name}.") and key[len(name) + 1 :].isdecimal() for key in arrays)
    return [arrays[f"{name}.{number}"] for number in range(count)]


def _group(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
