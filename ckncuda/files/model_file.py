"""The model file: one safetensors file, the specification in its header, no pickle.

The header's metadata hold one entry, ``ckncuda``: JSON with the ``version`` of the format (raised when
a reader of the old version would go wrong), the encoders (layers, preprocessing, symmetries), the classifier,
the images' shape and type, and the report.  One entry, because safetensors writes several in no fixed order,
and equal models shall be equal files.  The tensors are what was learned: ``encoders.0.layers.0.anchors``,
``encoders.0.layers.0.projection``, ``encoders.0.preprocessing.0.…``, ``classifier.weights`` and so on.
An encoder's ``kind`` is ``network`` or ``exact``; of the latter the tensor is ``encoders.0.points``, the
images to compare with, which the ``points`` of further encoders name if they are the same.
A model that was fitted on one backend is read by every other.

Version 1 knew one encoder without symmetries, and linear classifiers, version 2 networks only; such files
are read as ever.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from ckncuda.errors import CknError, InvalidData, InvalidModelFile
from ckncuda.files import strict_json
from ckncuda.files.atomic_file import atomic_file
from ckncuda.files.regular_file import check_unchanged, open_regular, version_of
from ckncuda.files.specification import check_specification
from ckncuda.files.tensors import read_container, read_tensors
from ckncuda.types import StrPath

ENTRY = "ckncuda"
VERSION = 3

Tensors = dict[str, NDArray[Any]]
Built = TypeVar("Built")


class Part(Protocol):
    """A part of a model that stores itself: an encoder or a classifier."""

    def to_dict(self) -> Mapping[str, Any]:
        """Return plain data."""

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Return arrays, by name."""


@dataclass(frozen=True)
class StoredPart:
    """A part as a file holds it: plain data, and arrays by name."""

    options: Mapping[str, Any]
    tensors: Tensors

    def to_dict(self) -> Mapping[str, Any]:
        """Return plain data."""
        return self.options

    def arrays(self) -> Tensors:
        """Return arrays, by name."""
        return self.tensors


@dataclass(frozen=True)
class Contents:
    """The contents of a model file.

    Attributes
    ----------
    encoders : sequence of Part
    classifier : Part or None
    about : dict
        Plain data: ``image_shape``, ``image_type``, ``class_names`` and ``report``.
    """

    encoders: Sequence[Part]
    classifier: Part | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


_ABOUT: Mapping[str, Any] = {"image_shape": None, "image_type": None, "class_names": None, "report": {}}


def save(contents: Contents, path: StrPath) -> None:
    """Write a model file, by custom ``*.ckn``; see `ckncuda.files.atomic_file` for errors."""
    tensors: Tensors = {}
    encoders = [_take_apart(part, f"encoders.{n}.", tensors) for n, part in enumerate(contents.encoders)]
    classifier = contents.classifier and _take_apart(contents.classifier, "classifier.", tensors)
    specification = {"version": VERSION, "encoders": encoders, "classifier": classifier}
    metadata = {ENTRY: json.dumps({**specification, **_ABOUT, **contents.about})}
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    with atomic_file(path) as file:
        file.write(safetensors.numpy.save(contiguous, metadata))


def load(path: StrPath, build: Callable[[Contents], Built]) -> Built:
    """Return what ``build`` makes of a model file that `save` wrote; its errors say that the file is damaged.

    Raises
    ------
    InvalidModelFile
        There is no such file, it is not a model, it is damaged, or it is of a newer version.
    """
    path = Path(path)
    header, tensors = _read(path)
    try:
        specification = strict_json.loads(header)
        version = specification["version"]
        if type(version) is not int or version < 1:
            raise ValueError(f"its version is {version!r:.80}")
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidModelFile(
            f"{path} is damaged: its specification cannot be read ({error!s:.200})"
        ) from error
    if version > VERSION:
        raise InvalidModelFile(
            f"{path} is a model of format version {version:.6g}; this ckncuda reads versions up to "
            f"{VERSION}: install a newer ckncuda"
        )
    try:
        if version == 1:
            specification, tensors = _from_version_1(specification, tensors)
        if version <= 2:
            specification = _from_version_2(specification)
        check_specification(specification)
        return build(_put_together(specification, tensors))
    except (CknError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise InvalidModelFile(
            f"{path} is damaged: its specification and its arrays do not fit ({error!s:.500})"
        ) from error


def _read(path: Path) -> tuple[str, Tensors]:
    """Our entry of the header, and all arrays."""
    if not path.exists():
        raise InvalidModelFile(f"there is no model file {path}; make one with: ckn fit IMAGES -o {path}")
    if path.is_dir():
        raise InvalidModelFile(f"{path} is a folder; a model is a file that ckn fit wrote")
    try:
        with open_regular(path) as file:
            version = version_of(file)
            container = read_container(file, path)
            if ENTRY not in container.metadata:
                raise InvalidModelFile(f"{path} is a safetensors file, but not a model of ckncuda")
            tensors = read_tensors(file, container.tensors)
            check_unchanged(file, version, path)
            return container.metadata[ENTRY], tensors
    except InvalidData as error:  # it is no file, or has become shorter
        raise InvalidModelFile(str(error)) from error
    except OSError as error:
        raise InvalidModelFile(f"cannot read {path}: {error.strerror or error}") from error


def _take_apart(part: Part, prefix: str, tensors: Tensors) -> dict[str, Any]:
    """Return a part's plain data; its arrays are added to the tensors.

    An array whose name the plain data hold may be shared: there, they get the name of the tensor.
    """
    options = dict(part.to_dict())
    for name, array in part.arrays().items():
        stored = prefix + name
        if options.get(name) == name:
            same = [known for known, other in tensors.items() if other is array]
            stored = options[name] = same[0] if same else stored
        tensors[stored] = array
    return options


def _put_together(specification: Mapping[str, Any], tensors: Tensors) -> Contents:
    encoders = [
        _part(options, tensors, f"encoders.{n}.") for n, options in enumerate(specification["encoders"])
    ]
    classifier = specification["classifier"]
    classifier = None if classifier is None else _part(classifier, tensors, "classifier.")
    return Contents(encoders, classifier, {name: specification[name] for name in _ABOUT})


def _part(options: Mapping[str, Any], tensors: Tensors, prefix: str) -> StoredPart:
    own = group(tensors, prefix)
    named = {name: stored for name, stored in options.items() if isinstance(stored, str)}
    shared = {name: tensors[stored] for name, stored in named.items() if stored in tensors or name in own}
    return StoredPart(options, own | shared)


def _from_version_1(specification: Mapping[str, Any], tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """Return what the file would hold if it were of version 2."""
    encoder = {name: specification[name] for name in ("layers", "preprocessing")} | {"symmetries": {}}
    classifier = {"name": "linear"} if specification["classifier"] else None
    return dict(specification) | {"encoders": [encoder], "classifier": classifier}, {
        name if name.startswith("classifier.") else f"encoders.0.{name}": array
        for name, array in tensors.items()
    }


def _from_version_2(specification: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the file would hold if it had been written today."""
    encoders = [{"kind": "network"} | dict(encoder) for encoder in specification["encoders"]]
    return dict(specification) | {"encoders": encoders}


def group(tensors: Mapping[str, NDArray[Any]], prefix: str) -> Tensors:
    """Return the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
