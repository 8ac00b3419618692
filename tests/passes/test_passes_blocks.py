"""Where a function falls into blocks, and runs of two modules side by side."""

from __future__ import annotations

import numpy as np
from pass_graphs import Graph

from nomul.ir.graph import Module, Node, Value
from nomul.ir.interpreter import run
from nomul.passes.blocks import Block, blocks_of
from nomul.passes.side_by_side import Run


def branch(g: Graph, x: Value, name: str, mask: Value | None = None) -> Value:
    """Two layers and a norm behind their sum with the input."""
    hidden = g.b.ew.relu(g.b.nn.linear(x, g.weight(f"{name}.up", 12, 8)))
    hidden = hidden if mask is None else g.b.ew.mul(hidden, mask)
    return g.b.nn.layer_norm(g.b.ew.add(g.b.nn.linear(hidden, g.weight(f"{name}.down", 8, 12)), x))


def linears(module: Module) -> list[Node]:
    return [node for node in module.main.nodes if node.op == "nn.linear"]


def weights(block: Block) -> list[str]:
    return [node.args[1].name for node in block.nodes if node.op == "nn.linear"]  # type: ignore[union-attr]


def two_branches() -> Module:
    g = Graph({"B": (1, 9)})
    x = g.input("x", "B", 8)
    mask = g.b.ew.sigmoid(g.input("m", "B", 1))  # every block reads it
    return g.module(branch(g, branch(g, x, "a", mask), "b", mask))


def test_a_residual_branch_with_its_norm_is_a_block() -> None:
    module = two_branches()
    blocks = blocks_of(module.main, linears(module))
    assert [weights(block) for block in blocks] == [["a.up", "a.down"], ["b.up", "b.down"]]
    assert [block.nodes[-1].op for block in blocks] == ["nn.layer_norm"] * 2
    (first, second) = blocks
    assert set(first.inputs) == {module.main.params[0], module.main.nodes[0].result}
    assert first.outputs == (first.nodes[-1].result,) and first.outputs[0] in second.inputs
    assert second.outputs == tuple(module.main.returns)


def test_layers_that_do_not_learn_make_no_blocks() -> None:
    module = two_branches()
    (block,) = blocks_of(module.main, linears(module)[3:])
    assert weights(block) == ["b.down"]
    assert blocks_of(module.main, []) == []


def test_a_chain_has_a_block_for_each_layer_with_the_work_behind_it() -> None:
    g = Graph({"B": (1, 9)})
    x = g.b.ew.relu(g.b.nn.linear(g.input("x", "B", 8), g.weight("a", 8, 8)))
    x = g.b.reduce.cumsum(g.b.ew.gelu(g.b.nn.linear(x, g.weight("b", 8, 8))), axis=1)
    module = g.module(g.b.nn.linear(x, g.weight("c", 8, 8)))
    ops = [[node.op for node in block.nodes] for block in blocks_of(module.main, linears(module))]
    assert ops == [["nn.linear", "ew.relu"], ["nn.linear", "ew.gelu"], ["nn.linear"]]


def test_a_block_has_all_outputs_that_others_see() -> None:
    g = Graph({"B": (1, 9)})
    x = g.input("x", "B", 8)
    hidden = g.b.nn.linear(x, g.weight("a", 12, 8))
    module = g.module(hidden, g.b.ew.add(g.b.nn.linear(hidden, g.weight("b", 8, 12)), x))
    (block,) = blocks_of(module.main, linears(module))
    assert block.outputs == tuple(module.main.returns) and block.inputs == (x,)


def test_a_run_forgets_what_nobody_reads_and_looks_ahead_without_moving() -> None:
    module = two_branches()
    generator = np.random.default_rng(0)
    batch = [generator.standard_normal(shape).astype(np.float32) for shape in ((5, 8), (5, 1))]
    (expected,) = run(module, *batch)
    whole = Run(module, batch)
    block = blocks_of(module.main, linears(module))[0]
    whole.advance(block.stop)
    held = set(whole.values)
    assert held == {block.outputs[0], module.main.nodes[0].result}  # the mask is read again
    ahead = whole.ahead(len(module.main.nodes))
    assert set(whole.values) == held and whole.at == block.stop
    whole.advance(len(module.main.nodes))
    for values in (ahead, whole.values):
        np.testing.assert_array_equal(values[module.main.returns[0]], expected)
