"""From --config, --layer, --preprocess, --tangent and --flip to exact kernels."""

from typing import Any

from ckncuda.errors import InvalidSpec
from ckncuda.exact import ExactKernel
from ckncuda.images.preprocess import Preprocessor
from ckncuda.layer.dot_product import Exponential
from ckncuda.layer.spec import LayerSpec
from ckncuda.types import Shape

from .network_options import (
    parse_options,
    parse_preprocessing,
    read_preprocessing,
    read_symmetries,
    read_tables,
    read_toml,
)

DEFAULT = tuple(  # for images of 32x32, as exact kernels have been measured on, but centred: see --flip
    LayerSpec(filters=1, patch=3, subsampling=s, kernel=Exponential(sigma=0.6), alignment="centered")
    for s in (2, 5)
)

Preprocessing = tuple[Preprocessor, ...] | None
"""None: as the images suggest."""

_OF_A_KERNEL = {"layers", "preprocessing", "symmetries", "tangent", "flip"}
_OF_A_FILE = _OF_A_KERNEL | {"encoders", "exact", "classifier"}


def read_exact_kernels(
    config: str | None,
    layers: tuple[str, ...],
    preprocess: tuple[str, ...],
    tangent: bool | None,
    flip: bool | None,
    shape: Shape,
) -> list[tuple[ExactKernel, Preprocessing]]:
    """The exact kernels that the options describe, each with the preprocessing of its images.

    Parameters
    ----------
    config : str, optional
        A file as `ckn fit` takes it, in which ``filters`` may be left out, with ``tangent = true`` and
        ``flip = true`` at its top, in a table ``[exact]`` or in one of ``[[encoders]]``, each of which is a
        kernel.  Its classifier is not looked at.
    layers : tuple of str
        Values of --layer, in which ``filters`` may be left out.  Without these and a file it is two
        layers for images of 32x32.
    preprocess : tuple of str
        Values of --preprocess, which take the place of what the file says.
    tangent, flip : bool, optional
        Where given, they take the place of what the file says.
    shape : (height, width, channels)
        Of the images, to which the layers must fit.

    Returns
    -------
    kernels : list of (ExactKernel, preprocessing)
        More than one where the file holds several encoders.  Preprocessing of None is as the images suggest.

    Raises
    ------
    InvalidSpec
        A value is unknown or out of range, or the layers do not fit the images.
    """
    if config and layers:
        raise InvalidSpec("--config and --layer each describe a kernel; give one of them")
    described: list[tuple[dict[str, Any], Preprocessing]]
    if config:
        described = _from_config(config)
    elif layers:
        described = [({"layers": [_parse_layer(text) for text in layers]}, None)]
    else:
        described = [({"layers": DEFAULT}, None)]
    given = {name: value for name, value in (("tangent", tangent), ("flip", flip)) if value is not None}
    kernels = [(ExactKernel(**(options | given)), preprocessing) for options, preprocessing in described]
    for kernel, _ in kernels:
        kernel.check_shape(shape)
    if preprocess:
        return [(kernel, parse_preprocessing(preprocess)) for kernel, _ in kernels]
    return kernels


def _parse_layer(text: str) -> LayerSpec:
    """Read ``patch=3,subsampling=2,kernel=exp,sigma=0.6``."""
    return LayerSpec.from_dict({"filters": 1} | parse_options(text, f"--layer {text}"))


def _from_config(path: str) -> list[tuple[dict[str, Any], Preprocessing]]:
    """What a TOML file says of each kernel; its form is in the README."""
    content = read_toml(path)
    if unknown := sorted(set(content) - _OF_A_FILE):
        raise InvalidSpec(
            f"{path}: there is no {', '.join(unknown)} in the description of an exact kernel; "
            f"there is {', '.join(sorted(_OF_A_FILE))}"
        )
    exact = content.get("exact", {})
    if not isinstance(exact, dict) or set(exact) - {"tangent", "flip"}:
        raise InvalidSpec(f"{path}: exact must be a table of tangent and flip; it is {exact}")
    top: dict[str, Any] = {name: content[name] for name in ("tangent", "flip") if name in content}
    for name in set(top) & set(exact):
        raise InvalidSpec(f"{path}: {name} stands at the top and in [exact]; leave one of them out")
    shared = top | exact
    alone: dict[str, Any] = {
        name: content[name] for name in ("layers", "preprocessing", "symmetries") if name in content
    }
    if "encoders" in content and alone:
        raise InvalidSpec(
            f"{path}: {', '.join(alone)} and encoders both describe kernels; put all of it into [[encoders]]"
        )
    tables = read_tables(content.get("encoders"), path, "encoders")
    return [_kernel(table, shared, path) for table in tables or [alone]]


def _kernel(table: dict[str, Any], shared: dict[str, Any], path: str) -> tuple[dict[str, Any], Preprocessing]:
    """Arguments of `ExactKernel` and the preprocessing, from the tables of one encoder."""
    if unknown := sorted(set(table) - _OF_A_KERNEL):
        raise InvalidSpec(
            f"{path}: an exact kernel has no {', '.join(unknown)}; it has {', '.join(sorted(_OF_A_KERNEL))}"
        )
    layers = read_tables(table.get("layers"), path, "layers")
    if not layers:
        raise InvalidSpec(f"{path} describes no layer: it needs [[layers]] with patch and subsampling")
    symmetries = read_symmetries(table, path)
    if symmetries.get("shift", 0) != 0:
        raise InvalidSpec(
            f"{path}: shift is {symmetries['shift']}; exact kernels are averaged over mirror images alone: "
            "leave shift out"
        )
    own = {name: table[name] for name in ("tangent", "flip") if name in table}
    mirrored = {"flip": symmetries["flip"]} if "flip" in symmetries else {}
    specs = [LayerSpec.from_dict({"filters": 1} | layer) for layer in layers]
    return {"layers": specs} | shared | mirrored | own, read_preprocessing(table, path)
