"""index.gather: rows named by indices, with the nodes behind. An index is read once a row; rows go by vectors.

Rows of `int8` and `int4` tables are decoded as they are read; other encodings have the generic kernel. Of a table that
is also the weight of a product they are read from the panels of that (`backends/shared_weights.py`)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from nomul.backends.dot_codes import codes_of
from nomul.backends.dot_codes.shape import DotShape
from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.kernels import boxes
from nomul.backends.kernels.affine import Form, NotAffine, flat
from nomul.backends.kernels.terms import Axes, Lookup, Term, Walk
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.encoded_row import ALIGNED, ENCODINGS, alignment, has_vectors
from nomul.backends.tir.panel_row import PanelRows, field_types
from nomul.ir.encodings.low_bit import matrix_size
from nomul.ir.graph import Node, Value
from nomul.ir.shapes import NOTHING, ONE, row_major
from nomul.ir.types import DType


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    return boxes.refusal(group, 1, _boxes)


def panel_refusal(group: Group) -> str | None:
    """Why rows of panels are not served, or None."""
    return boxes.refusal(group, 1, _panel_boxes)


def _boxes(group: Group) -> list[boxes.Box]:
    return [boxes.Box.whole(group, _gathered)]


def _panel_boxes(group: Group) -> list[boxes.Box]:
    return [boxes.Box.whole(group, partial(_gathered, least=ALIGNED))]


def _gathered(walk: Walk, node: Node, axes: Axes, least: int = 1) -> Term:
    """An element of index.gather's result. least: what vectors of an encoded table's rows begin at multiples of."""
    x, indices = node.args
    assert x is not None and indices is not None
    if x.producer is not None:
        raise NotAffine("rows are gathered from a value made inside the group")
    axis = node.attrs["axis"]
    behind = axis + len(indices.shape)
    index = walk.at(indices, axes[axis:behind])
    loops = len(walk.space.sizes)
    row_start = Form(NOTHING, (NOTHING,) * loops)
    place = flat((*axes[:axis], row_start, *axes[behind:]), x.shape, loops)
    table = _encoded(x, axis, place, least) if has_vectors(x.type.encoding) else walk.plain(x)
    return Lookup(table, place, index, x.shape[axis], row_major(x.shape)[axis])


def _encoded(table: Value, axis: int, place: Form, least: int) -> Value:
    """The table itself, if vectors of its rows can be decoded. place: column of an element.  Raises NotAffine."""
    if axis != 0 or table.dtype is not DType.F32:
        raise NotAffine(f"{table} is encoded, and not gathered along its rows as f32")
    _, columns = matrix_size(tuple(int(size) for size in table.shape))
    multiple = alignment(table.type.encoding, columns)
    if isinstance(multiple, str):
        raise NotAffine(f"{table}: {multiple}")
    multiple = max(multiple, least)
    for step in (place.offset, *place.steps):
        if step != ONE and (step % multiple).value != 0:
            raise NotAffine(f"vectors of {table} begin at other columns than multiples of {multiple}")
    return table


def rows(group: Group, target: Target) -> Built:
    """Tiles of about 4096 elements."""
    return boxes.build(group, target, _boxes(group))


def panel_rows(group: Group, target: Target) -> Built:
    """The same of a table in panels of 64 rows."""
    anchor = group.anchor
    assert anchor is not None and anchor.args[0] is not None
    table = anchor.args[0]
    encoding: Any = table.type.encoding
    codes = codes_of(encoding)
    assert not isinstance(codes, str)
    rows, columns = matrix_size(tuple(int(size) for size in table.shape))
    shape = DotShape(codes, rows, columns, encoding.group_count(columns))
    position = group.func.params.index(table)

    def prepare(frame: KernelFrame) -> None:
        frame.row_readers[table] = PanelRows(frame, table, shape)

    built = boxes.build(group, target, _panel_boxes(group), {position: field_types(encoding)}, prepare)
    return replace(built, layouts={position: "dot64"})


for _encoding in (None, "f16", "bf16", *ENCODINGS):
    kernel("index.gather", encoding=_encoding, accepts=refusal, rank=20)(rows)
for _encoding in ENCODINGS:
    kernel("index.gather", encoding=_encoding, accepts=panel_refusal, rank=5)(panel_rows)
