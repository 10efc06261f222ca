"""CuPy's array: an array of NumPy's that no function of NumPy's can see without saying so.

Implicit ways from the host to the device and back raise the errors that CuPy raises.  What is computed
with arrays of the device is NumPy's own computation, at once, after the work of the current stream alone:
work that another stream still has to do has not been done, as on a GPU.
"""

import functools
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _memory
from ._streams import Stream, get_current_stream, lock
from .cuda.runtime import Sticky

# What NumPy's arrays have and CuPy's do not.
_ABSENT = {
    "byteswap", "ctypes", "setflags", "getfield", "setfield", "tofile", "resize", "dump", "dumps",
    "to_device", "tostring", "base",
}  # fmt: skip
_NUMBERS = "biufc"


class Values:
    """Arguments of a call as NumPy takes them, and the way back for its results."""

    def __init__(self) -> None:
        self.owners: dict[int, ndarray] = {}

    def unwrap(self, value: Any) -> Any:
        """The same with arrays of the device as NumPy's; arrays of the host are refused."""
        if isinstance(value, ndarray):
            self.owners[id(value._host)] = value
            return value._host
        if isinstance(value, np.ndarray):
            raise TypeError(f"Unsupported type {type(value)}: an array of the host among those of the device")
        if isinstance(value, tuple | list):
            return type(value)(self.unwrap(item) for item in value)
        if isinstance(value, dict):
            return {key: self.unwrap(item) for key, item in value.items()}
        if isinstance(value, slice):
            return slice(*(self._index(part) for part in (value.start, value.stop, value.step)))
        return value

    @staticmethod
    def _index(part: Any) -> Any:
        return operator.index(part) if isinstance(part, ndarray) else part

    def wrap(self, value: Any) -> Any:
        """Results as CuPy gives them: of a reduction, an array without axes."""
        if isinstance(value, np.ndarray):
            return self.owners[id(value)] if id(value) in self.owners else wrap(value)
        if isinstance(value, np.generic):
            return wrap(np.array(value))
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self.wrap, value))
        if isinstance(value, tuple | list):
            return type(value)(map(self.wrap, value))
        return value


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function of NumPy's with arrays of the device, in the current stream."""
    values = Values()
    raw, named = values.unwrap(args), values.unwrap(kwargs)
    with lock:
        Sticky.check()
        get_current_stream().synchronize()
        try:
            return values.wrap(function(*raw, **named))
        except _memory.OutOfMemoryError:
            raise
        except MemoryError as error:
            raise _memory.OutOfMemoryError(0, _memory.used(), _memory.capacity()) from error


def wrap(host: NDArray[Any]) -> "ndarray":
    """An array of the device that takes over this one."""
    if host.dtype.kind not in _NUMBERS:
        raise TypeError(f"Unsupported dtype {host.dtype}")
    _memory.adopt(host)
    array: ndarray = object.__new__(ndarray)
    array._host = host
    return array


