"""Computes at compile time what depends on weights, literals and fixed sizes only."""

from __future__ import annotations

from nomul.ir.graph import Module
from nomul.passes.base import Pass, Report
from nomul.passes.folding import fold


class FoldConstants(Pass):
    """Runs nodes with known operands through the interpreter, up to the sizes in `nomul.passes.folding`."""

    name = "fold_constants"

    def run(self, module: Module, report: Report) -> None:
        for func in module.funcs.values():
            for node in list(func.nodes):
                if fold(module, func, node) is not None:
                    report.fire(node.op)
