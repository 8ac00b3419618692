"""nn.attention in f32 without the matrix of scores: blocks of keys against 32 queries, the softmax carried along
(Milakov and Gimelshein 2018, Dao et al. 2022).

Queries stand in the vector lanes. The queries of a tile are packed once into a panel Q^T [D, 32]; a block of keys gives
S^T = K Q^T [keys, 32], whose exponentials are the panel of the second product, O^T = V^T P^T [E, 32]. So neither K nor
V is packed or transposed, the softmax sums nothing across lanes, and both products run in nn.linear's inner kernel.
Neighbouring tiles of a head take each block of keys in turns (`attention_tiles.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

from tvm import tirx

from nomul.backends.attention_span import (
    LENGTHS,
    MASK,
    QUANTISED,
    RELATIVE,
    TILES,
    AttentionSpan,
    main_positions,
    optional_operand,
)
from nomul.backends.emit import Epilogue
from nomul.backends.expressions import bind
from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.kernels import heads
from nomul.backends.kernels.attention_ends import QueryPanel, ResultRows
from nomul.backends.kernels.attention_mask import Mask
from nomul.backends.kernels.attention_rules import SPANS, HiddenKeys, RelativeBias
from nomul.backends.kernels.attention_tiles import KEYS, MEMBERS, Neighbours, Tile, Visits
from nomul.backends.kernels.heads import LINE
from nomul.backends.mathlib import exp_nonpositive, tanh
from nomul.backends.octaves import exp2_nonpositive
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import buffer_at, index, let, local, loop, store, when
from nomul.backends.tir.gemm import InnerKernel, Panel, Product, Reduction, Rows, Sink
from nomul.backends.tir.register_tile import PANEL, RegisterTile
from nomul.backends.tir.vectors import lanes_at, load, prefetch, spread, store_vector
from nomul.ir.dim import Dim, ceil_div
from nomul.ir.graph import Node
from nomul.ir.op import Kind
from nomul.ir.types import DType
from nomul.ir.views import View, resolve

_VECTORS = 4  # of queries whose softmax goes on side by side
LOWEST = -3.4028234663852886e38  # where a maximum starts, so that a row that sees nothing gives 0 and no NaN

Expr = Any


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    anchor = group.anchor
    assert anchor is not None
    if anchor.attrs.get("scores") == "bf16":
        return "products are those of bf16"
    return refused_form(group)


def refused_form(group: Group, floats: Collection[DType] = (DType.F32,)) -> str | None:
    """Why a kernel of this kind cannot serve this group, or None. floats: the types of operands that it reads."""
    anchor = group.anchor
    assert anchor is not None
    if len(group.func.returns) != 1 or group.func.returns[0].shape != anchor.result.shape:
        return "the result is not the attention's"
    if optional_operand(anchor, TILES) is not None and anchor.attrs["tile"] % KEYS:
        return f"the tiles of {anchor.attrs['tile']} tokens are not made of blocks of {KEYS}"
    return refused_operands(group, floats)


def refused_operands(group: Group, kinds: Collection[DType] = (DType.F32,)) -> str | None:
    """Why a kernel that reads floats of these kinds cannot read the operands of this group, or None."""
    anchor = group.anchor
    assert anchor is not None
    queries, keys, values = (anchor.args[position] for position in main_positions(anchor))
    optional = [optional_operand(anchor, position) for position in range(MASK, LENGTHS)]
    floats = [values, *optional] if anchor.op == QUANTISED else [queries, keys, values, *optional]
    if any(value is not None and value.dtype not in (*kinds, DType.BOOL) for value in floats):
        return f"operands are not {' or '.join(map(str, kinds))}"
    if any(value is not None and value.shape[3].value is None for value in (queries, keys, values)):
        return "the size of a head is symbolic"
    views = [resolve(value) for value in anchor.args if value is not None]
    if any(view is None for view in views):
        return "an operand is not an affine view"
    if operand_views(anchor)[1].strides[3] != Dim.of(1):
        return "the elements of a key are not neighbours"
    inside = {node for node in group.func.nodes if node.spec.kind is Kind.VIEW}
    if any(user not in inside and user is not anchor for node in inside for user, _ in node.result.users):
        return "the element-wise nodes read a view"
    return None


def operand_views(anchor: Node) -> list[View]:
    """How queries, keys and values are seen; of a group that is not refused."""
    views = [resolve(value) for position in main_positions(anchor) if (value := anchor.args[position]) is not None]
    return [view for view in views if view is not None]


@kernel("nn.attention", accepts=refusal, rank=20)
def flash(group: Group, target: Target) -> Built:
    """Queries in lanes; a tile is 32 queries of one head."""
    return built(group, target, Attention)


def built(group: Group, target: Target, kind: type[Attention]) -> Built:
    """The kernel that a class of this kind emits."""
    anchor = group.anchor
    assert anchor is not None
    batch, queries, heads, _ = anchor.result.shape
    with KernelFrame(group, target) as frame:
        attention = kind(frame, anchor)
        attention.emit()
    return Built(
        frame.function,
        tiles=batch * heads * ceil_div(queries, PANEL),
        scratch=Dim.of(4 * attention.size),
    )


def share_of(total: Expr) -> Expr:
    """1 / total, and 0 where the total is 0: a query that sees nothing."""
    one, zero = (spread(tirx.FloatImm("float32", number), int(total.ty.dtype.lanes)) for number in (1.0, 0.0))
    return bind(tirx.Select(total > zero, one / total, zero))


class Attention:
    """Emits the body of one kernel; how queries are packed and scores computed, `attention_bytes.py` does otherwise.

    skips: whether a tile begins in the middle of a block where the keys before are hidden."""

    skips = True

    def __init__(self, frame: KernelFrame, anchor: Node) -> None:
        self.frame, self.anchor = frame, anchor
        self.q, self.k, self.v = operand_views(anchor)
        shapes = [value.shape for place in main_positions(anchor) if (value := anchor.args[place]) is not None]
        self.queries, self.keys, self.heads = shapes[0][1], shapes[1][1], int(shapes[0][2])
        self.depth, self.width = int(shapes[0][3]), int(shapes[2][3])
        self.shared = self.heads // int(shapes[1][2])  # query heads that read one key head
        self.cap = anchor.attrs["softcap"]
        mask, relative, tiles = (optional_operand(anchor, position) for position in (MASK, RELATIVE, TILES))
        self.in_octaves = relative is None and (mask is None or mask.dtype is DType.BOOL)
        self.unit = math.log2(math.e) if self.in_octaves else 1.0  # of scores; floats that are added stay as they are
        self.scale = anchor.attrs["scale"] / self.cap if self.cap else anchor.attrs["scale"] * self.unit
        self.tile = RegisterTile.of(frame.target, self.queries.value)
        self.lanes = self.tile.lanes
        self.epilogue = Epilogue(frame.group, anchor.result)
        self.work = buffer_at("work", "float32", frame.scratch)
        self.distances = KEYS * PANEL  # behind the scores of a block; then what is each tile's own:
        self.sums = self.depth * PANEL  # O^T behind Q^T, and the state of the softmax
        self.state = self.sums + self.width * PANEL
        self.own = self.state + 3 * PANEL + SPANS  # numbers of a tile
        self.most = min(MEMBERS, int(ceil_div(self.queries, PANEL).bounds(frame.group.ranges)[1]))
        self.mask = None if mask is None else Mask(frame, mask)
        self.hidden = HiddenKeys(frame, AttentionSpan(anchor, frame.size), self.own - SPANS)
        self.visits = Visits(frame, self.hidden, tiles, anchor.attrs["tile"])
        self.relative = None
        if relative is not None:
            self.relative = RelativeBias(frame, relative, frame.size(self.queries), KEYS, self.distances)

    def emit(self) -> None:
        most_keys = int(min(KEYS, self.keys.bounds(self.frame.group.ranges)[1]))
        self.folds = local("folds", "float32", _VECTORS * self.lanes)  # running maxima, then sums, in registers
        self.prepare(most_keys)
        self._by_values = InnerKernel(self.tile, [self.width])
        queries = self.frame.size(self.queries)
        blocks = let("query_blocks", self.frame.size(ceil_div(self.queries, PANEL)))
        with heads.neighbours(self.frame, blocks, self.most) as (number, block, members):
            batch = let("batch", tirx.truncdiv(number, index(self.heads)))
            head = let("head", number - batch * self.heads)
            group = Neighbours(batch, head, block, members, queries, self.distances + KEYS + PANEL, self.own)
            with group.each() as tile:
                self.pack_queries(tile)
                self._fetch_rows(tile)
                self._clear(tile)
                self.hidden.enter(tile)
            self.visits.blocks(group, self._block)
            with group.each() as tile:
                self._finish(tile)

    @property
    def size(self) -> int:
        """Numbers of scratch."""
        return self.distances + KEYS + PANEL + self.most * self.own

    def prepare(self, most_keys: int) -> None:
        """What `score` has in registers. most_keys: of a block."""
        self._by_keys = InnerKernel(self.tile, range(1, most_keys + 1))

    # -- the parts of a tile -----------------------------------------------------------------------------------
    def pack_queries(self, tile: Tile) -> None:
        """Q^T times the scale; lanes without a query repeat the last one."""
        panel = QueryPanel(self.frame, self.q, self.queries, self.depth, self.lanes, self.scale)
        panel.pack(self.work, tile, let("q_base", self._base(self.q, tile.batch, tile.head)))

    def _fetch_rows(self, tile: Tile) -> None:
        """Bring the rows that the tile writes, and those of the next tile's queries, near before they are asked for."""
        base = let("next_base", self._base(self.q, tile.batch, tile.head))
        result = self.frame.results[0]
        with loop("lane", PANEL) as lane:
            row = let("row", tile.first + lane)
            place = self.frame.offset(self.anchor.result.shape, (tile.batch, row, tile.head, index(0)))
            prefetch(self.frame.buffer(result), let("place", place), self.width, 2)
            query = let("query", base + (row + PANEL) * self.frame.size(self.q.strides[1]))
            prefetch(self.frame.buffer(self.q.source), query, self.depth, 2)

    def _clear(self, tile: Tile) -> None:
        """The first block multiplies the sums by 0, so any number will do; zeros would become a call of memset."""
        with loop("place", self.width * PANEL // self.lanes) as place:
            store_vector(self.work, place * self.lanes + tile.at + self.sums, self._constant(LOWEST))
        for column in self._columns():
            store_vector(self.work, tile.at + self.state + column, self._constant(LOWEST))
            store_vector(self.work, tile.at + self.state + PANEL + column, self._constant(0.0))

    def _block(self, tile: Tile, block: Expr) -> None:
        """Keys of the block that begins with key `block`."""
        start = self.hidden.start(tile, block) if self.skips else block
        keys = let("keys", tirx.min(block + KEYS, self.hidden.end(tile)) - start)
        head = tirx.truncdiv(tile.head, index(self.shared)) if self.shared > 1 else tile.head
        k_start, v_start = (
            let("start", self._base(view, tile.batch, head) + start * self.frame.size(view.strides[1]))
            for view in (self.k, self.v)
        )
        self.score(tile, head, start, k_start, keys)
        if self.mask is not None:
            self.mask.apply(self.work, tile, start, keys, self.frame.size(self.queries), self.lanes)
        if self.relative is not None:
            self.relative.apply(self.work, tile, start, keys, self.lanes)
        self.hidden.apply(self.work, tile, start, keys, self.lanes)
        self._softmax(tile, keys)
        self.weigh(tile, k_start, v_start, keys)

    def weigh(self, tile: Tile, k_start: Expr, v_start: Expr, keys: Expr) -> None:
        """O^T grows by the values from `v_start` on, weighed by what the scores have become."""
        rows = Rows(self.frame.buffer(self.v.source), v_start, self.frame.size(self.v.strides[3]))
        over = Reduction(1, ((keys, self.frame.size(self.v.strides[1])),))
        ahead = self.rows_ahead(k_start, v_start)
        self._by_values.block(
            self.width, PANEL, Product(rows, Panel(self.work, index(0)), over, self.grow(tile), ahead)
        )

    def rows_ahead(self, k_start: Expr, v_start: Expr) -> Callable[[Expr, Expr], None]:
        """(first element, key): brings rows of the next block near, whole ones in turn, keys with the first tile that
        takes a block and values with the second: those of one head are too far apart for the machine to see it, and
        what is asked for in haste is dropped."""
        height = self._by_values.cover.full
        parts = -(-self.width // height)  # a row's lines are spread over so many steps
        turns = [
            (let("distance", self.visits.ahead[turn]), *operand)
            for turn, operand in enumerate([(self.k, k_start, self.depth), (self.v, v_start, self.width)])
        ]

        def ahead(row: Expr, key: Expr) -> None:
            for distance, view, start, size in turns:
                count = -(-size // (LINE * parts)) * LINE
                step = tirx.truncdiv(row, index(height)) * KEYS + key
                first = let("first", tirx.truncmod(step, index(parts)) * count)
                with when(tirx.And(distance != 0, first < size)):
                    next_row = let("next_row", tirx.truncdiv(step, index(parts)) + distance)
                    place = start + next_row * self.frame.size(view.strides[1]) + first
                    prefetch(self.frame.buffer(view.source), place, count)

        return ahead

    def grow(self, tile: Tile) -> Sink:
        """O^T = O^T * (how much the maximum's rise shrinks it) + new."""

        def accumulate(row: Expr, column: Expr, sums: Expr) -> None:
            lanes = int(sums.ty.dtype.lanes)
            place = let("place", tile.at + self.sums + row * PANEL + column)
            shrink = load(self.work, tile.at + self.state + 2 * PANEL + column, lanes)
            store_vector(self.work, place, load(self.work, place, lanes) * shrink + sums)

        return accumulate

    def score(self, tile: Tile, head: Expr, start: Expr, place: Expr, keys: Expr) -> None:
        """Scores of `keys` keys from `start` on, whose first element is at `place`."""
        rows = Rows(self.frame.buffer(self.k.source), place, self.frame.size(self.k.strides[1]))
        panel = Panel(self.work, tile.at)
        self._by_keys.block(keys, PANEL, Product(rows, panel, Reduction(self.depth), self._keep_scores))

    def _keep_scores(self, row: Expr, column: Expr, sums: Expr) -> None:
        if self.cap:
            sums = tanh(let("score", sums)) * self._constant_of(self.cap * self.unit, sums)
        store_vector(self.work, row * PANEL + column, sums)

    def _constant_of(self, value: float, like: Expr) -> Expr:
        return spread(tirx.FloatImm("float32", value), int(like.ty.dtype.lanes))

    def _softmax(self, tile: Tile, keys: Expr) -> None:
        """Scores become exponentials, a few vectors of queries at a time, so that all state is in registers."""
        together = min(_VECTORS, PANEL // self.lanes)
        with loop("columns", PANEL // (together * self.lanes)) as group:
            base = let("base", group * (together * self.lanes))
            columns = [let("column", base + part * self.lanes) for part in range(together)]
            self._softmax_of(keys, let("state", tile.at + self.state), columns)

    def _softmax_of(self, keys: Expr, state: Expr, columns: list[Expr]) -> None:
        """state: where its rows stand: maximum, sum, and how much the old sums shrink."""
        for part, column in enumerate(columns):
            store(self.folds, self._part(part), load(self.work, state + column, self.lanes))
        with loop("key", keys) as key:
            for part, column in enumerate(columns):
                score = load(self.work, key * PANEL + column, self.lanes)
                store(self.folds, self._part(part), tirx.max(self._fold(part), score))
        tops = [let("top", self._fold(part)) for part in range(len(columns))]
        for part, column in enumerate(columns):
            fall = let("fall", load(self.work, state + column, self.lanes) - tops[part])
            shrink = let("shrink", self._power(fall))
            store_vector(self.work, state + column, tops[part])
            store_vector(self.work, state + 2 * PANEL + column, shrink)
            store(self.folds, self._part(part), load(self.work, state + PANEL + column, self.lanes) * shrink)
        with loop("key", keys) as key:
            for part, column in enumerate(columns):
                place = let("place", key * PANEL + column)
                power = let("power", self._power(let("below", load(self.work, place, self.lanes) - tops[part])))
                store_vector(self.work, place, power)
                store(self.folds, self._part(part), self._fold(part) + power)
        for part, column in enumerate(columns):
            store_vector(self.work, state + PANEL + column, self._fold(part))

    def _power(self, score: Expr) -> Expr:
        """e^score, whatever its unit, of one that is not above 0."""
        return exp2_nonpositive(score) if self.in_octaves else exp_nonpositive(score)

    def _finish(self, tile: Tile) -> None:
        """O^T / sum, transposed into the result."""
        shares = let("shares", tile.at + (self.state + PANEL))
        for column in self._columns():
            total = let("total", load(self.work, shares + column, self.lanes))
            store_vector(self.work, shares + column, share_of(total))
        rows = ResultRows(self.frame, self.epilogue, self.width, self.lanes)
        rows.write(self.work, tile, let("sums", tile.at + self.sums), shares)

    def _part(self, part: int) -> Expr:
        return lanes_at(part * self.lanes, self.lanes)

    def _fold(self, part: int) -> Expr:
        return tirx.BufferLoad(self.folds, [self._part(part)])

    # -- small things ------------------------------------------------------------------------------------------
    def _columns(self) -> range:
        return range(0, PANEL, self.lanes)

    def _constant(self, value: float) -> Expr:
        return spread(tirx.FloatImm("float32", value), self.lanes)

    def _base(self, view: View, batch: Expr, head: Expr) -> Expr:
        size = self.frame.size
        return size(view.offset) + batch * size(view.strides[0]) + head * size(view.strides[2])
