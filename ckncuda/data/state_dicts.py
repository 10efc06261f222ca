"""State dicts of PyTorch, arrays by name: in memory, or in files of numbers alone, which no pickle is.

PyTorch is not needed: a tensor is what has ``detach``, ``cpu`` and ``numpy``.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.data.numpy_files import read_npz_arrays
from ckncuda.data.source import reading
from ckncuda.errors import InvalidData
from ckncuda.files.foreign import BEGIN, kind_of
from ckncuda.files.regular_file import check_unchanged, open_regular, version_of
from ckncuda.files.tensors import read_container, read_tensors
from ckncuda.given.parameters import file_name, shown
from ckncuda.types import StrPath

State = dict[str, NDArray[np.floating[Any]]]

CheckNames = Callable[[Collection[str]], None]

_EXPECTED = "expected a state dict, such as network.state_dict(), or the name of an .npz or .safetensors file"
_SAFETENSORS = "a safetensors file", "what safetensors.torch.save_file wrote"
_LINES = (
    "import argparse, numpy, torch; torch.serialization.add_safe_globals([argparse.Namespace])",
    "state = torch.load({old!r}, map_location='cpu', weights_only=True)",
    "numpy.savez({new!r}, **{{name: value.detach().float().numpy() for name, value in "
    "state.get('state_dict', state).items()}})",
)


def read_state(state: Mapping[str, Any] | StrPath, check: CheckNames) -> State:
    """Return the arrays of a state dict by name, float32 or float64; ``check`` may refuse their names first.

    Parameters
    ----------
    state : mapping or path-like
        Names to tensors or arrays of floating-point numbers; what holds such a mapping as its ``state_dict``
        does, too.  Or an ``.npz`` or ``.safetensors`` file of them.
    check : function
        Raises where the names are not those of what is read, before any array is.

    Raises
    ------
    InvalidData
        It is neither, holds something else than numbers, or is a pickle.
    InvalidModelFile
        A safetensors file is damaged.
    InvalidSpec
        The path is none.

    Examples
    --------
    >>> read_state({"weight": np.ones(2, np.float16)}, lambda names: None)
    {'weight': array([1., 1.], dtype=float32)}
    """
    if isinstance(state, Mapping):
        inner = state.get("state_dict")
        arrays = dict(inner if isinstance(inner, Mapping) else state)
        if odd := [name for name in arrays if not isinstance(name, str)]:
            raise InvalidData(f"a name in the state is {shown(odd[0])}; {_EXPECTED}")
        check(arrays)
        return {name: _floating(_on_host(array, name), name) for name, array in arrays.items()}
    if hasattr(state, "state_dict"):
        raise InvalidData(f"the state is a {type(state).__name__}: give its state_dict()")
    if not hasattr(state, "__fspath__") and not isinstance(state, str):
        raise InvalidData(f"the state is {shown(state)}; {_EXPECTED}")
    path = file_name(state, '"network.npz"')
    return {name: _floating(array, name) for name, array in _of_file(path, check).items()}


def _of_file(path: str, check: CheckNames) -> dict[str, NDArray[Any]]:
    with reading(path), open_regular(path) as file:
        begin = file.read(BEGIN)
    kind = kind_of(begin)
    if begin.startswith(b"\x80") or (kind or "").startswith("is a file of PyTorch"):
        lines = "; ".join(_LINES).format(old=path, new=str(Path(path).with_suffix(".npz")))
        raise InvalidData(
            f"{path} is a pickle, which may run any program as it is read, so that it is not read "
            f"here; expected an .npz or .safetensors file: make one where PyTorch is, in Python: {lines}"
        )
    if begin.startswith(b"PK") and kind is None:
        return read_npz_arrays(path, check)
    if b'"ckncuda"' in begin and begin[8:9] == b"{":
        raise InvalidData(f"{path} is a model of ckncuda already: read it by ckncuda.load")
    if begin[8:9] == b"{":
        return _of_safetensors(path, check)
    if kind is not None and "numpy.save" not in kind:
        raise InvalidData(f"{path} {kind}")
    raise InvalidData(
        f"{path} is neither an .npz nor a .safetensors file; expected what numpy.savez(path, "
        "**arrays) or safetensors.torch.save_file wrote"
    )


def _of_safetensors(path: str, check: CheckNames) -> dict[str, NDArray[Any]]:
    with reading(path), open_regular(path) as file:
        version = version_of(file)
        container = read_container(file, Path(path), _SAFETENSORS)
        check(container.tensors)
        tensors = read_tensors(file, container.tensors)
        check_unchanged(file, version, path)
        return tensors


def _on_host(value: Any, name: str) -> NDArray[Any]:
    """Return a tensor, or what NumPy takes for an array, in the host's memory."""
    try:
        if not isinstance(value, np.ndarray | type) and hasattr(value, "detach"):
            tensor = value.detach().cpu()
            if str(tensor.dtype).endswith("bfloat16"):  # which NumPy does not have
                tensor = tensor.float()
            value = tensor.numpy()
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, BufferError, AttributeError) as error:
        raise InvalidData(
            f"{name} is {shown(value)}, which is no array in memory ({str(error)[:200]}); "
            "expected a dense tensor, or an array, of floating-point numbers"
        ) from error


def _floating(array: NDArray[Any], name: str) -> NDArray[np.floating[Any]]:
    """Return an array as float32, or as float64 where it holds more."""
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise InvalidData(f"{name} is of type {array.dtype}; expected floating-point numbers")
    return array.astype(np.float64 if array.dtype.kind == "f" and array.dtype.itemsize > 4 else np.float32)
