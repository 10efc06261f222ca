"""Functions of arrays: NumPy's own, given and returning arrays of the device."""

import types
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _memory
from ._array import call, ndarray, wrap
from ._streams import Stream, get_current_stream

# What NumPy has and CuPy does not.
ABSENT = {
    "memmap", "nditer", "errstate", "seterr", "geterr", "ma", "matrix", "rec", "char", "ctypeslib", "emath",
    "frompyfunc", "fromregex", "einsum_path", "strings", "testing", "typing", "f2py", "test", "polynomial",
}  # fmt: skip
# Truths that CuPy leaves on the device.
_TRUTHS = {"allclose", "array_equal", "array_equiv"}


class Function:
    """A function of NumPy's, or a ufunc with its methods, for arrays of the device."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.__name__ = getattr(function, "__name__", "function")
        self.__doc__ = getattr(function, "__doc__", None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = call(self._function, *args, **kwargs)
        if isinstance(result, np.random.Generator | np.random.RandomState):
            return Namespace(result)
        if self.__name__ in _TRUTHS:
            return wrap(np.array(result))
        return result

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._function, name)
        return Function(attribute) if callable(attribute) else attribute


class Namespace(types.ModuleType):
    """A module of NumPy's (or a generator of random numbers) whose functions take arrays of the device."""

    def __init__(self, target: Any, **own: Any) -> None:
        super().__init__(f"cupy.{getattr(target, '__name__', type(target).__name__)}")
        self.__dict__.update(_target=target, **own)

    def __getattr__(self, name: str) -> Any:
        return of_numpy(self.__dict__["_target"], name)


def of_numpy(target: Any, name: str) -> Any:
    """What a module of NumPy's calls so, for arrays of the device."""
    if name.startswith("__") or name in ABSENT:
        raise AttributeError(f"module 'cupy' has no attribute {name!r}")
    try:
        attribute = getattr(target, name)
    except AttributeError:
        raise AttributeError(f"module 'cupy' has no attribute {name!r}") from None
    if isinstance(attribute, types.ModuleType):
        return Namespace(attribute)
    if isinstance(attribute, type) or not callable(attribute):
        return attribute
    return Function(attribute)


# ---- Arrays from nothing, and from the host --------------------------------------------------------------


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    """An array of NaN, or of whatever has all bits set."""
    return ndarray(shape, dtype, order=order)


def full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C") -> ndarray:
    array = empty(shape, np.asarray(fill_value).dtype if dtype is None else dtype, order)
    array.fill(fill_value)
    return array


def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return full(shape, 0, dtype, order)


def ones(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return full(shape, 1, dtype, order)


def empty_like(
    prototype: ndarray, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None
) -> ndarray:
    if not isinstance(prototype, ndarray):
        raise TypeError(f"Unsupported type {type(prototype)}: an array of the device is wanted")
    order = "F" if order == "F" or (order in "KA" and prototype._host.flags.fnc) else "C"
    return empty(prototype.shape if shape is None else shape, dtype or prototype.dtype, order)


def full_like(prototype: ndarray, fill_value: Any, dtype: Any = None, **options: Any) -> ndarray:
    array = empty_like(prototype, dtype, **options)
    array.fill(fill_value)
    return array


def zeros_like(prototype: ndarray, dtype: Any = None, **options: Any) -> ndarray:
    return full_like(prototype, 0, dtype, **options)


def ones_like(prototype: ndarray, dtype: Any = None, **options: Any) -> ndarray:
    return full_like(prototype, 1, dtype, **options)


def array(
    obj: Any,
    dtype: Any = None,
    copy: Any = True,
    order: str | None = "K",
    subok: bool = False,
    ndmin: int = 0,
    *,
    blocking: bool = False,
) -> ndarray:
    """From an array of the host, of the device, or numbers."""
    numbers = isinstance(obj, np.ndarray | np.generic | bool | int | float | complex)
    if numbers or (isinstance(obj, list | tuple) and not _holds_device(obj)):
        return _from_host(np.asarray(obj), dtype, order, ndmin, blocking)
    if copy is False:
        copy = None if isinstance(obj, ndarray) else True
    return call(np.array, obj, dtype=dtype, copy=copy, order=order, ndmin=ndmin)  # type: ignore[no-any-return]


def _holds_device(items: Any) -> bool:
    return any(isinstance(i, ndarray) or (isinstance(i, list | tuple) and _holds_device(i)) for i in items)


def _from_host(host: NDArray[Any], dtype: Any, order: str | None, ndmin: int, blocking: bool) -> ndarray:
    if ndmin > host.ndim:
        host = host.reshape((1,) * (ndmin - host.ndim) + host.shape)
    wanted = host.dtype if dtype is None else np.dtype(dtype)
    if wanted.kind not in "biufc":
        raise TypeError(f"Unsupported dtype {wanted}")
    column_major = order == "F" or (order not in ("C", None) and host.flags.fnc)
    target = empty(host.shape, wanted, "F" if column_major else "C")
    stream = get_current_stream()
    source = host if _memory.is_pinned(host) else host.copy()
    stream.submit(lambda: np.copyto(target._host, source, casting="unsafe"))
    if blocking:
        stream.synchronize()
    return target


def asarray(
    a: Any, dtype: Any = None, order: str | None = None, *, copy: Any = None, blocking: bool = False
) -> ndarray:
    return array(a, dtype, copy, order or "K", blocking=blocking)


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    return array(a, dtype, None, "C", ndmin=1)


def asfortranarray(a: Any, dtype: Any = None) -> ndarray:
    return array(a, dtype, None, "F")


def asnumpy(
    a: Any, stream: Stream | None = None, order: str = "C", out: Any = None, *, blocking: bool = True
) -> NDArray[Any]:
    if isinstance(a, ndarray):
        return a.get(stream, order, out, blocking)
    if out is not None:
        out[...] = a
        return out  # type: ignore[no-any-return]
    return np.asarray(a, order=order)  # type: ignore[call-overload, no-any-return]


def from_dlpack(array: Any, **options: Any) -> ndarray:
    """An array of the device in the same memory."""
    if isinstance(array, ndarray):
        return wrap(array._host.view())
    if array.__dlpack_device__()[0] not in (2, 3, 13):
        raise BufferError("CuPy takes only arrays of a CUDA device by DLPack")
    return wrap(np.from_dlpack(_OnHost(array)))  # type: ignore[arg-type]


class _OnHost:
    """Somebody else's array of this pretended device, said to be what it is: memory of the host."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __dlpack__(self, **_: Any) -> Any:
        return self._array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


def cholesky(a: ndarray) -> ndarray:
    """As CuPy, which by default tells nobody of a matrix that has no factor: NaN."""
    try:
        return call(np.linalg.cholesky, a)  # type: ignore[no-any-return]
    except np.linalg.LinAlgError:
        return full_like(a, np.nan)


linalg = Namespace(np.linalg, cholesky=cholesky)
