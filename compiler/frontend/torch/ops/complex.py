"""Complex numbers, as rotary embeddings have them: pairs of elements, cosines and sines, and their products."""

from __future__ import annotations

from typing import Any

from nomul.frontend.torch.complex import Complex, on_complex
from nomul.frontend.torch.lazy import ONE
from nomul.frontend.torch.lowering import Lowering, Operand
from nomul.frontend.torch.registry import aten
from nomul.ir.dim import Dim
from nomul.ir.graph import Value

Number = Complex | complex | Operand


@aten("view_as_complex", "view_as_complex_copy")
def view_as_complex(g: Lowering, x: Value) -> Complex:
    last = x.type.rank - 1
    pair = [g.reshape(g.slice(x, last, Dim.of(at), Dim.of(at + 1)), x.shape[:-1]) for at in (0, 1)]
    return Complex(*pair)


@aten("complex")
def complex_(g: Lowering, real: Value, imag: Value) -> Complex:
    return Complex(real, imag)


@aten("polar")
def polar(g: Lowering, length: Value, angle: Value) -> Complex:
    return Complex(_times(g, length, g.b.ew.cos(angle)), _times(g, length, g.b.ew.sin(angle)))


@on_complex("view_as_real", "view_as_real_copy")
def view_as_real(g: Lowering, x: Complex) -> Value:
    shape = (*g.shape()[:-1], ONE)
    parts = [g.reshape(g.expand(g.tensor(part), shape[:-1]), shape) for part in (x.real, x.imag)]
    return g.b.view.concat(*parts, axis=len(shape) - 1)


@on_complex("real")
def real(g: Lowering, x: Complex) -> Operand:
    return x.real


@on_complex("imag")
def imag(g: Lowering, x: Complex) -> Operand:
    return x.imag


@on_complex("abs")
def length(g: Lowering, x: Complex) -> Value:
    squares = [_times(g, part, part) for part in (x.real, x.imag)]
    return g.b.ew.sqrt(g.b.ew.add(*squares))


@on_complex("conj", "_conj", "_conj_physical", "conj_physical")
def conjugate(g: Lowering, x: Complex) -> Complex:
    return Complex(x.real, g.b.ew.neg(g.tensor(x.imag)))


@on_complex("resolve_conj", "resolve_neg")
def resolved(g: Lowering, x: Complex) -> Complex:
    return x


@on_complex("mul")
def mul(g: Lowering, x: Number, y: Number) -> Complex:
    """(a + bi)(c + di) = ac - bd + (ad + bc)i."""
    if not isinstance(x, Complex | complex):
        x, y = y, x
    assert isinstance(x, Complex | complex)
    if not isinstance(y, Complex | complex):
        return Complex(_times(g, x.real, y), _times(g, x.imag, y))
    real = g.elementwise("ew.sub", [_times(g, x.real, y.real), _times(g, x.imag, y.imag)])
    return Complex(real, g.elementwise("ew.add", [_times(g, x.real, y.imag), _times(g, x.imag, y.real)]))


@on_complex("div")
def div(g: Lowering, x: Number, y: Number) -> Complex:
    if not isinstance(x, Complex) or isinstance(y, Complex | complex):
        raise g.unsupported("division by complex numbers", "multiply by the conjugate, divide by the squared length")
    return Complex(*(g.elementwise("ew.div", [part, y]) for part in (x.real, x.imag)))


@on_complex("add")
def add(g: Lowering, x: Number, y: Number, alpha: Any = 1) -> Complex:
    return _sum(g, "ew.add", x, y, alpha)


@on_complex("sub")
def sub(g: Lowering, x: Number, y: Number, alpha: Any = 1) -> Complex:
    return _sum(g, "ew.sub", x, y, alpha)


def _sum(g: Lowering, op: str, x: Number, y: Number, alpha: Any) -> Complex:
    if not isinstance(x, Complex | complex) or not isinstance(y, Complex | complex):
        raise g.unsupported("sums of real and complex numbers")
    y = y if alpha == 1 else mul(g, y, alpha)
    return Complex(*(g.elementwise(op, pair) for pair in ((x.real, y.real), (x.imag, y.imag))))


def _times(g: Lowering, x: Operand, y: Operand) -> Any:
    return g.elementwise("ew.mul", [x, y])
