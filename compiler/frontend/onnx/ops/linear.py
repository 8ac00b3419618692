"""Products of matrices."""

from __future__ import annotations

from dataclasses import dataclass

from nomul.frontend.common import BAD_NODE
from nomul.frontend.onnx.node import SourceNode
from nomul.frontend.onnx.registry import onnx_op
from nomul.ir.dim import Dim, product
from nomul.ir.graph import Value
from nomul.ir.types import DType


@onnx_op("MatMul")
def matmul(n: SourceNode) -> Value:
    return product_of(n, n.tensor(0), n.tensor(1))


def product_of(n: SourceNode, x: Value, y: Value) -> Value:
    """x @ y as numpy has it: a vector is a row on the left and a column on the right."""
    if x.type.rank == 0 or y.type.rank == 0:
        n.fail(BAD_NODE, f"cannot multiply {x.type} by {y.type}")
    left, right = x.shape, y.shape
    rows = x if len(left) > 1 else n.reshape(x, (1, *left))
    columns = y if len(right) > 1 else n.reshape(y, (*right, 1))
    n.same_size(rows.shape[-1], columns.shape[-2])
    n.broadcast(rows.shape[:-2], columns.shape[:-2])
    result = _matmul(n, rows, columns)
    batch = result.shape[:-2]
    tail = [size for size, kept in ((result.shape[-2], len(left) > 1), (result.shape[-1], len(right) > 1)) if kept]
    return n.reshape(result, (*batch, *tail))


def _matmul(n: SourceNode, x: Value, y: Value) -> Value:
    """Integers are multiplied as f64, which holds their sums exactly."""
    if x.dtype.is_float:
        return n.b.nn.matmul(x, y)
    wide = n.b.nn.matmul(n.cast(x, DType.F64), n.cast(y, DType.F64))
    return n.cast(wide, x.dtype)


@onnx_op("Gemm")
def gemm(n: SourceNode) -> Value:
    """alpha * A B + beta * C, with A and B transposed on demand; a transposed constant B is a linear layer."""
    alpha, beta, trans_b = n.attr("alpha", 1.0), n.attr("beta", 1.0), n.attr("transB", 0)
    x, w = n.tensor(0), n.tensor(1)
    x = n.transpose(x, (1, 0)) if n.attr("transA", 0) else x
    n.same_size(x.shape[1], w.shape[1 if trans_b else 0])
    has_bias = n.has(2) and beta != 0.0
    if trans_b and n.entry(1).is_constant and w.dtype.is_float:
        bias = n.tensor(2) if has_bias and alpha == beta == 1.0 and n.shape(2) == w.shape[:1] else None
        y = n.b.nn.linear(x, w, bias)
        has_bias = has_bias and bias is None
    else:
        y = _matmul(n, x, n.transpose(w, (1, 0)) if trans_b else w)
    y = y if alpha == 1.0 else n.b.ew.mul(y, alpha)
    if not has_bias:
        return y
    n.broadcast(y.shape, n.shape(2))
    bias = n.literal(n.entry(2), 2, ())
    return n.b.ew.add(y, bias if beta == 1.0 else n.b.ew.mul(bias, beta))


@onnx_op("MatMulInteger")
def matmul_integer(n: SourceNode) -> Value:
    """Integers without their zero points, multiplied in a float type that holds every sum exactly."""
    inner = n.shape(0)[-1].value
    dtype = DType.F32 if inner is not None and inner * 255 * 255 < 2**24 else DType.F64
    x, y = (_centred(n, index, dtype) for index in (0, 1))
    return n.cast(product_of(n, x, y), DType.I32)


def _centred(n: SourceNode, index: int, dtype: DType) -> Value:
    x = n.cast(n.tensor(index), dtype)
    if not n.has(index + 2):
        return x
    zero_point = n.cast(n.tensor(index + 2), dtype)
    if index == 0 and zero_point.type.rank == 1 and zero_point.shape[0] != 1:
        zero_point = n.reshape(zero_point, (*zero_point.shape, 1))
    return n.b.ew.sub(x, zero_point)


