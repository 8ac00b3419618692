"""Brings the nodes of called functions into @main, where all passes see them and groups are formed."""

from __future__ import annotations

from nomul.ir.graph import Module
from nomul.ir.structure import inline_call
from nomul.passes.base import Pass, Report
from nomul.passes.group import is_grouped


class InlineCalls(Pass):
    """Replaces every call of @main by its function's nodes, calls inside of those too. The functions then have no
    caller, and dead code removal takes them. A module that is grouped already stays as it is."""

    name = "inline_calls"

    def run(self, module: Module, report: Report) -> None:
        if is_grouped(module):
            return
        while calls := [node for node in module.main.nodes if node.op == "call"]:
            for call in calls:
                report.fire(call.attrs["func"])
                inline_call(module, module.main, call)
