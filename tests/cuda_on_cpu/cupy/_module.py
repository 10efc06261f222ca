"""Modules of kernels and their launches, with every check that CUDA leaves to the programmer."""

import ctypes
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import _memory
from ._array import ndarray
from ._harness import harness
from ._streams import Stream, get_current_stream, lock
from .cuda import runtime
from .cuda.compiler import CompileException
from .cuda.driver import CUDADriverError

SHARED_DEFAULT = 48 << 10
MODULES_WITH_STACKS = 16  # of up to 1,024 threads, two mappings each: half of what Linux lets a process have
_WITH_STACKS: OrderedDict[int, ctypes.CDLL] = OrderedDict()
_FREE_FOR_ALL = ("v0", "u1")  # void* and unsigned char* point to anything


class KernelFault(AssertionError):
    """A kernel did what has no meaning on a GPU.

    No RuntimeError, lest somebody takes it for CUDA's and goes on.
    """


class _Shape(ctypes.Structure):
    _fields_ = (("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("shared", ctypes.c_uint64))


class RawModule:
    """Kernels from source text, compiled when the first is asked for."""

    def __init__(
        self,
        *,
        code: str,
        options: Sequence[str] = (),
        name_expressions: Sequence[str] = (),
    ) -> None:
        if not isinstance(options, tuple):
            raise TypeError(f"options must be a tuple, not {type(options)}")
        self.code, self.options = code, options
        self._names: list[str] = list(name_expressions)
        self._expressions = frozenset(self._names)
        self._functions: dict[str, RawKernel] = {}
        self._library: ctypes.CDLL | None = None

    def compile(self) -> None:
        """Compile now."""
        with lock:
            if self._library is None:
                self._library = load(self.code, self._names, self.options)

    def get_function(self, name: str) -> "RawKernel":
        """The kernel of this name: one of the `name_expressions`, or declared extern "C"."""
        with lock:
            if name not in self._functions:
                if name not in self._names:
                    self._names.append(name)
                    self._library = None
                self.compile()
                assert self._library is not None
                if name not in self._expressions and not hasattr(self._library, name):
                    raise CUDADriverError(
                        f'CUDA_ERROR_NOT_FOUND: {name} is neither among the name_expressions nor extern "C"'
                    )
                self._functions[name] = RawKernel._of_module(self, name)
            return self._functions[name]


def load(code: str, names: Sequence[str], options: Sequence[str]) -> ctypes.CDLL:
    """Compile a module and bring it into this process."""
    compiler = harness("compiler")
    if "headers" in runtime.lacking():
        raise CompileException('catastrophic error: cannot open source file "cuda_fp16.h"')
    try:
        path: Path = compiler.build(code, names, options)
    except compiler.CompilationFailed as error:
        raise CompileException(str(error)) from error
    library = ctypes.CDLL(str(path))
    library.ckn_signature.restype = ctypes.c_char_p
    launch = ctypes.c_uint, ctypes.POINTER(_Shape), ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    library.ckn_launch.argtypes = launch
    harness("line_coverage").remember(library)
    return library


def _keep_few_stacks(library: ctypes.CDLL) -> None:
    """Let only the modules launched last keep their threads' stacks: a process may not have many."""
    _WITH_STACKS[library._handle] = library
    _WITH_STACKS.move_to_end(library._handle)
    while len(_WITH_STACKS) > MODULES_WITH_STACKS:
        _WITH_STACKS.popitem(last=False)[1].ckn_forget_stacks()


class RawKernel:
    """A kernel that can be launched."""

    def __init__(self, code: str, name: str, options: tuple[str, ...] = (), **_: Any) -> None:
        self._take(RawModule(code=code, options=options), name)

    @classmethod
    def _of_module(cls, module: RawModule, name: str) -> "RawKernel":
        kernel = cls.__new__(cls)
        kernel._take(module, name)
        return kernel

    def _take(self, module: RawModule, name: str) -> None:
        self._module, self.name = module, name
        self._most_shared = SHARED_DEFAULT
        if name not in module._names:
            module._names.append(name)
        module.compile()
        assert module._library is not None
        self._library, self._names = module._library, tuple(module._names)
        self._number = self._names.index(name)
        signature: bytes = self._library.ckn_signature(self._number)
        self.parameters: tuple[str, ...] = tuple(signature.decode().split())

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        """How much shared memory a launch may ask for; more than 48 KiB must be allowed first."""
        return self._most_shared

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        if not 0 <= size <= runtime.shared_most():
            raise CUDADriverError(
                f"CUDA_ERROR_INVALID_VALUE: invalid argument ({size} bytes of shared memory; "
                f"the most is {runtime.shared_most()})"
            )
        self._most_shared = int(size)

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        *,
        shared_mem: int = 0,
        stream: Stream | None = None,
    ) -> None:
        """Put the launch on the stream, or the current one."""
        runtime.Sticky.check(self.name)
        shape = self._shape(grid, block, shared_mem)
        if len(args) != len(self.parameters):
            wanted = f"{len(self.parameters)} arguments ({', '.join(self.parameters)})"
            raise TypeError(f"{self.name} takes {wanted}, not {len(args)}")
        values = [self._argument(i, argument) for i, argument in enumerate(args)]
        where = f"{self.name}, grid {tuple(grid)}, block {tuple(block)}, {shared_mem} bytes of shared memory"
        (stream or get_current_stream()).submit(lambda: self._run(shape, values, where))

    def _shape(self, grid: Any, block: Any, shared: int) -> _Shape:
        sizes = []
        limits = ("grid", grid, (2**31 - 1, 65535, 65535)), ("block", block, (1024, 1024, 64))
        for name, given, most in limits:
            if not isinstance(given, tuple) or not 1 <= len(given) <= 3:
                raise TypeError(f"{name} must be a tuple of one to three numbers, not {given!r}")
            three = (*(int(n) for n in given), 1, 1)[:3]
            if any(n < 1 or n > limit for n, limit in zip(three, most, strict=True)):
                raise CUDADriverError(
                    f"CUDA_ERROR_INVALID_VALUE: invalid argument ({name} {given}; each from 1 to {most})"
                )
            sizes.append(three)
        if np.prod(sizes[1]) > 1024:
            raise CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: invalid argument ({block}: over 1024 threads)")
        if shared < 0 or shared > self._most_shared:
            raise CUDADriverError(
                f"CUDA_ERROR_INVALID_VALUE: invalid argument ({shared} bytes of shared memory; "
                f"max_dynamic_shared_size_bytes of {self.name} is {self._most_shared})"
            )
        return _Shape(*((ctypes.c_uint * 3)(*size) for size in sizes), int(shared))

    def _argument(self, i: int, given: Any) -> Any:
        """An array of the device, or the bytes of a number; of exactly the type that the kernel takes."""
        wanted = self.parameters[i]
        kind, _, letter = wanted.partition(":")
        if kind in ("p", "pc"):
            problem = self._problem_with_array(given, letter)
            if problem is None:
                return given
        elif kind == "struct":
            if isinstance(given, np.void) and given.nbytes == int(letter):
                return given.tobytes()
            problem = f"a numpy.void of {letter} bytes is wanted"
        else:
            if isinstance(given, np.generic) and given.dtype.str[1:] == letter:
                return given.tobytes()
            problem = f"numpy.{np.dtype(letter).name} is wanted"
            if isinstance(given, bool | int | float | complex):
                problem += "; CuPy passes Python's numbers with 64 bits"
        shown = f"{type(given).__module__}.{type(given).__name__}"
        raise TypeError(f"argument {i} of {self.name} (parameter {wanted}) is {shown}: {problem}")

    @staticmethod
    def _problem_with_array(given: Any, letter: str) -> str | None:
        if given is None or isinstance(given, _memory.MemoryPointer):
            return None
        if isinstance(given, np.ndarray):
            return "an array of the host; the kernel runs on the device"
        if not isinstance(given, ndarray):
            return "an array of the device is wanted"
        if letter not in _FREE_FOR_ALL and not letter.startswith("s") and given.dtype.str[1:] != letter:
            return f"its dtype is {given.dtype}, the kernel reads {np.dtype(letter).name}"
        if not given.flags.c_contiguous:
            return f"it is not contiguous (shape {given.shape}, strides {given.strides})"
        return None

    def _run(self, shape: _Shape, values: list[Any], where: str) -> None:
        held = [_bytes_of(value) for value in values]
        pointers = (ctypes.c_void_p * max(1, len(held)))(*(ctypes.addressof(buffer) for buffer in held))
        recording = harness("recording")
        if recording.wanted():
            module, sizes = self._module, (tuple(shape.grid), tuple(shape.block), int(shape.shared))
            recorded = list(map(_recorded, values))
            recording.record(module.code, module.options, self._names, self.name, sizes, recorded)
        error = ctypes.create_string_buffer(2048)
        failed = self._library.ckn_launch(self._number, ctypes.byref(shape), pointers, error, len(error))
        _keep_few_stacks(self._library)
        if failed:
            raise KernelFault(f"{error.value.decode(errors='replace')} (launch of {where})")
        for i, value in enumerate(values):
            if isinstance(value, ndarray) and not _memory.guards_hold(value._host):
                found = f"somebody wrote outside of the array that is argument {i}"
                raise KernelFault(f"{found} (launch of {where})")


def _bytes_of(value: Any) -> ctypes.Array[ctypes.c_char]:
    """The bytes of an argument, which for an array are its address."""
    if isinstance(value, bytes):
        return ctypes.create_string_buffer(value, len(value))
    if isinstance(value, ndarray):
        value = value.data
    address = 0 if value is None else value.ptr
    return ctypes.create_string_buffer(address.to_bytes(8, "little"), 8)


def _recorded(value: Any) -> Any:
    """An argument as the recording takes it: bytes, or memory that launches may write."""
    if isinstance(value, _memory.MemoryPointer):
        return value.mem[value.offset :]
    return value._host if isinstance(value, ndarray) else value
