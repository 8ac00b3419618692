"""Slices of one tensor that are all transposed alike: one transpose of the whole, then slices."""

from __future__ import annotations

from nomul.ir.graph import Node, Value
from nomul.passes.graph_tools import produced_by
from nomul.passes.rule import NodeRule, Rewriter


class SlicesBehindTranspose(NodeRule):
    """transpose(x[a:b]), transpose(x[b:c]), ... -> slices of transpose(x), where nothing else reads x.

    So a windowed attention over merged queries, keys and values moves its tokens once."""

    ops = ("view.transpose",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        cut = produced_by(node.args[0], "view.slice")
        whole = cut.args[0] if cut is not None else None
        if cut is None or whole is None or len(whole.users) < 2:
            return None
        perm = node.attrs["perm"]
        if not all(_is_cut_then_turned(user, perm) for user, _ in whole.users):
            return None
        turned = g.view.transpose(whole, perm=perm)
        return g.view.slice(turned, **(cut.attrs | {"axis": perm.index(cut.attrs["axis"])}))


def _is_cut_then_turned(node: Node, perm: tuple[int, ...]) -> bool:
    """A slice whose only user is this transpose; or the transpose itself that an earlier application made."""
    if node.op == "view.transpose":
        return bool(node.attrs["perm"] == perm)
    users = node.result.users if node.op == "view.slice" else []
    return len(users) == 1 and users[0][0].op == "view.transpose" and users[0][0].attrs["perm"] == perm
