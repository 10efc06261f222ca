"""The specification in a model file: its form, checked as a whole before anything is built of it."""

from collections.abc import Callable, Mapping
from typing import Any

MOST_PARTS = 1000  # encoders, layers, steps of preprocessing: more than anybody computes with
LARGEST = 1 << 24  # rows or columns of an image, and what is counted in pixels
_TYPES = (None, "uint8", "float32")


def check_specification(specification: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless a specification, of today's version, has the form that one has.

    Whether options are in their ranges, and fit the arrays, is for the parts to say that are built of them.
    """
    _check("encoders", specification["encoders"], _is_list_of_objects)
    if not specification["encoders"]:
        raise ValueError("it has no encoder")
    for encoder in specification["encoders"]:
        _check("kind", encoder["kind"], lambda kind: isinstance(kind, str))
        _check("preprocessing", encoder["preprocessing"], _is_list_of_objects)
        for step in encoder["preprocessing"]:
            _check("name", step["name"], lambda name: isinstance(name, str))
        kernel = encoder["kernel"] if encoder["kind"] == "exact" else encoder
        _check("kernel", kernel, lambda found: isinstance(found, dict))
        _check("layers", kernel["layers"], _is_list_of_objects)
        if encoder["kind"] == "network":
            _check("symmetries", encoder["symmetries"], lambda found: isinstance(found, dict))
    classifier = specification["classifier"]
    if classifier is not None:
        _check("classifier", classifier, lambda found: isinstance(found, dict))
        _check("name", classifier["name"], lambda name: isinstance(name, str))
    _check("image_shape", specification["image_shape"], _is_image_shape)
    _check("image_type", specification["image_type"], lambda found: found in _TYPES)
    _check("class_names", specification["class_names"], _are_names)
    _check("report", specification["report"], lambda found: isinstance(found, dict))
    _check_numbers(specification["encoders"])


def _check(name: str, found: Any, is_one: Callable[[Any], bool]) -> None:
    if not is_one(found):
        raise ValueError(f"{name} is {found!r:.80}")


def _is_list_of_objects(found: Any) -> bool:
    objects = isinstance(found, list) and all(isinstance(each, dict) for each in found)
    return objects and len(found) <= MOST_PARTS


def _is_image_shape(found: Any) -> bool:
    counts = isinstance(found, list) and all(type(n) is int and 0 < n <= LARGEST for n in found)
    return found is None or (counts and len(found) == 3)


def _are_names(found: Any) -> bool:
    return found is None or (isinstance(found, list) and all(isinstance(name, str) for name in found))


def _check_numbers(found: Any) -> None:
    """Raise if any whole number in the description of an encoder counts more than there can be."""
    if isinstance(found, dict | list):
        for each in found.values() if isinstance(found, dict) else found:
            _check_numbers(each)
    elif isinstance(found, int) and abs(found) > LARGEST:
        raise ValueError(f"an option is {found!r:.80}")
