"""The state of a training between two epochs, from which it goes on to the same bits."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.files import checkpoint as file
from ckncuda.types import StrPath

Arrays = dict[str, NDArray[Any]]

DIFFERING = {
    "layers": "the layers",
    "training": "the options of the training",
    "seed": "the seed",
    "shape": "the size of the images",
    "labels": "the labels, or the images held out",
    "images": "the images or their preprocessing",
    "start": "the anchor points at the start",
}
"""Names of what an identity tells apart, in words."""


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

    def save(self, path: StrPath) -> None:
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
    def load(cls, path: StrPath, identity: Mapping[str, Any]) -> Self:
        """Read it; raise `InvalidData` if it is of another training, or damaged."""
        plain, arrays = file.load(path)
        there = plain.get("identity")
        if not isinstance(there, dict):
            there = {}
        differing = [DIFFERING[name] for name, value in identity.items() if there.get(name) != value]
        if differing:
            raise InvalidData(
                f"{path} is of another training: it differs in {' and '.join(differing)}; give "
                "the same images, labels, options and seed, or remove it and start anew"
            )
        try:
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
            parts = [*found.anchors, *(found.head[name] for name in ("weights", "intercept"))]
            best = [*found.best[1], *(found.best[2][name] for name in ("weights", "intercept"))]
            shapes = [[each.shape for each in kept] for kept in (parts, best, *found.optimizer.values())]
            if not 0 <= found.best[0] < len(found.history) or any(each != shapes[0] for each in shapes):
                raise ValueError("its parts do not fit together")
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise InvalidData(f"{path} is damaged ({error!s:.200}); remove it and start anew") from error
        return found


@dataclass(frozen=True)
class Checkpoints:
    """Files of the unfinished trainings of a model, one for each of its encoders that is trained.

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

    write: StrPath | None = None
    resume: StrPath | None = None

    def of(self, number: int) -> tuple[str | None, str | None]:
        """Return the file to write and that to go on from, of a trained encoder; 0 is the first."""
        write, resume = (
            None if path is None else os.fspath(path) + (f".{number + 1}" if number else "")
            for path in (self.write, self.resume)
        )
        if number and resume is not None and not os.path.exists(resume):
            resume = None
        return write, resume

    def check(self, trainings: int) -> None:
        """Raise `InvalidData`, before any work, if there is nothing to go on from, or too much.

        Of so many encoders that are trained, what was learned in an unfinished training shall not be lost
        that nobody asked to go on with.  Of none `InvalidSpec` is raised if there is a file to go on from.
        """
        first, resume = self.of(0)
        if resume is not None and not trainings:
            raise InvalidSpec(f"resume is {resume}, but nothing is trained end to end: leave it out")
        for number in range(trainings):
            write, resume = self.of(number)
            if resume is not None:
                file.load(resume)
            if write is None or not os.path.exists(write):
                continue
            if resume is None or os.path.realpath(resume) != os.path.realpath(write):
                advice = "remove it"
                if first is not None and os.path.exists(first):
                    advice = f"go on with --resume {first}, or remove it"
                raise InvalidData(f"{write} is of a training that was not finished: {advice}")

    def remove(self, trainings: int) -> None:
        """Remove what was written for so many encoders that are trained: all is done."""
        for number in range(trainings):
            write, _ = self.of(number)
            if write is not None:
                Path(write).unlink(missing_ok=True)


def identity_of(
    plain: Mapping[str, Any],
    labels: NDArray[Any],
    images: Iterable[NDArray[Any]],
    start: Sequence[NDArray[Any]],
) -> dict[str, Any]:
    """Return what is the same for the same training alone: names of `DIFFERING`.

    Parameters
    ----------
    plain : mapping
        All that is plain data: layers, training, seed and shape.
    labels : integers
        Those of the images, and which are held out.
    images : arrays
        Block after block, preprocessed.
    start : sequence of arrays
        Anchor points.
    """
    digests = {"labels": [labels], "images": images, "start": start}
    result: dict[str, Any] = json.loads(json.dumps(plain))  # lists for tuples, as a file has them
    return result | {name: file.digest(arrays) for name, arrays in digests.items()}


def _numbered(name: str, arrays: Sequence[NDArray[Any]]) -> Arrays:
    return {f"{name}.{number}": array for number, array in enumerate(arrays)}


def _prefixed(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    return {prefix + name: array for name, array in arrays.items()}


def _in_order(name: str, arrays: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    count = sum(key.startswith(f"{name}.") and key[len(name) + 1 :].isdecimal() for key in arrays)
    return [arrays[f"{name}.{number}"] for number in range(count)]


def _group(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
