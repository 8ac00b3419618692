"""Latent attention as the softmax attention that it is, so that forms may take its place too."""

from __future__ import annotations

from nomul.ir.graph import Module
from nomul.passes.dead_code import erase_dead
from nomul.passes.rule import Rewriter
from nomul.passes.rules.expand.latent import LatentAttention


def show_latent(module: Module) -> None:
    """Write each latent attention of @main as softmax attention of one key head, under the same name."""
    func, rule = module.main, LatentAttention()
    for node in [node for node in func.nodes if node.op in rule.ops]:
        g, name = Rewriter(module, func, node), node.result.name
        new = rule.apply(g, node)
        assert new is not None
        func.replace_all(node.result, new)
        erase_dead(func, [node])
        func.rename(new, name)
        g.finish()
