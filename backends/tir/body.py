"""Statements of a TIRx function, written in order: `with loop("k", size) as k: store(...)`.

All functions here write into the current frame of TVM's IRBuilder, as `backends/emit.py` and `mathlib.py` do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tvm import ir, tirx
from tvm.tirx.script import builder as T

INDEX = "int64"
UNBOUNDED = 1 << 40  # the declared extent of buffers behind pointers: their real size is not known to the code


def index(value: Any) -> Any:
    """An int64 expression from an int or an expression."""
    return tirx.IntImm(INDEX, value) if isinstance(value, int) else value


def let(name: str, value: Any) -> Any:
    """A variable with this value, visible in the rest of the block."""
    return T.bind(value, var=tirx.Var(name, str(value.ty.dtype)))


def opaque(begin: Any, value: int | float) -> Any:
    """A literal that LLVM takes for unknown, so that it neither unrolls loops of that extent nor calls memset.

    begin: the kernel's first tile, which is never negative; LLVM does not know that."""
    literal = index if isinstance(value, int) else lambda number: tirx.FloatImm("float32", number)
    return let("opaque", tirx.Select(begin < 0, literal(value + 1), literal(value)))


def store(buffer: Any, place: Any, value: Any) -> None:
    T.buffer_store(buffer, value, [index(place)])


def evaluate(expression: Any) -> None:
    """A call for its effect."""
    T.evaluate(expression)


@contextmanager
def loop(name: str, extent: Any, start: Any = 0) -> Iterator[Any]:
    """`for name in [start, start + extent)`."""
    frame = T.serial(index(start), index(start) + index(extent))
    with frame as variable:
        yield variable


@contextmanager
def when(condition: Any) -> Iterator[None]:
    """The block runs where the condition holds."""
    with T.If(condition), T.Then():
        yield


@contextmanager
def either(condition: Any) -> Iterator[tuple[Any, Any]]:
    """`with either(c) as (then, otherwise): with then: ...; with otherwise: ...`."""
    with T.If(condition):
        yield T.Then(), T.Else()


def local(name: str, dtype: str, size: int) -> Any:
    """A small buffer of the function, to be made outside of loops; accesses at constant places live in registers."""
    buffer = tirx.decl_buffer((index(size),), dtype, name, scope="local")
    T.add_to_parent(tirx.AllocBuffer(buffer))
    return buffer


def pointer(name: str, dtype: str) -> Any:
    """A pointer parameter."""
    return tirx.Var(name, ir.PointerType(ir.PrimType(dtype)))


def buffer_at(name: str, dtype: str, data: Any) -> Any:
    """A buffer of elements behind a pointer that is aligned to one element."""
    buffer = tirx.decl_buffer((index(UNBOUNDED),), dtype, name, data=data)
    T.add_to_parent(tirx.DeclBuffer(buffer, data=data))
    return buffer
