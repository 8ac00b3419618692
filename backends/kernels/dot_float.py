"""nn.linear and nn.conv2d of floats with packed integer weights on x86: unpacked a vector of rows at a time into an f32
panel, which dense weights' inner kernel multiplies. Tiles are those of `encoded.py`, the bytes those of `dot.py`."""

from __future__ import annotations

from typing import Any

from nomul.backends.dot_codes import codes_of, encodings_with_codes
from nomul.backends.group import Group
from nomul.backends.kernels import encoded
from nomul.backends.kernels.dot import RANK, shape_of
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir import byte_table
from nomul.backends.tir.dot_weights import PackedWeights, field_types
from nomul.backends.tir.float_unpack import UnpackedFloats
from nomul.ir.graph import Value


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    assert group.anchor is not None
    w = group.anchor.args[1]
    reason = encoded.refusal(group)
    if reason is not None:
        return reason
    assert w is not None and w.type.encoding is not None
    codes = codes_of(w.type.encoding)
    return codes if isinstance(codes, str) else None


def vectors_unpacked(group: Group, target: Target) -> Built:
    """Weights in f32 in scratch, unpacked by vectors."""
    assert group.anchor is not None
    w = group.anchor.args[1]
    assert w is not None
    position, encoding = group.func.params.index(w), w.type.encoding
    fields: Any = {position: field_types(encoding, shape_of(w))}  # type: ignore[arg-type]
    return encoded.build(group, target, _Product, fields, {position: "dot64"})


class _Product(encoded.FloatProduct):
    def make_panel(self, w: Value) -> encoded.Floats:
        shape, encoding = shape_of(w), w.type.encoding
        packed = PackedWeights(self.frame, w, shape, encoding)  # type: ignore[arg-type]
        return UnpackedFloats(packed, shape, self.scratch, self.frame.target.vector_bytes // 4)


for _encoding, _has_tables in encodings_with_codes().items():
    _uses = byte_table.USES if _has_tables else ()
    for _op in ("nn.linear", "nn.conv2d"):
        kernel(_op, encoding=_encoding, needs=("ssse3",), uses=_uses, accepts=refusal, rank=RANK)(vectors_unpacked)
