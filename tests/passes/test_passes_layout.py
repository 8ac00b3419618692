"""Channels last, sinking transposes, rotary positions, windows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pass_graphs import Graph, Outcome, apply, built

from nomul.ir.dim import Dim
from nomul.ir.graph import Value
from nomul.passes.merge_linears import joint_name
from nomul.passes.runner import PassRunner
from nomul.phases import phases

B, S = Dim.of("B"), Dim.of("S")


def laid_out(make) -> Outcome:  # type: ignore[no-untyped-def]
    return apply(built(make), "channels_last", "layout", "simplify")


def arranged(make) -> Outcome:  # type: ignore[no-untyped-def]
    return apply(built(make), "arrange", "simplify")


def conv(g: Graph, name: str, x: Value, channels: int, kernel: int = 3) -> Value:
    w = g.weight(name, channels, int(x.shape[1]), kernel, kernel)
    return g.b.nn.conv2d(x, w, g.weight(f"{name}.bias", channels), pads=(kernel // 2,) * 4)


def test_a_residual_block_is_transposed_at_its_ends_only() -> None:
    def make(g: Graph) -> Value:
        x = conv(g, "a", g.input("x", "B", 3, "S", 8), 4)
        y = conv(g, "c", g.b.ew.relu(conv(g, "b", x, 4)), 4)
        return g.b.ew.relu(g.b.ew.add(y, x))

    out = laid_out(make)
    assert out.ops.count("view.transpose") == 2
    assert [out.ops[0], out.ops[-1]] == ["view.transpose", "view.transpose"]
    assert {node.attrs["layout"] for node in out.module.main.nodes if node.op == "nn.conv2d"} == {"nhwc"}


def test_squeeze_and_excitation_leaves_no_transpose_inside() -> None:
    def make(g: Graph) -> Value:
        x = conv(g, "a", g.input("x", "B", 3, "S", 8), 4)
        gate = g.b.reduce.mean(x, axes=(2, 3), keepdims=True)
        gate = g.b.ew.hard_sigmoid(conv(g, "c", g.b.ew.relu(conv(g, "b", gate, 2, 1)), 4, 1))
        pooled = g.b.nn.max_pool2d(g.b.ew.mul(x, gate), kernel=(2, 2), strides=(2, 2))
        both = g.b.view.concat(pooled, g.b.nn.avg_pool2d(x, kernel=(2, 2), strides=(2, 2)), axis=1)
        part = g.b.view.slice(g.b.view.pad(both, before=(0, 0, 1, 0), after=(0, 0, 0, 0)), axis=1, start=2, stop=6)
        return g.b.reduce.mean(g.b.ew.mul(part, g.weight("scale", 4, 1, 1)), axes=(2, 3))

    graph = Graph({"B": (1, 2), "S": (4, 9)})
    out = apply(graph.module(make(graph)), "channels_last", "layout", "simplify")
    assert out.ops.count("view.transpose") == 1
    assert out.ops[0] == "view.transpose"
    assert out.module.main.returns[0].shape == (B, 4)


def test_an_operand_with_fewer_axes_is_turned() -> None:
    def make(g: Graph) -> Value:
        x, y = g.input("x", "B", 4, "S"), g.input("y", "B", 1)
        return g.b.ew.sub(g.b.view.transpose(g.b.ew.exp(x), perm=(1, 2, 0)), g.b.view.transpose(y, perm=(1, 0)))

    out = laid_out(make)
    assert out.result.op == "view.transpose" and out.result.attrs["perm"] == (1, 2, 0)


def test_flattened_images_need_no_transpose() -> None:
    """The patch embedding of a vision transformer: convolution, flatten, transpose to tokens."""

    def make(g: Graph) -> Value:
        patches = g.b.nn.conv2d(g.input("x", "B", 3, 8, 8), g.weight("w", 6, 3, 4, 4), strides=(4, 4))
        flat = g.b.view.reshape(patches, shape=(B, Dim.of(6), Dim.of(4)))
        return g.b.nn.linear(g.b.view.transpose(flat, perm=(0, 2, 1)), g.weight("v", 5, 6))

    assert laid_out(make).ops.count("view.transpose") == 1


def test_a_full_operand_in_another_order_keeps_the_transpose() -> None:
    def make(g: Graph) -> Value:
        return g.b.ew.add(g.b.view.transpose(g.input("x", "B", 4, "S"), perm=(0, 2, 1)), g.input("y", "B", "S", 4))

    assert laid_out(make).ops == ["view.transpose", "ew.add"]


def test_an_operand_that_turns_back_for_free_moves_it() -> None:
    """The sum of tokens [B, S, 4] seen as an image [B, 4, 1, S] and of an image in nhwc."""

    def make(g: Graph) -> Value:
        image = g.b.view.transpose(g.input("x", "B", 1, "S", 4), perm=(0, 3, 1, 2))
        tokens = g.b.view.transpose(g.input("y", "B", "S", 4), perm=(0, 2, 1))
        return g.b.ew.add(image, g.b.view.reshape(tokens, shape=(B, Dim.of(4), Dim.of(1), S)))

    out = laid_out(make)
    assert out.ops.count("view.transpose") == 1
    assert out.result.op == "view.transpose" or out.result.args[0].producer.op == "view.transpose"


@pytest.mark.parametrize(("perm", "count"), [((1, 0, 2), 1), ((0, 2, 1), 1)])
def test_transposes_pass_row_ops_only_beside_the_last_axis(perm: tuple[int, ...], count: int) -> None:
    def make(g: Graph) -> Value:
        return g.b.nn.layer_norm(g.b.view.transpose(g.input("x", 5, "S", 4), perm=perm))

    out = laid_out(make)
    assert out.ops.count("view.transpose") == count
    assert (out.result.op == "view.transpose") == (perm[-1] == 2)


def test_softmax_stays_on_the_last_axis() -> None:
    def make(g: Graph) -> Value:
        return g.b.nn.softmax(g.b.view.transpose(g.input("x", "B", 4, "S"), perm=(0, 2, 1)), axis=2)

    assert laid_out(make).ops == ["view.transpose", "nn.softmax"]


def test_softmax_along_another_axis_moves_in_front_of_the_transpose() -> None:
    def make(g: Graph) -> Value:
        return g.b.nn.softmax(g.b.view.transpose(g.input("x", "B", 4, "S"), perm=(0, 2, 1)), axis=1)

    out = laid_out(make)
    assert out.ops == ["nn.softmax", "view.transpose"]
    assert out.module.main.nodes[0].attrs["axis"] == 2


def rotary(g: Graph, heads: int, name: str) -> Value:
    """x * cos + rotate_half(x) * sin on [B, H, S, D]."""
    b = g.b
    x = b.view.transpose(b.view.reshape(g.input(name, "B", "S", heads * 6), shape=(B, S, heads, 6)), perm=(0, 2, 1, 3))
    cos, sin = (g.input(f"{name}.{part}", 1, 1, "S", 6) for part in ("cos", "sin"))
    first, second = b.view.slice(x, axis=3, stop=3), b.view.slice(x, axis=3, start=3, stop=6)
    turned = b.view.concat(b.ew.neg(second), first, axis=3)
    return b.ew.add(b.ew.mul(x, cos), b.ew.mul(turned, sin))


def test_rotary_positions_are_joined_last() -> None:
    out = laid_out(lambda g: g.b.view.transpose(rotary(g, 4, "x"), perm=(0, 2, 1, 3)))
    assert "view.transpose" not in out.ops
    assert out.result.op == "view.concat"


def test_interleaved_rotary_positions_are_joined_last() -> None:
    """LightGlue turns pairs of neighbours: stack(-x[1::2], x[0::2]) and flatten."""

    def make(g: Graph) -> Value:
        b, x = g.b, g.input("x", "B", "S", 4, 6)
        cos, sin = g.input("cos", "B", "S", 4, 6), g.input("sin", "B", "S", 4, 6)
        pairs = b.view.reshape(x, shape=(B, S, 4, 3, 2))
        even, odd = b.view.slice(pairs, axis=4, stop=1), b.view.slice(pairs, axis=4, start=1, stop=2)
        turned = b.view.reshape(b.view.concat(b.ew.neg(odd), even, axis=4), shape=(B, S, 4, 6))
        return b.ew.add(b.ew.mul(x, cos), b.ew.mul(turned, sin))

    out = laid_out(make)
    assert out.ops[-2:] == ["view.concat", "view.reshape"]


def test_windows_of_merged_projections_are_transposed_once() -> None:
    def make(g: Graph) -> tuple[Value, ...]:
        x = g.b.view.reshape(g.input("x", "B", 4, 4, 12), shape=(B, 2, 2, 2, 2, 12))
        parts = [g.b.view.slice(x, axis=5, start=4 * i, stop=4 * i + 4) for i in range(3)]
        return tuple(g.b.ew.exp(g.b.view.transpose(part, perm=(0, 1, 3, 2, 4, 5))) for part in parts)

    out = arranged(make)
    assert out.ops.count("view.transpose") == 1
    assert out.ops.count("view.slice") == 3


def test_slices_with_another_user_keep_their_transposes() -> None:
    def make(g: Graph) -> tuple[Value, ...]:
        x = g.b.ew.exp(g.input("x", "B", "S", 8))
        parts = [g.b.view.slice(x, axis=2, start=4 * i, stop=4 * i + 4) for i in range(2)]
        turned = [g.b.ew.exp(g.b.view.transpose(part, perm=(1, 0, 2))) for part in parts]
        return (g.b.nn.layer_norm(x), *turned)

    assert arranged(make).ops.count("view.transpose") == 2


# -- merging -------------------------------------------------------------------------------------------------------
def attention(g: Graph, sources: dict[str, Value], biases: tuple[str, ...] = ("q", "k", "v")) -> Value:
    made = {}
    for name, x in sources.items():
        bias = g.weight(f"l0.{name}.bias", 8) if name in biases else None
        projected = g.b.nn.linear(x, g.weight(f"l0.{name}.weight", 8, 6), bias)
        made[name] = g.b.view.reshape(projected, shape=(B, x.shape[1], 2, 4))
    return g.b.nn.attention(made["q"], made["k"], made["v"], scale=0.5)


def test_projections_of_one_input_are_merged() -> None:
    def make(g: Graph) -> Value:
        x = g.input("x", "B", "S", 6)
        return attention(g, dict.fromkeys("qkv", x), biases=("q", "v"))

    out = apply(built(make), "merge_linears")
    assert out.ops.count("nn.linear") == 1
    assert set(out.module.weights) == {"l0.q_k_v.weight", "l0.q_v.bias"}
    assert out.module.weights["l0.q_k_v.weight"].shape == (24, 6)


def test_cross_attention_merges_keys_and_values_only() -> None:
    def make(g: Graph) -> Value:
        memory = g.input("memory", "B", "T", 6)
        return attention(g, {"q": g.input("x", "B", "S", 6), "k": memory, "v": memory})

    out = apply(built(make), "merge_linears")
    assert out.ops.count("nn.linear") == 2
    assert "l0.k_v.weight" in out.module.weights


def hamming(g: Graph, q: Value, k: Value, v: Value) -> Value:
    return g.b.nn.hamming_attention(g.b.nn.hamming_codes(q), g.b.nn.hamming_codes(k), v)


KINDS: dict[str, Callable[[Graph, Value, Value, Value], Value]] = {
    "linear": lambda g, q, k, v: g.b.nn.linear_attention(q, k, v, map="elu"),
    "hamming": hamming,
    "covariance": lambda g, q, k, v: g.b.nn.cross_covariance_attention(q, k, v),
    "inline": lambda g, q, k, v: g.b.nn.inline_attention(q, k, v, scale=0.5),
    "bytes": lambda g, q, k, v: g.b.nn.attention(q, k, v, scale=0.5, scores="i8"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_projections_of_every_kind_of_attention_are_merged(kind: str) -> None:
    def make(g: Graph) -> Value:
        x = g.input("x", "B", "S", 6)
        parts = [g.b.nn.linear(x, g.weight(name, 8, 6), g.weight(f"{name}.bias", 8)) for name in "qkv"]
        return KINDS[kind](g, *(g.b.view.reshape(part, shape=(B, S, 2, 4)) for part in parts))

    module = PassRunner().run(built(make), phases())
    inner = [node.op for func in module.funcs.values() for node in func.nodes]
    assert inner.count("nn.linear") == 1


def test_a_projection_with_an_epilogue_is_not_merged() -> None:
    def make(g: Graph) -> Value:
        x = g.input("x", "B", "S", 6)
        q, k, v = (g.b.nn.linear(x, g.weight(name, 8, 6)) for name in "qkv")
        parts = [g.b.view.reshape(part, shape=(B, S, 2, 4)) for part in (g.b.ew.relu(q), k, v)]
        return g.b.nn.attention(*parts, scale=0.5)

    assert apply(built(make), "merge_linears").ops.count("nn.linear") == 2


def test_joint_names() -> None:
    assert joint_name(["l0.q_proj.weight", "l0.k_proj.weight"]) == "l0.q_k_proj.weight"
    assert joint_name(["a.q", "a.q"]) == "a.q"
    assert joint_name(["left", "right"]) == "left_right"
