"""Which nodes share a kernel, and the arena that holds what passes between kernels."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from pass_graphs import Graph, Outcome, apply, built

from nomul.ir.dim import Dim
from nomul.ir.graph import Module, Node, Value
from nomul.ir.op import get_op
from nomul.ir.verifier import verify
from nomul.passes.base import Report
from nomul.passes.group import Group
from nomul.passes.plan_memory import PlanMemory

B, S = Dim.of("B"), Dim.of("S")


def grouped(make) -> Outcome:  # type: ignore[no-untyped-def]
    return apply(built(make), "group")


def bodies(out: Outcome) -> list[str]:
    """For each node of @main the ops in its kernel; reshapes of whole tensors stand alone."""
    texts = []
    for node in out.module.main.nodes:
        inner = out.module.funcs[node.attrs["func"]].nodes if node.op == "call" else [node]
        texts.append(" ".join(n.op.split(".")[1] for n in inner))
    return texts


def test_every_node_of_main_is_a_call_or_a_reshape() -> None:
    def make(g: Graph) -> Value:
        x = g.b.view.reshape(g.input("x", "S", 8), shape=(S, 2, 4))
        return g.b.view.reshape(g.b.ew.exp(g.b.view.transpose(x, perm=(1, 0, 2))), shape=(S * 8,))

    out = grouped(make)
    assert out.ops == ["view.reshape", "call", "view.reshape"]
    assert bodies(out)[1] == "transpose exp"


def test_bias_activation_and_residual_are_an_epilogue() -> None:
    def make(g: Graph) -> Value:
        x = g.input("x", "S", 8)
        y = g.b.nn.linear(x, g.weight("w", 8, 8), g.weight("b", 8))
        return g.b.ew.add(g.b.ew.gelu(y), x)

    out = grouped(make)
    assert bodies(out) == ["linear gelu add"]
    assert [str(arg) for arg in out.module.main.nodes[0].args] == ["%x", "@w", "@b"]


def test_a_diamond_behind_an_anchor_closes() -> None:
    def make(g: Graph) -> Value:
        y = g.b.nn.linear(g.input("x", "S", 8), g.weight("w", 8, 8))
        return g.b.ew.mul(y, g.b.ew.sigmoid(g.b.ew.mul(y, 1.702)))

    assert bodies(grouped(make)) == ["linear mul sigmoid mul"]


def test_a_result_with_two_heavy_users_ends_the_epilogue() -> None:
    def make(g: Graph) -> tuple[Value, ...]:
        y = g.b.ew.relu(g.b.nn.linear(g.input("x", "S", 8), g.weight("w", 8, 8)))
        return g.b.nn.softmax(y, axis=1), g.b.nn.layer_norm(y)

    assert bodies(grouped(make)) == ["linear relu", "softmax", "layer_norm"]


def test_the_end_of_an_epilogue_has_a_reason() -> None:
    def make(g: Graph) -> Value:
        y = g.b.nn.linear(g.input("x", "S", 8), g.weight("w", 8, 8))
        return g.b.nn.matmul(g.b.nn.softmax(y, axis=1), g.b.view.transpose(g.b.ew.exp(y), perm=(1, 0)))

    assert bodies(grouped(make)) == ["linear", "softmax", "exp", "transpose matmul"]
    assert first_reasons(make) == ["nn.softmax uses %linear too"]


def first_reasons(make) -> list[str]:  # type: ignore[no-untyped-def]
    report = Report()
    Group().run(built(make), report)
    return [miss.reason for misses in report.misses.values() for miss in misses]


def test_a_returned_value_ends_the_epilogue() -> None:
    def make(g: Graph) -> tuple[Value, ...]:
        y = g.b.nn.linear(g.input("x", "S", 8), g.weight("w", 8, 8))
        return y, g.b.ew.exp(y)

    assert bodies(grouped(make)) == ["linear", "exp"]


def test_an_operand_that_enlarges_the_result_ends_the_epilogue() -> None:
    def make(g: Graph) -> Value:
        y = g.b.nn.linear(g.input("x", 1, 8), g.weight("w", 8, 8))
        return g.b.ew.add(y, g.input("y", "S", 8))

    assert bodies(grouped(make)) == ["linear", "add"]


def test_gate_and_up_share_one_epilogue() -> None:
    def make(g: Graph) -> Value:
        x = g.input("x", "S", 8)
        gate, up = g.b.nn.linear(x, g.weight("gate", 8, 8)), g.b.nn.linear(x, g.weight("up", 8, 8))
        return g.b.ew.mul(g.b.ew.silu(gate), up)

    out = grouped(make)
    assert sorted(bodies(out)) == ["linear", "linear silu mul"]
    assert bodies(out)[-1] == "linear silu mul"


def test_attention_reads_views_of_merged_projections() -> None:
    def make(g: Graph) -> Value:
        x = g.input("x", "B", "S", 24)
        parts = [g.b.view.slice(x, axis=2, start=8 * i, stop=8 * i + 8) for i in range(3)]
        q, k, v = (g.b.view.reshape(part, shape=(B, S, 2, 4)) for part in parts)
        return g.b.nn.attention(q, k, v, scale=0.5)

    out = grouped(make)
    assert len(out.ops) == 1
    assert bodies(out)[0].endswith("attention")


def test_keys_whose_elements_are_apart_are_copied_first() -> None:
    def make(g: Graph) -> Value:
        q, v = g.input("q", "B", "S", 2, 4), g.input("v", "B", "S", 2, 4)
        k = g.b.view.transpose(g.input("k", "B", "S", 4, 2), perm=(0, 1, 3, 2))
        return g.b.nn.attention(q, k, v, scale=0.5)

    assert bodies(grouped(make)) == ["transpose", "attention"]


def test_a_reshape_that_is_not_affine_splits_the_chain() -> None:
    def make(g: Graph) -> Value:
        q = g.b.view.transpose(g.input("q", "S", "B", 8), perm=(1, 0, 2))
        q = g.b.view.reshape(q, shape=(Dim.of(1), B * S, 2, 4))
        k, v = g.input("k", 1, "S", 2, 4), g.input("v", 1, "S", 2, 4)
        return g.b.nn.attention(q, k, v, scale=0.5)

    assert bodies(grouped(make)) == ["transpose", "reshape", "attention"]


def test_a_view_with_two_users_is_copied_into_both() -> None:
    def make(g: Graph) -> tuple[Value, ...]:
        half = g.b.view.slice(g.input("x", "S", 8), axis=1, stop=4)
        return g.b.ew.exp(half), g.b.ew.neg(half)

    assert bodies(grouped(make)) == ["slice exp", "slice neg"]


def test_a_slice_of_merged_windows_reads_a_copy() -> None:
    """Swin rolls its image back behind the windows: rows of merged axes cannot be found by strides."""

    def make(g: Graph) -> Value:
        windows = g.b.view.transpose(g.input("x", "B", 2, 2, 3, 3, 4), perm=(0, 1, 3, 2, 4, 5))
        image = g.b.view.reshape(windows, shape=(B, 6, 6, 4))
        first, last = g.b.view.slice(image, axis=1, stop=2), g.b.view.slice(image, axis=1, start=2, stop=6)
        return g.b.view.concat(last, first, axis=1)

    assert bodies(grouped(make)) == ["transpose", "reshape", "slice slice concat"]


def test_a_costly_small_operand_is_computed_once_and_a_cheap_one_where_it_is_read() -> None:
    def make(op: str):  # type: ignore[no-untyped-def]
        def graph(g: Graph) -> Value:
            small = g.b.op(op, g.input("m", "B", 1))
            return g.b.ew.add(g.input("x", "B", "S"), small)

        return graph

    assert bodies(grouped(make("ew.exp"))) == ["exp", "add"]
    assert bodies(grouped(make("ew.neg"))) == ["neg add"]


def test_elementwise_trees_have_one_result() -> None:
    def make(g: Graph) -> tuple[Value, ...]:
        x = g.input("x", "S", 8)
        shared = g.b.ew.exp(x)
        return g.b.ew.add(shared, 1.0), g.b.ew.mul(shared, g.b.ew.abs(x))

    assert sorted(bodies(grouped(make))) == ["abs mul", "add", "exp"]


def test_a_reduction_takes_the_arithmetic_before_it() -> None:
    def make(g: Graph) -> Value:
        x, m = g.input("x", "B", "S", 4), g.input("m", "B", "S", 1)
        total = g.b.reduce.sum(g.b.ew.mul(x, m), axes=(1,))
        return g.b.ew.div(total, g.input("n", "B", 1))

    assert bodies(grouped(make)) == ["mul sum div"]


def test_an_epilogue_computes_its_side_operands() -> None:
    def make(g: Graph) -> Value:
        y = g.b.nn.linear(g.input("x", "S", 8), g.weight("w", 8, 8))
        return g.b.ew.add(y, g.b.ew.mul(g.input("a", "S", 8), g.input("b", "S", 8)))

    assert bodies(grouped(make)) == ["linear mul add"] or bodies(grouped(make)) == ["mul linear add"]


def test_grouping_twice_changes_nothing() -> None:
    out = grouped(lambda g: g.b.ew.exp(g.input("x", "S")))
    assert apply(out.module, "group").ops == out.ops


def test_groups_are_named_after_op_and_layer() -> None:
    out = grouped(lambda g: g.b.ew.relu(g.b.nn.linear(g.input("x", "S", 8), g.weight("w", 8, 8))))
    assert out.module.main.nodes[0].attrs["func"] == "linear.layer.0"


# -- arena ---------------------------------------------------------------------------------------------------------
def executable(module: Module, inplace: Sequence[int] = ()) -> Module:
    """Level "exec" with every kernel able to work in place on the given operands, as the backends would make it."""
    module, func = module.clone(), module.clone().main
    func = module.main
    for node in list(func.nodes):
        if node.op == "view.reshape":
            twin = Node(get_op("exec.view"), node.args, get_op("exec.view").complete({}), [node.result.type], ["v"])
        else:
            positions = tuple(p for p in inplace if p < len(node.args))
            attrs = get_op("exec.run").complete({"func": node.attrs["func"], "kernel": "k", "inplace": positions})
            twin = Node(get_op("exec.run"), node.args, attrs, [r.type for r in node.results], ["r"] * len(node.results))
        func.insert(twin, node)
        for old, new in zip(node.results, twin.results, strict=True):
            func.replace_all(old, new)
        func.erase(node)
    module.level = "exec"
    verify(module)
    return module


def slots(make, inplace: Sequence[int] = ()) -> list[int]:  # type: ignore[no-untyped-def]
    module = executable(grouped(make).module, inplace)
    PlanMemory().run(module, Report())
    verify(module)
    return [slot for node in module.main.nodes if node.op == "exec.run" for slot in node.attrs["slots"]]


def chain(g: Graph, length: int = 4) -> Value:
    x = g.input("x", "S", 8)
    for _ in range(length):
        x = g.b.nn.softmax(x, axis=1)
    return x


def test_a_chain_uses_two_slots_and_writes_the_output_port() -> None:
    assert slots(chain) == [0, 1, 0, -1]


def test_results_take_the_place_of_dying_operands() -> None:
    assert slots(chain, inplace=(0,)) == [0, 0, 0, -1]


def test_inputs_are_never_overwritten() -> None:
    def make(g: Graph) -> Value:
        x = g.input("x", "S", 8)
        return g.b.nn.softmax(g.b.ew.add(g.b.nn.softmax(x, axis=1), x), axis=1)

    module = executable(grouped(make).module, inplace=(0, 1))
    PlanMemory().run(module, Report())
    assert module.main.nodes[0].attrs["slots"] == (0,)


def test_an_operand_needed_later_is_not_overwritten() -> None:
    def make(g: Graph) -> Value:
        y = g.b.nn.softmax(g.input("x", "S", 8), axis=1)
        z = g.b.nn.layer_norm(y)
        return g.b.nn.layer_norm(
            g.b.nn.matmul(z, g.b.nn.matmul(g.weight("w", 8, 8), g.b.view.transpose(y, perm=(1, 0))))
        )

    first, second, *_ = slots(make, inplace=(0,))
    assert first != second


def test_an_operand_read_through_another_view_as_well_is_not_overwritten() -> None:
    def make(g: Graph) -> Value:
        y = g.b.nn.softmax(g.input("x", 8, 8), axis=1)
        flat = g.b.view.reshape(y, shape=(64,))
        both = g.b.ew.add(g.b.view.reshape(flat, shape=(8, 8)), g.b.view.transpose(y, perm=(1, 0)))
        return g.b.nn.softmax(both, axis=1)

    first, second, _ = slots(make, inplace=(0, 1))
    assert first != second


def test_views_keep_their_storage_alive() -> None:
    def make(g: Graph) -> Value:
        y = g.b.nn.softmax(g.input("x", "S", 8), axis=1)
        view = g.b.view.reshape(y, shape=(S, 2, 4))
        other = g.b.nn.softmax(g.input("z", "S", 8), axis=1)
        last = g.b.nn.softmax(view, axis=2)
        return g.b.nn.layer_norm(g.b.ew.add(g.b.view.reshape(last, shape=(S, 8)), g.b.nn.softmax(other, axis=1)))

    found = slots(make)
    assert found[0] != found[1]


def test_the_output_behind_a_reshape_is_written_directly() -> None:
    assert slots(lambda g: g.b.view.reshape(chain(g, 2), shape=(S * 8,))) == [0, -1]


@pytest.mark.parametrize("sizes", [(8, 64, 8, 64), (64, 8, 64, 8)])
def test_large_and_small_results_share_by_best_fit(sizes: tuple[int, ...]) -> None:
    def make(g: Graph) -> Value:
        x = g.input("x", "S", 4)
        for index, size in enumerate(sizes):
            x = g.b.nn.linear(x, g.weight(f"w{index}", size, int(x.shape[1])))
        return g.b.nn.softmax(x, axis=1)

    assert len(set(slots(make)) - {-1}) == 2


def test_the_report_names_the_peak() -> None:
    module, report = executable(grouped(chain).module), Report()
    PlanMemory().run(module, report)
    assert report.notes == [
        f"arena: 2 slots, {2 * 9 * 8 * 4} bytes at the largest sizes ({4 * 9 * 8 * 4} without sharing)"
    ]


def test_a_function_without_nodes_is_grouped() -> None:
    def make(g: Graph) -> tuple[Value, ...]:
        return g.input("x", "S", 8), g.weight("w", 8)

    assert grouped(make).ops == []
