"""nn.attention_merge: the parts of one query of one head added up; a tile is one of these."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nomul.backends.emit import Epilogue
from nomul.backends.expressions import bind, fma
from nomul.backends.frame import KernelFrame, split_index
from nomul.backends.group import Group
from nomul.backends.kernels.attention import LOWEST, share_of
from nomul.backends.mathlib import exp_nonpositive
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import buffer_at, index, let, local, loop, store
from nomul.backends.tir.vectors import lanes_at, spread, zeros
from nomul.ir.dim import product
from nomul.ir.ops.attention_parts import STATE

Expr = Any


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    anchor = group.anchor
    assert anchor is not None and anchor.args[0] is not None
    if anchor.args[0] not in group.func.params:
        return "parts are seen through a view"
    if len(group.func.returns) != 1 or group.func.returns[0].shape != anchor.result.shape:
        return "the result is not the attention's"
    return "the size of a head is symbolic" if anchor.result.shape[3].value is None else None


@kernel("nn.attention_merge", accepts=refusal, rank=20)
def merge(group: Group, target: Target) -> Built:
    """Shares of the parts in scratch, then sums of a vector of elements at a time."""
    anchor = group.anchor
    assert anchor is not None and anchor.args[0] is not None
    parts, lead = anchor.args[0].shape[1], anchor.result.shape[:3]
    with KernelFrame(group, target) as frame, loop("tile", frame.end - frame.begin, frame.begin) as tile:
        _merge(frame, split_index(tile, [frame.size(size) for size in lead]))
    return Built(frame.function, tiles=product(lead), scratch=parts * 4)


def _merge(frame: KernelFrame, lead: list[Expr]) -> None:
    anchor = frame.group.anchor
    assert anchor is not None and anchor.args[0] is not None
    value, width, lanes = anchor.args[0], int(anchor.result.shape[3]), frame.target.vector_bytes // 4
    shares, state, sums = (
        buffer_at("shares", "float32", frame.scratch),
        local("state", "float32", STATE),
        local("sums", "float32", lanes),
    )
    epilogue, parts = Epilogue(frame.group, anchor.result), frame.size(value.shape[1])

    def of(part: Expr, place: Expr) -> Expr:
        return frame.read(value, (lead[0], part, lead[1], lead[2], place))

    store(state, 0, tirx.FloatImm("float32", LOWEST))
    store(state, 1, tirx.FloatImm("float32", 0.0))
    with loop("part", parts) as part:
        store(state, 0, tirx.max(state[0], of(part, index(width))))
    top = bind(state[0])
    with loop("part", parts) as part:
        share = bind(exp_nonpositive(bind(of(part, index(width)) - top)))
        store(shares, part, share)
        store(state, 1, fma(of(part, index(width + 1)), share, state[1]))
    factor = share_of(bind(state[1]))
    whole = width // lanes * lanes
    for span, count in ((range(0, whole, lanes), lanes), (range(whole, width), 1)):
        with loop("piece", len(span)) as piece:
            e = let("e", piece * count + span.start)
            store(sums, lanes_at(0, count), zeros(count))
            with loop("part", parts) as part:
                sum = tirx.BufferLoad(sums, [lanes_at(0, count)])
                store(sums, lanes_at(0, count), fma(of(part, lanes_at(e, count)), spread(shares[part], count), sum))
            place = (*lead, lanes_at(e, count))
            result = bind(tirx.BufferLoad(sums, [lanes_at(0, count)]) * spread(factor, count))
            frame.write(0, place, epilogue.apply(result, place, frame.read))
