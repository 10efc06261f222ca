"""Emits arithmetic on whole vectors, for loops whose sums must stay in registers.

No loop in Python's syntax promises to be compiled to that: the few innermost ones are intrinsic functions of
Numba.  Sums are taken in the order written, whatever the length of the processor's vectors.
"""

# llvmlite has no types.
# mypy: disable-error-code="no-untyped-call,no-untyped-def"

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

ADDRESS, COUNT = types.uintp, types.intp  # of arguments; strides and lengths are counted in numbers
FLOAT, INDEX = ir.FloatType(), ir.IntType(64)


def _lanes() -> int:
    """Count the numbers of float32 in a vector register of this processor."""
    try:
        features = llvmlite.binding.get_host_cpu_features()
    except RuntimeError:  # a processor of which LLVM cannot tell
        return 4
    return 16 if features.get("avx512f") else 8 if features.get("avx") else 4


LANES = _lanes()


class Emitter:
    """Emits into the function that ``builder`` is building, with vectors of ``width`` numbers."""

    def __init__(self, builder: ir.IRBuilder, width: int) -> None:
        self.builder, self.width = builder, width
        self.vector = ir.VectorType(FLOAT, width)

    def constant(self, number: float) -> Any:
        """Return the vector that holds a number everywhere."""
        return ir.Constant(self.vector, [number] * self.width)

    def pointer(self, address: Any) -> Any:
        """Return an address as a pointer to numbers."""
        return self.builder.inttoptr(address, FLOAT.as_pointer())

    def at(self, pointer: Any, *factors: Any) -> Any:
        """Return the pointer moved on by a product of whole numbers."""
        offset = INDEX(1)
        for factor in factors:
            offset = self.builder.mul(offset, INDEX(factor) if isinstance(factor, int) else factor)
        return self.builder.gep(pointer, [offset])

    def load(self, pointer: Any) -> Any:
        """Return the vector at a pointer."""
        return self.builder.load(self.builder.bitcast(pointer, self.vector.as_pointer()), align=4)

    def store(self, value: Any, pointer: Any) -> None:
        """Write a vector."""
        self.builder.store(value, self.builder.bitcast(pointer, self.vector.as_pointer()), align=4)

    def spread(self, number: Any) -> Any:
        """Return the vector that holds a number everywhere."""
        undefined = ir.Constant(ir.VectorType(number.type, self.width), ir.Undefined)
        first = self.builder.insert_element(undefined, number, ir.IntType(32)(0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.width), [0] * self.width)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def broadcast(self, pointer: Any) -> Any:
        """Return the vector that holds the number at a pointer everywhere."""
        return self.spread(self.builder.load(pointer))

    def multiply_add(self, x: Any, y: Any, z: Any) -> Any:
        """Compute x · y + z of vectors, rounded once."""
        name = f"llvm.fma.v{self.width}f32"
        function = self.builder.module.globals.get(name) or ir.Function(
            self.builder.module, ir.FunctionType(self.vector, [self.vector] * 3), name
        )
        return self.builder.call(function, [x, y, z])

    def combination(self, coefficients: Sequence[float], values: Sequence[Any]) -> Any:
        """Compute Σ coefficient · value, beginning with a coefficient of 1 where there is one."""
        terms = [(float(a), v) for a, v in zip(coefficients, values, strict=True) if a != 0]
        first = next((i for i, (a, _) in enumerate(terms) if a == 1), None)
        if first is None:
            a, v = terms.pop(0)
            total = self.builder.fmul(self.constant(a), v)
        else:
            total = terms.pop(first)[1]
        for a, v in terms:
            if abs(a) == 1:
                total = self.builder.fadd(total, v) if a > 0 else self.builder.fsub(total, v)
            else:
                total = self.multiply_add(self.constant(a), v, total)
        return total

    def loop(
        self, count: Any, carried: Sequence[Any], body: Callable[[Any, Sequence[Any]], Sequence[Any]]
    ) -> Sequence[Any]:
        """Call body(index, carried) count times, count ≥ 1; what it returns is carried to the next turn."""
        before = self.builder.block
        head, after = self.builder.append_basic_block(), self.builder.append_basic_block()
        self.builder.branch(head)
        self.builder.position_at_end(head)
        index = self.builder.phi(INDEX)
        index.add_incoming(INDEX(0), before)
        phis = [self.builder.phi(value.type) for value in carried]
        for phi, value in zip(phis, carried, strict=True):
            phi.add_incoming(value, before)
        results = body(index, phis)
        following, end = self.builder.add(index, INDEX(1)), self.builder.block
        index.add_incoming(following, end)
        for phi, value in zip(phis, results, strict=True):
            phi.add_incoming(value, end)
        self.builder.cbranch(self.builder.icmp_signed("<", following, count), head, after)
        self.builder.position_at_end(after)
        return results


def emits(*kinds: Any, width: int = LANES, result: Any = types.void) -> Callable[[Callable[..., Any]], Any]:
    """Make an intrinsic function of arguments of these kinds from one that an `Emitter` comes first to.

    Addresses arrive as pointers, everything else as it is.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        def typed(context, *arguments):
            def generate(context, builder, signature, arguments):
                emit = Emitter(builder, width)
                here = (emit.pointer(a) if k == ADDRESS else a for k, a in zip(kinds, arguments, strict=True))
                value = function(emit, *here)
                return context.get_dummy_value() if value is None else value

            return result(*kinds), generate

        typed.__name__ = function.__name__
        typed.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        return intrinsic(typed)

    return decorate
