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
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from ckncuda.classifier import Classifier, classifier_from_arrays
from ckncuda.errors import CknError, InvalidModelFile
from ckncuda.exact import ExactKernel
from ckncuda.exact.encoder import ExactEncoder
from ckncuda.files.atomic_file import atomic_file
from ckncuda.images.preprocess import preprocessor_from_dict
from ckncuda.images.symmetries import Symmetries
from ckncuda.layer.layer import Layer, check_anchors
from ckncuda.layer.spec import LayerSpec
from ckncuda.model.model import Model
from ckncuda.network.encoder import Encoder, ImageEncoder
from ckncuda.network.network import CKN

ENTRY = "ckncuda"
VERSION = 3

Tensors = dict[str, NDArray[Any]]


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model, whole or not at all.

    Parameters
    ----------
    model : Model
        Fitted.
    path : path-like
        By custom ``*.ckn``; a file that stands there is replaced when the new one is complete.

    Raises
    ------
    InvalidData
        The file cannot be written.
    """
    tensors, specification = _take_apart(model)
    metadata = {ENTRY: json.dumps({"version": VERSION} | specification)}
    with atomic_file(path) as file:
        file.write(safetensors.numpy.save(tensors, metadata))


def load(path: str | os.PathLike[str]) -> Model:
    """Read a model file.

    Parameters
    ----------
    path : path-like
        A file that `save` or ``ckn fit`` wrote.

    Returns
    -------
    Model

    Raises
    ------
    InvalidModelFile
        There is no such file, it is not a model, it is damaged, or it is of a newer version.
    """
    path = Path(path)
    header, tensors = _read(path)
    try:
        specification = json.loads(header)
        version = int(specification["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidModelFile(f"{path} is damaged: its specification cannot be read ({error})") from error
    if version > VERSION:
        raise InvalidModelFile(
            f"{path} is a model of format version {version}; this ckncuda reads versions up to "
            f"{VERSION}: install a newer ckncuda"
        )
    try:
        if version == 1:
            specification, tensors = _from_version_1(specification, tensors)
        if version <= 2:
            specification = _from_version_2(specification)
        return _put_together(specification, tensors)
    except (CknError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidModelFile(
            f"{path} is damaged: its specification and its arrays do not fit ({error})"
        ) from error


def _read(path: Path) -> tuple[str, Tensors]:
    """Our entry of the header, and all arrays."""
    if not path.exists():
        raise InvalidModelFile(f"there is no model file {path}; make one with: ckn fit IMAGES -o {path}")
    if path.is_dir():
        raise InvalidModelFile(f"{path} is a folder; a model is a file that ckn fit wrote")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if ENTRY not in metadata:
                raise InvalidModelFile(f"{path} is a safetensors file, but not a model of ckncuda")
            return metadata[ENTRY], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        if _is_truncated(path):
            raise InvalidModelFile(
                f"{path} is truncated: it is shorter than its header says; copy it again"
            ) from error
        raise InvalidModelFile(f"{path} is not a model file, or is damaged ({error})") from error
    except (TypeError, AttributeError) as error:  # types that NumPy does not have
        raise InvalidModelFile(f"{path} is damaged: its arrays cannot be read ({error})") from error
    except OSError as error:
        raise InvalidModelFile(f"cannot read {path}: {error.strerror or error}") from error


def _is_truncated(path: Path) -> bool:
    """Whether the file starts as a safetensors file does and ends before its data do."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(9)
        if len(head) < 9 or head[8:] != b"{":
            return False
        (length,) = struct.unpack("<Q", head[:8])
        if length > 100_000_000:
            return False
        header = b"{" + file.read(length - 1)
    if len(header) < length:
        return True
    try:
        ends = [t["data_offsets"][1] for name, t in json.loads(header).items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return False
    return bool(size < 8 + length + max(ends, default=0))


def _take_apart(model: Model) -> tuple[Tensors, dict[str, Any]]:
    tensors: Tensors = {}
    encoders = [
        _take_encoder_apart(encoder, f"encoders.{number}.", tensors)
        for number, encoder in enumerate(model.encoders)
    ]
    if model.classifier is not None:
        for name, array in model.classifier.arrays().items():
            tensors[f"classifier.{name}"] = array
    specification = {
        "encoders": encoders,
        "classifier": None if model.classifier is None else model.classifier.to_dict(),
        "image_shape": model.image_shape,
        "image_type": model.image_type,
        "class_names": model.class_names,
        "report": model.report,
    }
    return {name: np.ascontiguousarray(array) for name, array in tensors.items()}, specification


def _take_encoder_apart(encoder: ImageEncoder, prefix: str, tensors: Tensors) -> dict[str, Any]:
    """The specification of an encoder; its arrays are added to the tensors."""
    for i, preprocessor in enumerate(encoder.preprocessing):
        for name, array in preprocessor.arrays().items():
            tensors[f"{prefix}preprocessing.{i}.{name}"] = array
    preprocessing = [p.to_dict() for p in encoder.preprocessing]
    if isinstance(encoder, ExactEncoder):
        known = [name for name, array in tensors.items() if array is encoder.points]
        points = known[0] if known else f"{prefix}points"
        tensors[points] = encoder.points
        kernel = encoder.kernel.to_dict()
        return {"kind": "exact", "kernel": kernel, "preprocessing": preprocessing, "points": points}
    assert isinstance(encoder, Encoder)
    for i, layer in enumerate(encoder.network.layers):
        tensors[f"{prefix}layers.{i}.anchors"] = layer.anchors
        tensors[f"{prefix}layers.{i}.projection"] = layer.projection
    return {
        "kind": "network",
        "layers": [layer.spec.to_dict() for layer in encoder.network.layers],
        "preprocessing": preprocessing,
        "symmetries": encoder.symmetries.to_dict(),
    }


def _from_version_1(specification: Mapping[str, Any], tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """What the file would hold if it were of version 2."""
    encoder = {name: specification[name] for name in ("layers", "preprocessing")} | {"symmetries": {}}
    classifier = {"name": "linear"} if specification["classifier"] else None
    return dict(specification) | {"encoders": [encoder], "classifier": classifier}, {
        name if name.startswith("classifier.") else f"encoders.0.{name}": array
        for name, array in tensors.items()
    }


def _from_version_2(specification: Mapping[str, Any]) -> dict[str, Any]:
    """What the file would hold if it had been written today."""
    encoders = [{"kind": "network"} | dict(encoder) for encoder in specification["encoders"]]
    return dict(specification) | {"encoders": encoders}


def _put_together(specification: Mapping[str, Any], tensors: Tensors) -> Model:
    classifier: Classifier | None = None
    if specification["classifier"] is not None:
        classifier = classifier_from_arrays(specification["classifier"], _group(tensors, "classifier."))
    shape, names = specification["image_shape"], specification["class_names"]
    model = Model(
        tuple(
            _encoder(options, tensors, f"encoders.{number}.")
            for number, options in enumerate(specification["encoders"])
        ),
        classifier=classifier,
        image_shape=None if shape is None else tuple(shape),
        image_type=specification["image_type"],
        class_names=None if names is None else tuple(names),
        report=specification["report"],
    )
    if not model.encoders:
        raise ValueError("it has no encoder")
    if classifier is not None and shape is not None and model.n_features != classifier.n_features:
        raise ValueError(
            f"the classifier takes {classifier.n_features} features, the encoders give {model.n_features}"
        )
    return model


def _encoder(options: Mapping[str, Any], tensors: Tensors, prefix: str) -> ImageEncoder:
    preprocessing = tuple(
        preprocessor_from_dict(preprocessor).with_arrays(_group(tensors, f"{prefix}preprocessing.{i}."))
        for i, preprocessor in enumerate(options["preprocessing"])
    )
    if options["kind"] == "exact":
        kernel = ExactKernel.from_dict(options["kernel"])
        return ExactEncoder(kernel, _points(kernel, tensors[options["points"]]), preprocessing)
    if options["kind"] != "network":
        raise ValueError(f"there is no encoder of the kind {options['kind']!r}")
    specs = [LayerSpec.from_dict(layer) for layer in options["layers"]]
    layers = [_layer(spec, tensors, f"{prefix}layers.{i}.") for i, spec in enumerate(specs)]
    return Encoder(CKN.from_layers(layers), preprocessing, Symmetries(**options["symmetries"]))


def _points(kernel: ExactKernel, points: NDArray[Any]) -> NDArray[Any]:
    """The images that an exact kernel compares with, checked."""
    if points.ndim != 4 or len(points) == 0 or points.dtype not in (np.uint8, np.float32):
        raise ValueError(f"the images to compare with are of shape {list(points.shape)}, {points.dtype}")
    if not np.isfinite(points).all():
        raise ValueError("the images to compare with are not finite")
    kernel.check_shape(points.shape[1:])
    return points


def _layer(spec: LayerSpec, tensors: Tensors, prefix: str) -> Layer:
    """A layer with its stored projection: computing it again takes long, and differs in the last digits."""
    anchors, projection = tensors[f"{prefix}anchors"], tensors[f"{prefix}projection"]
    check_anchors(spec, anchors)
    if projection.shape != (spec.filters, spec.filters) or not np.isfinite(projection).all():
        raise ValueError(
            f"the projection of {spec.filters} filters is of shape {list(projection.shape)} or not finite"
        )
    return Layer(spec, anchors, projection)


def _group(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
