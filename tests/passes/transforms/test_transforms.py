"""Transforms: the model computes the same, weights take what they should, and a reason stands where they cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from pass_graphs import Graph, built

from nomul.ir import interpreter
from nomul.ir.encodings import Encoding
from nomul.ir.errors import NomulError
from nomul.ir.graph import Module, Value
from nomul.ir.syntax import parse_encoding
from nomul.passes.base import Report
from nomul.passes.choice import Recipe, Rule
from nomul.passes.encode import Encode
from nomul.passes.fit import find_fitter
from nomul.passes.runner import PassRunner
from nomul.passes.transforms import Transform, all_transforms, read_transformation
from nomul.passes.transforms.permute import best_order, kept

Draw = Callable[[Graph], Value]


def make(text: str, weights: str = "f32", batches: Sequence[Sequence[np.ndarray]] = (), **rule: str) -> Transform:
    """The pass of a recipe with one rule."""
    asked = read_transformation(text)
    encoding: Encoding | None = None if weights == "f32" else parse_encoding(weights)
    recipe = Recipe((Rule(encoding=encoding, transforms=(asked,), **rule),))
    return all_transforms()[asked.name](recipe, batches)


def mlp(g: Graph, between: str = "ew.relu") -> Value:
    """norm, up, an activation, down."""
    x = g.input("x", "B", "S", 16)
    rows = g.b.nn.layer_norm(x, g.weight("gamma", 16), g.weight("beta", 16))
    hidden = g.b.op(between, g.b.nn.linear(rows, g.weight("up", 32, 16), g.weight("up_bias", 32)))
    return g.b.nn.linear(hidden, g.weight("down", 8, 32), g.weight("down_bias", 8))


def gated(g: Graph) -> Value:
    x = g.b.nn.rms_norm(g.input("x", "B", "S", 16), g.weight("gamma", 16))
    gate = g.b.ew.silu(g.b.nn.linear(x, g.weight("gate", 32, 16)))
    return g.b.nn.linear(g.b.ew.mul(gate, g.b.nn.linear(x, g.weight("up", 32, 16))), g.weight("down", 16, 32))


def attention(g: Graph, value_heads: int = 4) -> Value:
    x, parts = g.input("x", "B", "S", 16), []
    for name, heads in (("q", 4), ("k", value_heads), ("v", value_heads)):
        rows = g.b.nn.linear(x, g.weight(name, heads * 8, 16), g.weight(f"{name}_bias", heads * 8))
        parts.append(g.b.view.reshape(rows, shape=("B", "S", heads, 8)))
    mixed = g.b.view.reshape(g.b.nn.attention(*parts, scale=0.3), shape=("B", "S", 32))
    return g.b.nn.linear(mixed, g.weight("o", 16, 32))


def images(g: Graph) -> Value:
    """A convolution, one with a kernel for each channel, and one by one."""
    x = g.b.ew.relu(g.b.nn.conv2d(g.input("x", "B", 4, 6, 6), g.weight("c1", 8, 4, 3, 3), g.weight("b1", 8)))
    x = g.b.nn.conv2d(x, g.weight("c2", 8, 1, 3, 3), g.weight("b2", 8), groups=8)
    return g.b.nn.conv2d(g.b.ew.relu(x), g.weight("c3", 16, 8, 1, 1))


def two_readers(g: Graph) -> Value:
    hidden = g.b.nn.linear(g.input("x", "B", 16), g.weight("up", 32, 16))
    return g.b.ew.add(g.b.nn.linear(hidden, g.weight("one", 8, 32)), g.b.nn.linear(hidden, g.weight("two", 8, 32)))


GRAPHS: dict[str, Draw] = {"mlp": mlp, "gated": gated, "attention": attention, "images": images}
EXACT = [name for name, kind in all_transforms().items() if kind.exact]


def changed(module: Module, item: Transform) -> tuple[Module, list[str]]:
    """What the pass makes, checked against the interpreter, and its notes."""
    runner = PassRunner(check=True)
    out = runner.apply_all(module, [item])
    return out, runner.records[0].report.notes


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", EXACT)
def test_results_stay(name: str, graph: str) -> None:
    """`changed` compares with the interpreter."""
    module, text = built(GRAPHS[graph]), {"smooth": "smooth<strength=0.5>"}.get(name, name)
    weights = {"permute": "nm<n=1, m=4>", "fast_product": "f32"}.get(name, "ternary")
    shape = (2, 4, 6, 6) if graph == "images" else (3, 9, 16)
    batches = [[np.random.default_rng(1).standard_normal(shape).astype(np.float32)]]
    out, _ = changed(module, make(text, weights, batches))
    same = all(np.array_equal(out.weights[key].array(), weight.array()) for key, weight in module.weights.items())
    assert same == (name == "fast_product" or (name, graph) == ("rotate", "images"))


# -- rotate ----------------------------------------------------------------------------------------------------
def test_a_rotation_is_computed_or_absorbed() -> None:
    out, notes = changed(built(mlp), make("rotate"))
    assert [node.attrs["block"] for node in out.main.nodes if node.op == "nn.hadamard"] == [16, 32]
    assert not notes
    out, _ = changed(built(attention), make("rotate", match="o"))
    assert all(node.op != "nn.hadamard" for node in out.main.nodes), "the rows of v take it"
    out, _ = changed(built(lambda g: attention(g, 2)), make("rotate", match="o"))
    assert any(node.op == "nn.hadamard" for node in out.main.nodes), "heads share values"


def test_layers_of_one_input_share_its_rotation() -> None:
    out, _ = changed(built(gated), make("rotate<block=8>"))
    assert [node.attrs["block"] for node in out.main.nodes if node.op == "nn.hadamard"] == [8, 8]


def test_rotated_weights_stand_out_less() -> None:
    module = built(mlp)
    module.weights["down"].fields["data"][:, 3] *= 20
    out, _ = changed(module, make("rotate", match="down"))
    before, after = module.weights["down"].array(), out.weights["down"].array()
    assert np.abs(after).max() < 0.5 * np.abs(before).max()


# -- factors of columns ----------------------------------------------------------------------------------------
def outliers(g: Graph) -> Value:
    """Two channels of the norm are large."""
    gamma = np.ones(32, np.float32)
    gamma[[3, 17]] = 30
    x = g.b.nn.layer_norm(g.input("x", 128, 32), g.array("gamma", gamma))
    return g.b.nn.linear(g.b.ew.relu(g.b.nn.linear(x, g.weight("up", 24, 32))), g.weight("down", 8, 24))


def error(module: Module, weights: str, x: np.ndarray) -> float:
    """Of the outputs with rounded weights, relative."""
    copy = module.clone()
    Encode.of(weights=weights, fitter="round_to_nearest").run(copy, Report())
    (before,), (after,) = interpreter.run(module, x), interpreter.run(copy, x)
    return float(np.linalg.norm(before - after) / np.linalg.norm(before))


@pytest.mark.parametrize("calibrated", [True, False])
def test_smoothing_makes_the_error_smaller(calibrated: bool) -> None:
    module, x = built(outliers), np.random.default_rng(0).standard_normal((128, 32)).astype(np.float32)
    out, notes = changed(module, make("smooth", "int4", [[x]] if calibrated else []))
    assert error(out, "int4", x) < 0.75 * error(module, "int4", x)
    assert bool(notes) != calibrated, "without data nothing is known of the inputs of @down"


def test_dual_scales_make_the_error_smaller() -> None:
    module = built(gated)
    module.weights["down"].fields["data"] *= np.exp(np.random.default_rng(1).standard_normal(32)).astype(np.float32)
    out, _ = changed(module, make("column_scale", "ternary", match="down"))
    assert not np.array_equal(out.weights["up"].array(), module.weights["up"].array())
    assert np.array_equal(out.weights["gate"].array(), module.weights["gate"].array()), "up takes it, not the gate"
    assert _lost(out) < 0.9 * _lost(module)


def _lost(module: Module) -> float:
    """Squared error of @down as ternary weights, relative."""
    encoding, array = parse_encoding("ternary"), module.weights["down"].array()
    stored = encoding.unpack(find_fitter(None, encoding)(array, None, encoding), array.shape)
    return float(np.square(array - stored).sum() / np.square(array).sum())


def test_an_input_that_others_read_is_multiplied() -> None:
    def residual(g: Graph) -> Value:
        x = g.b.nn.layer_norm(g.input("x", "B", "S", 16), g.weight("gamma", 16))
        return g.b.ew.add(x, g.b.nn.linear(x, g.weight("w", 16, 16)))

    out, _ = changed(built(residual), make("smooth<strength=0.5>", "int4"))
    assert "w.input_scale" in out.weights
    assert [node.op for node in out.main.nodes] == ["nn.layer_norm", "ew.mul", "nn.linear", "ew.add"]


# -- permutation -----------------------------------------------------------------------------------------------
def test_channels_move_so_that_more_is_kept() -> None:
    generator = np.random.default_rng(3)
    score = np.square(generator.standard_normal((48, 64)) * np.exp(generator.standard_normal(64)))
    for keep, of in ((2, 4), (1, 4), (4, 8), (3, 4)):
        order = best_order(score, keep, of)
        assert sorted(order) == list(range(64))
        lost = [score.sum() - kept(matrix, keep, of) for matrix in (score, score[:, order])]
        assert lost[1] < 0.95 * lost[0]
    within = best_order(score, 2, 4, unit=16)
    assert np.array_equal(within // 16, np.arange(64) // 16)


def test_the_best_order_of_two_runs_is_found() -> None:
    """All large columns stand in one run."""
    score = np.ones((3, 8))
    score[:, :4] = 100
    assert kept(score[:, best_order(score, 2, 4)], 2, 4) == 3 * 400


@pytest.mark.parametrize(
    ("draw", "match", "weights", "reason"),
    [
        (lambda g: mlp(g), "up", "nm", "%x is an input of the model"),
        (lambda g: attention(g, 2), "o", "nm", "heads of the attention at %attention share values"),
        (two_readers, "one", "nm", "nn.linear at %linear.2 reads %linear too"),
        (lambda g: images(g), "c1", "nm", "the columns of a channel are several taps of a convolution"),
        (lambda g: mlp(g), "down", "int4", "int4 keeps no fixed number of neighbouring weights"),
    ],
)
def test_why_channels_stay(draw: Draw, match: str, weights: str, reason: str) -> None:
    module = built(draw)
    item, report = make("permute", weights, match=match), Report()
    item.run(module, report)
    assert report.notes == [f"@{match} stays without permute: {reason}"]


# -- factors ---------------------------------------------------------------------------------------------------
def test_a_full_rank_is_exact_and_a_low_one_is_the_best() -> None:
    def one(g: Graph) -> Value:
        left, right = (np.random.default_rng(n).standard_normal(s) for n, s in ((0, (32, 6)), (1, (6, 64))))
        return g.b.nn.linear(g.input("x", 200, 64), g.array("w", (left @ right).astype(np.float32)), g.weight("b", 32))

    module = built(one)
    x = np.random.default_rng(2).standard_normal((200, 64)).astype(np.float32)
    for batches in ([], [[x]]):
        out, _ = changed(module, make("low_rank<rank=6>", batches=batches))
        assert out.weights["w.basis"].array().shape == (6, 64)
        product = out.weights["w"].array() @ out.weights["w.basis"].array()
        assert np.allclose(product, module.weights["w"].array(), atol=1e-4)


def test_outputs_count_where_there_is_data() -> None:
    module = built(lambda g: g.b.nn.linear(g.input("x", 400, 32), g.weight("w", 32, 32)))
    x = (np.random.default_rng(2).standard_normal((400, 32)) * np.exp(np.linspace(-3, 3, 32))).astype(np.float32)
    w, errors = module.weights["w"].array(), []
    for batches in ([], [[x]]):
        out, _ = changed(module, make("low_rank<rank=8>", batches=batches))
        errors.append(np.linalg.norm(x @ (out.weights["w"].array() @ out.weights["w.basis"].array() - w).T))
    assert errors[1] < 0.5 * errors[0]


def test_a_convolution_of_low_rank() -> None:
    out, _ = changed(built(images), make("low_rank<rank=2>", match="c1"))
    assert [tuple(map(int, out.weights[name].shape)) for name in ("c1.basis", "c1")] == [(2, 4, 3, 3), (8, 2, 1, 1)]


def test_coefficients_of_a_dictionary_are_sparse() -> None:
    module = built(lambda g: g.b.nn.linear(g.input("x", "B", 48), g.weight("w", 96, 48)))
    item = make("dictionary<basis=32, n=2, m=8>")
    out, _ = changed(module, item)
    sparse, basis = out.weights["w"].array(), out.weights["w.basis"].array()
    assert (np.count_nonzero(sparse.reshape(96, -1, 8), axis=2) <= 2).all()
    encoding = parse_encoding("nm<n=2, m=8, value=f32>")
    assert np.array_equal(encoding.unpack(encoding.pack(sparse), sparse.shape), sparse)
    sizes = np.linalg.svd(module.weights["w"].array(), compute_uv=False)
    rank = (32 * 48 + 96 * 8) // (96 + 48)
    low = np.linalg.norm(sizes[rank:])
    assert np.linalg.norm(sparse @ basis - module.weights["w"].array()) < low, "better than a low rank of that size"


def test_factors_that_save_nothing_are_refused() -> None:
    _, notes = changed(built(mlp), make("low_rank<rank=16>", match="up"))
    assert notes == ["@up stays without low_rank: a basis of 16 rows and coefficients are no smaller than 512 weights"]


# -- seven products --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("rows", "bias"), [(4, True), (6, False)])
def test_seven_products(rows: int, bias: bool) -> None:
    def layer(g: Graph) -> Value:
        biases = [g.weight("b", 12)] if bias else []
        return g.b.nn.linear(g.input("x", "B", rows, 16), g.weight("w", 12, 16), *biases)

    out, _ = changed(built(layer), make("fast_product<least=8>"))
    assert [node.op for node in out.main.nodes].count("nn.linear") == 7
    assert "w" not in out.weights


def test_products_that_stay() -> None:
    module = built(mlp)
    _, notes = changed(module, make("fast_product<least=8>"))
    assert notes[0] == "@up stays without fast_product: S rows are not always even"
    _, notes = changed(module, make("fast_product"))
    assert notes[0] == "@up stays without fast_product: [32, 16] is not even and from 512 on"


# -- recipes ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rotated", "there is no transform 'rotated' (did you mean rotate?)"),
        ("rotate<size=3>", "transform rotate has no option 'size', but block"),
        ("rotate<block=x>", "option block of transform rotate is a number, not 'x'"),
        ("rotate<block=3", "there is no transform 'rotate<block=3'"),
    ],
)
def test_words_that_there_are_not(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_transformation(text)
    assert message in str(caught.value)


def test_a_strict_recipe_takes_no_refusal() -> None:
    rule = Rule(transforms=(read_transformation("fast_product"),))
    with pytest.raises(NomulError) as caught:
        all_transforms()["fast_product"](Recipe((rule,), strict=True)).run(built(mlp), Report())
    assert {problem.code for problem in caught.value.problems} == {"NM459"}


def test_a_layer_that_no_rule_asks_for_stays() -> None:
    module = built(mlp)
    for name in all_transforms():
        report = Report()
        make(name, "nm", match="nothing").run(module, report)
        assert not report.fired and not report.notes


def test_every_transform_has_a_filetest() -> None:
    folder = Path(__file__).parents[2] / "filetests" / "transforms"
    assert {path.stem for path in folder.glob("*.nir")} == set(all_transforms())