# -- einsum ----------------------------------------------------------------------------------------------------
@dataclass
class _Term:
    """A tensor and the letter of each of its axes."""

    value: Value
    letters: str

    def size(self, letter: str) -> Dim:
        return self.value.shape[self.letters.index(letter)]


@onnx_op("Einsum")
def einsum(n: SourceNode) -> Value:
    terms, output = _parse(n)
    while len(terms) > 1:
        first, second, *rest = terms
        wanted = set(output).union(*(term.letters for term in rest))
        terms = [_contract(n, _summed(n, first, wanted | set(second.letters)), second, wanted), *rest]
    (term,) = terms
    term = _summed(n, term, set(output))
    return n.transpose(term.value, [term.letters.index(letter) for letter in output])


def _parse(n: SourceNode) -> tuple[list[_Term], str]:
    """Terms and output letters; the axes of an ellipsis get capital letters of their own, counted from the right."""
    left, arrow, output = n.need_attr("equation").replace(" ", "").partition("->")
    subscripts = left.split(",")
    values = n.values()
    if len(subscripts) != len(values):
        n.fail(BAD_NODE, f"the equation has {len(subscripts)} terms for {len(values)} operands")
    used = [letter for letter in "ZYXWVUTSRQPONMLKJIHGFEDCBA" if letter not in left]
    terms, most = [], 0
    for text, value in zip(subscripts, values, strict=True):
        extra = value.type.rank - len(text.replace("...", ""))
        most = max(most, extra if "..." in text else 0)
        letters = text.replace("...", "".join(used[:extra][::-1]))
        if len(letters) != value.type.rank or len(set(letters)) != len(letters):
            n.unsupported(f"term '{text}' does not fit {value.type}, or takes a diagonal")
        terms.append(_Term(value, letters))
    shared = "".join(used[:most][::-1])
    if not arrow:
        plain = left.replace(",", "").replace("...", "")
        output = shared + "".join(sorted(letter for letter in set(plain) if plain.count(letter) == 1))
    return terms, output.replace("...", shared)


def _summed(n: SourceNode, term: _Term, wanted: set[str]) -> _Term:
    """Sum over the axes that nothing else uses."""
    axes = [axis for axis, letter in enumerate(term.letters) if letter not in wanted]
    if not axes:
        return term
    kept = "".join(letter for letter in term.letters if letter in wanted)
    return _Term(n.b.reduce.sum(term.value, axes=axes), kept)


def _contract(n: SourceNode, x: _Term, y: _Term, wanted: set[str]) -> _Term:
    """One matrix product: shared wanted letters are batch axes, shared others are summed."""
    y = _summed(n, y, wanted | set(x.letters))
    shared = [letter for letter in x.letters if letter in y.letters]
    batch = "".join(letter for letter in shared if letter in wanted)
    inner = "".join(letter for letter in shared if letter not in wanted)
    left = "".join(letter for letter in x.letters if letter not in shared)
    right = "".join(letter for letter in y.letters if letter not in shared)
    for letter in inner:
        n.same_size(x.size(letter), y.size(letter))
    rows = _arranged(n, x, batch, left, inner)
    columns = _arranged(n, y, batch, inner, right)
    result = _matmul(n, rows, columns)
    sizes = [*result.shape[: len(batch)], *map(x.size, left), *map(y.size, right)]
    return _Term(n.reshape(result, sizes), batch + left + right)


def _arranged(n: SourceNode, term: _Term, batch: str, rows: str, columns: str) -> Value:
    """[batch..., product of rows, product of columns]."""
    order = [term.letters.index(letter) for letter in batch + rows + columns]
    sizes = [product([term.size(letter) for letter in letters]) for letters in (rows, columns)]
    return n.reshape(n.transpose(term.value, order), [*map(term.size, batch), *sizes])
