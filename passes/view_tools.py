"""Builds chains of views anew over other sources."""

from __future__ import annotations

from collections.abc import Sequence

from nomul.ir.builder import Builder
from nomul.ir.graph import Node, Value


def rebuild_views(g: Builder, chain: Sequence[Node], source: Value | None) -> Value:
    """The views of `chain` (nearest first, as `view_chain` gives them) over another source of the same shape."""
    assert source is not None
    for view in reversed(chain):
        source = g.op(view.op, source, **view.attrs)
    return source
