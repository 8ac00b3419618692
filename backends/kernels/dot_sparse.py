"""Products of eight-bit rows or windows and N of M integer weights on x86: the dot products of `dot.py`.

Few rows are shuffled beside the kept weights as these stream from memory (`backends/tir/sparse_tile.py`), and so is any
number of rows where no more than a quarter is kept. For more, a panel is unpacked to bytes with its zeros, once for all
row tiles that follow each other, and multiplied at the speed of dense weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

from nomul.backends.dot_codes import codes_of, encodings_with_codes
from nomul.backends.dot_codes.sparse import SparseShape
from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.kernels import dot as dense
from nomul.backends.kernels import encoded
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir import dot
from nomul.backends.tir.dot_tile import DotTile
from nomul.backends.tir.sparse_tile import SparseTile, slack
from nomul.backends.tir.sparse_weights import SparseWeights, sparse_field_types
from nomul.ir.encodings import Encoding
from nomul.ir.encodings.low_bit import matrix_size
from nomul.ir.graph import Node, Value

FEW = 12  # rows in all that follow the kept weights
_SPARSE = 0.25  # places of a column up to which any number of rows does


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    assert group.anchor is not None
    w = group.anchor.args[2]
    assert w is not None
    encoding: Any = w.type.encoding
    reason = encoded.refusal(group) or _value_refusal(encoding.value)
    return reason or dense.shape_refusal(group.anchor, shape_of(w).dense)


def _value_refusal(value: Encoding | None) -> str | None:
    if value is None or value.name not in encodings_with_codes():
        return "the kept weights have no integer form"
    codes = codes_of(value)
    if isinstance(codes, str):
        return codes
    if codes.palettes:
        return "the kept weights have palettes of their own in every group"
    return "offsets of the kept weights are terms of their own" if codes.ones else None


def shape_of(w: Value) -> SparseShape:
    """Of weights whose kept ones have numbers."""
    encoding: Any = w.type.encoding
    shape = tuple(int(size) for size in w.shape)
    codes, groups = codes_of(encoding.value), encoding.value.group_count(encoding.compact_shape(shape)[1])
    assert not isinstance(codes, str)
    return SparseShape(codes, *matrix_size(shape), groups, encoding.n, encoding.m)


def sparse_product(group: Group, target: Target) -> Built:
    """Dot products of bytes, of kept weights or with zeros between them."""
    anchor = group.anchor
    assert anchor is not None
    w = anchor.args[2]
    assert w is not None
    encoding: Any = w.type.encoding
    position, sparse = group.func.params.index(w), shape_of(w)
    with KernelFrame(group, target, {position: sparse_field_types(encoding.value, sparse)}) as frame:
        made = _Sparse(frame, anchor, sparse)
        made.emit()
    return made.built({position: "nm64"})


class _Sparse(dense.Product):
    most_unpacked = 1

    def __init__(self, frame: KernelFrame, anchor: Node, sparse: SparseShape) -> None:
        self._sparse, self.slack = sparse, slack(sparse)
        self.few = inf if sparse.density <= _SPARSE else FEW
        super().__init__(frame, anchor, sparse.dense)

    def packed_weights(self, w: Value) -> SparseWeights:
        encoding: Any = w.type.encoding
        return SparseWeights(self.frame, w, self._sparse, encoding.value)

    def few_tile(self, counts: Sequence[int]) -> DotTile:
        assert isinstance(self.weights, SparseWeights)
        return SparseTile(self.weights, self.frame.target, self.totals, counts)


for _op in ("nn.quantised_linear", "nn.quantised_conv2d"):
    # tables of 32 entries do without AVX512-VBMI here, since few values have them, and all would get code for it
    kernel(_op, encoding="nm", needs=("ssse3",), uses=dot.USES, accepts=refusal, rank=dense.RANK)(sparse_product)