class ndarray:  # noqa: N801 (CuPy's name)
    """See the module."""

    __slots__ = ("__weakref__", "_host")
    _host: NDArray[Any]

    def __new__(cls, shape: Any, dtype: Any = float, *, order: str = "C") -> "ndarray":
        dtype = np.dtype(dtype)
        shape = tuple(map(operator.index, shape)) if np.iterable(shape) else (operator.index(shape),)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return wrap(_memory.allocate(size).view(dtype).reshape(shape, order="F" if order == "F" else "C"))

    # ---- what it is ----

    dtype = property(lambda self: self._host.dtype)
    shape = property(lambda self: self._host.shape)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: self._host.flags)
    T = property(lambda self: call(np.transpose, self))
    real = property(lambda self: call(np.real, self))
    imag = property(lambda self: call(np.imag, self))

    @property
    def data(self) -> _memory.MemoryPointer:
        root = _memory.root_of(self._host)
        flat = (root if root.flags.c_contiguous else root.T).reshape(-1).view(np.uint8)
        return _memory.MemoryPointer(flat, self._host.ctypes.data - root.ctypes.data)

    @property
    def device(self) -> Any:
        from .cuda import Device

        return Device(0)

    # ---- from and to the host ----

    def get(
        self,
        stream: Stream | None = None,
        order: str = "C",
        out: NDArray[Any] | None = None,
        blocking: bool = True,
    ) -> NDArray[Any]:
        """A copy on the host, for which nobody waits if not `blocking` and `out` is pinned memory."""
        stream = stream or get_current_stream()
        fresh = out is None
        if out is None:
            out = np.empty(self.shape, self.dtype, order="F" if order == "F" else "C")
            out.reshape(-1, order="A").view(np.uint8)[...] = _memory.POISON
        else:
            self._check_host(out, "out")
        source, target = self._host, out
        stream.submit(lambda: np.copyto(target, source))
        if blocking or not (fresh or _memory.is_pinned(out)):
            stream.synchronize()
        return out

    def set(self, arr: NDArray[Any], stream: Stream | None = None) -> None:
        """Copy an array of the host here; pinned memory is read when the stream comes to it, not before."""
        self._check_host(arr, "arr")
        if not (self._host.flags.c_contiguous or self._host.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        source, target = (arr if _memory.is_pinned(arr) else arr.copy()), self._host
        (stream or get_current_stream()).submit(lambda: np.copyto(target, source))

    def _check_host(self, array: NDArray[Any], name: str) -> None:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"Only numpy.ndarray can be copied from or to cupy.ndarray, not {type(array)}")
        if array.dtype != self.dtype:
            raise TypeError(f"{name} has dtype {array.dtype}, the array of the device {self.dtype}")
        if array.shape != self.shape:
            raise ValueError(f"{name} has shape {array.shape}, the array of the device {self.shape}")
        if name == "out" and not (array.flags.c_contiguous or array.flags.f_contiguous):
            raise RuntimeError("out must be contiguous")

    def item(self, *args: Any) -> Any:
        return self.get().item(*args)

    def tolist(self) -> Any:
        return self.get().tolist()

    def tobytes(self, order: str = "C") -> bytes:
        return self.get().tobytes(order)  # type: ignore[arg-type]

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __dlpack__(self, **options: Any) -> Any:
        get_current_stream().synchronize()
        return self._host.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0  # CUDA

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __index__(self) -> int:
        return operator.index(self.get())

    def __bool__(self) -> bool:
        return bool(self.get())

    def __format__(self, specification: str) -> str:
        return format(self.get() if self.ndim else self.item(), specification)

    def __repr__(self) -> str:
        return repr(self.get())

    def __str__(self) -> str:
        return str(self.get())

    def __reduce__(self) -> Any:
        from . import asarray

        return asarray, (self.get(),)

    # ---- as NumPy's ----

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator["ndarray"]:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> "ndarray":
        return call(operator.getitem, self, index)  # type: ignore[no-any-return]

    def __setitem__(self, index: Any, value: Any) -> None:
        call(operator.setitem, self, index, value)

    def __contains__(self, value: Any) -> bool:
        return bool((self == value).any())

    def __copy__(self) -> "ndarray":
        return call(np.copy, self)  # type: ignore[no-any-return]

    def __deepcopy__(self, _: Any) -> "ndarray":
        return call(np.copy, self)  # type: ignore[no-any-return]

    __hash__ = None  # type: ignore[assignment]

    def fill(self, value: Any) -> None:
        call(np.ndarray.fill, self, value)

    def __getattr__(self, name: str) -> Any:
        method = None if name.startswith("_") or name in _ABSENT else getattr(np.ndarray, name, None)
        if not callable(method):
            raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")
        return lambda *args, **kwargs: call(method, self, *args, **kwargs)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return call(getattr(ufunc, method), *inputs, **kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Call this package's function of that name: its `asarray` takes arrays of the host."""
        module = functools.reduce(getattr, function.__module__.split(".")[1:], sys.modules[__package__])
        return getattr(module, function.__name__)(*args, **kwargs)


def _operator(function: Callable[..., Any], reflected: bool) -> Callable[..., Any]:
    def apply(self: ndarray, *others: Any) -> Any:
        return call(function, *others, self) if reflected else call(function, self, *others)

    return apply


_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
for _name in (*_ARITHMETIC, "and", "or", "xor", "lshift", "rshift"):
    _function = getattr(operator, f"__{_name}__")
    setattr(ndarray, f"__{_name}__", _operator(_function, False))
    setattr(ndarray, f"__r{_name}__", _operator(_function, True))
    setattr(ndarray, f"__i{_name}__", _operator(getattr(operator, f"__i{_name}__"), False))
for _name in ("lt", "le", "eq", "ne", "gt", "ge", "neg", "pos", "abs", "invert"):
    setattr(ndarray, f"__{_name}__", _operator(getattr(operator, f"__{_name}__"), False))
