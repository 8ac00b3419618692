"""Computes tensors made from fixed sizes (index arithmetic, constant masks) at compile time."""

from __future__ import annotations

from nomul.ir.graph import Func, Module, Node
from nomul.ir.interpreter import evaluate_node
from nomul.passes.base import Pass, Report
from nomul.passes.dead_code import attr_dims
from nomul.passes.folding import as_known, fold, worth_folding


class FoldMakers(Pass):
    """Also `make.*` of fixed size. Later than FoldConstants, as rules recognise masks by their index arithmetic."""

    name = "fold_makers"

    def run(self, module: Module, report: Report) -> None:
        for func in module.funcs.values():
            for node in list(func.nodes):
                if _fold_maker(module, func, node) or fold(module, func, node) is not None:
                    report.fire(node.op)


def _fold_maker(module: Module, func: Func, node: Node) -> bool:
    if not node.op.startswith("make.") or any(attr_dims(value) for value in node.attrs.values()):
        return False
    if not worth_folding(node.result.type, 0) or not node.result.users:
        return False
    (array,) = evaluate_node(node, [], {})
    func.replace_all(node.result, as_known(module, array, node.result.name))
    func.erase(node)
    return True
