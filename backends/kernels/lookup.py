"""nn.quantised_linear with planes of few bits, without multiplications: look-ups in tables of sums of activations.

A tile is 64 rows x 128 columns. For its rows a thread makes the tables once, then takes all its columns in runs of
two tiles; inside, groups of K are the outer loop, so that their tables stay in the first-level cache for all columns
of the run. A few rows stream the weights, in runs of whole strips: that is the order in which they are stored.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.kernels import dot as dense
from nomul.backends.kernels import encoded, linear, lookup_cost
from nomul.backends.layouts import lut32
from nomul.backends.layouts.lut32 import TILE, Order
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir import dot
from nomul.backends.tir.body import buffer_at, either, index, let, loop
from nomul.backends.tir.gemm import Rows
from nomul.backends.tir.lookup import FEW, HEIGHT, LookupTile
from nomul.backends.tir.lookup_bytes import USES as BYTE_USES
from nomul.backends.tir.lookup_bytes import ByteTables, ByteTile, fits
from nomul.backends.tir.lookup_groups import GroupSums
from nomul.backends.tir.lookup_indices import USES as INDEX_USES
from nomul.backends.tir.lookup_scales import Scaling, run_of
from nomul.backends.tir.lookup_tables import BiasedRow, Sums, WordTables
from nomul.backends.tir.lookup_word import has_word_tables
from nomul.backends.tir.output import Output, Part, Place
from nomul.backends.tir.row_source import TensorRows
from nomul.backends.tir.scratch import Scratch
from nomul.ir.dim import Dim, ceil_div
from nomul.ir.graph import Node
from nomul.ir.types import DType

Expr = Any
USES = tuple(dict.fromkeys((*dot.USES, *INDEX_USES, *BYTE_USES)))
MOST_ROWS = 64  # of a tile
_TABLES = 5 * 2**20  # bytes of tables that are made at a time, for some rows at least
_LEAST_ROWS = 16
LEAST_COLUMNS = TILE // 2
_THREAD_WORK = 32 * 1024  # bytes of weights worth a thread
_PIECES = 4  # at least, that threads may take: each makes the tables, and reads its part of strips


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    reason = encoded.refusal(group)
    if reason is not None:
        return reason
    assert group.anchor is not None
    w = group.anchor.args[2]
    assert w is not None
    if lut32.columns_of(w.type.encoding) is None:
        return "weights are not planes of trits or bits of their own"
    if int(w.shape[0]) < LEAST_COLUMNS:
        return f"less than {LEAST_COLUMNS} rows of weights"
    if linear.row_view(group.anchor.args[0]) is None:
        return "rows of the operand are not evenly spaced runs of elements"
    return None


def look_up(group: Group, target: Target) -> Built:
    """Five-bit indices into tables of 32 sums."""
    assert group.anchor is not None
    w = group.anchor.args[2]
    assert w is not None and w.type.encoding is not None
    order = lut32.order_of(w.type.encoding, tuple(int(size) for size in w.shape))
    position = group.func.params.index(w)
    with KernelFrame(group, target, {position: ["uint8", "int8"]}) as frame:
        made = _Lookup(frame, group.anchor, order)
        made.emit()
    return Built(
        frame.function,
        tiles=ceil_div(made.source.count, made.rows) * made.column_tiles,
        grain=max(1, min(order.strip, order.tiles // _PIECES), _THREAD_WORK // order.tile_bytes),
        scratch=Dim.of(made.scratch.bytes),
        layouts={position: "lut32"},
        inplace=linear.inplace_operands(group),
    )


class _Lookup:
    """Emits the body of one kernel."""

    def __init__(self, frame: KernelFrame, anchor: Node, order: Order) -> None:
        q, scale, w, bias = (*anchor.args, None)[:4]
        assert q is not None and scale is not None and w is not None
        view = linear.row_view(q)
        assert view is not None
        self.frame, self.order, self.row_scale = frame, order, scale
        self.scratch = Scratch(frame)
        self.source = TensorRows(frame, q, view.stride)
        self.rows = int(min(MOST_ROWS, self.source.count.bounds(frame.group.ranges)[1]))
        self.column_tiles = order.tiles
        levels = int(anchor.attrs["levels"])
        fitting = max(_LEAST_ROWS, _TABLES // WordTables.row_bytes(order) // HEIGHT * HEIGHT)
        self.step = self.rows if fits(frame.target, order, levels) else min(self.rows, fitting)
        self.groups = GroupSums(frame, order, self.step, levels, self.scratch)
        encoding: Any = w.type.encoding
        data, entries = frame.pointers[w]
        scaling = Scaling(frame, order, DType(encoding.scales), data, self.step, self.scratch)
        row = BiasedRow(order, self.scratch, scaling.totals)
        self.few, self.many = self._forms(levels, data, buffer_at("entries", "int32", entries), row)
        self.groups.use(self.few, self.many, scaling, self.scratch)
        self.output = Output(frame, anchor, bias, frame.target.vector_bytes // 4, Dim.of(order.rows), TILE)

    def _forms(
        self, levels: int, data: Expr, entries: Expr, row: BiasedRow
    ) -> tuple[LookupTile, LookupTile | ByteTile | None]:
        """What multiplies few rows, and what multiplies more, where that is another."""
        target, order = self.frame.target, self.order
        sums = Sums(target, order, row, entries)
        has_many, has_bytes = has_word_tables(target) and self.rows > FEW, fits(target, order, levels)
        few_rows = min(self.rows, FEW) if has_many and has_bytes else self.step
        tables = WordTables(target, order, few_rows, self.scratch)
        few = LookupTile(target, order, buffer_at("words", "uint16", data), tables, row, sums)
        if not (has_many and has_bytes):
            return few, few if has_many else None
        pairs, byte_tables = buffer_at("pairs", "int32", data), ByteTables(order, self.step, self.scratch)
        return few, ByteTile(order, pairs, byte_tables, row, sums)

    def emit(self) -> None:
        """All tiles, block of rows by block of rows."""
        tiles, end = self.column_tiles, self.frame.end
        first_block = let("first_block", tirx.truncdiv(self.frame.begin, index(tiles)))
        with loop("row_block", tirx.truncdiv(end + (tiles - 1), index(tiles)) - first_block, first_block) as number:
            start = let("start", number * tiles)
            begin = let("begin", tirx.max(self.frame.begin - start, index(0)))
            left = let("left", tirx.min(end - start, index(tiles)) - begin)
            block = let("block_rows", number * self.rows)
            all_rows = let("rows", tirx.min(index(self.rows), self.frame.size(self.source.count) - block))
            with loop("part", tirx.truncdiv(all_rows + (self.step - 1), index(self.step))) as part:
                first = let("first", block + part * self.step)
                rows = let("rows", tirx.min(index(self.step), all_rows - part * self.step))
                self._prepare(first, rows)
                self._columns(first, rows, begin, left)

    def _columns(self, first: Expr, rows: Expr, begin: Expr, count: Expr) -> None:
        """So many tiles from `begin` on, in runs, each of one strip."""
        run = let("run_tiles", tirx.Select(rows <= FEW, index(self.order.strip), index(self.groups.tiles)))
        first_run, end = let("first_run", tirx.truncdiv(begin, run)), let("end_tile", begin + count)
        with loop("run", tirx.truncdiv(end + (run - 1), run) - first_run, first_run) as number:
            tile = let("tile", tirx.max(begin, number * run))
            self._run(first, rows, tile, let("tiles", tirx.min(number * run + run, end) - tile))

    def _prepare(self, first: Expr, rows: Expr) -> None:
        """Make the tables of a block of rows."""
        q = self.source.fetch(first, rows)
        if self.many is None or self.many is self.few:
            self._fill(self.few, q, rows)
            return
        with either(rows <= FEW) as (few, many):
            with few:
                self._fill(self.few, q, rows)
            with many:
                self._fill(self.many, q, rows)

    @staticmethod
    def _fill(form: LookupTile | ByteTile, q: Rows, rows: Expr) -> None:
        with loop("row", rows) as row:
            form.prepare(q, row)

    def _run(self, first: Expr, rows: Expr, tile: Expr, tiles: Expr) -> None:
        """A few neighbouring tiles of a block of rows."""
        run = run_of(self.order, rows, tile, tiles)
        self.groups.add(run)
        width = self.order.rows

        def place(row: Expr) -> Place:
            flat = let("flat", (first + row) * width)
            return Place(flat, lambda: self.source.lead(first + row))

        with loop("done_tile", tiles) as number:
            column = let("column", (tile + number) * TILE)
            used = let("used", tirx.min(index(TILE), index(width) - column))
            part = Part(rows, place, width, column, used)
            self.output.write_rows(part, self.groups.first(run, number), lambda row: self._row_scale(first + row))

    def _row_scale(self, row: Expr) -> Expr:
        return let("row_scale", self.frame.read_flat(self.row_scale, row))


for _encoding in ("ternary", "bitplane"):
    kernel(
        "nn.quantised_linear",
        encoding=_encoding,
        needs=("ssse3",),
        uses=USES,
        accepts=refusal,
        rank=dense.RANK,
        cost=lookup_cost.cycles,
    )(look_up)
