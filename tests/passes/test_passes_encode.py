"""Recipes on modules: which layers get which encoding, what stands in for one that does not fit, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pass_graphs import Graph, apply, built

from nomul.ir import interpreter
from nomul.ir.encodings import get_encoding
from nomul.ir.errors import NomulError
from nomul.ir.graph import Module, Value
from nomul.ir.verifier import verify
from nomul.passes.base import Report
from nomul.passes.choice import Recipe, Rule
from nomul.passes.encode import Encode
from nomul.passes.fit_layers import FitCache
from nomul.passes.layers import layers_of
from nomul.recipe import read_recipe

Rules = dict[str, str]


def network(g: Graph) -> Value:
    x = g.input("x", "B", 4, 6, 6)
    x = g.b.nn.conv2d(x, g.weight("conv.weight", 8, 4, 3, 3), g.weight("conv.bias", 8))
    x = g.b.nn.conv2d(x, g.weight("depthwise.weight", 8, 1, 3, 3), groups=8)
    rows = g.b.reduce.mean(x, axes=(2, 3))
    hidden = g.b.nn.linear(rows, g.weight("l1.weight", 6, 8), g.weight("l1.bias", 6))
    return g.b.nn.linear(hidden, g.weight("l2.weight", 4, 6))


def encode(rules: Rules, **options: object) -> Encode:
    return Encode(read_recipe(rules), **options)  # type: ignore[arg-type]


def encoded(rules: Rules) -> Rules:
    module = apply(built(network), encode(rules)).module
    return {name: str(w.type.encoding) for name, w in module.weights.items() if w.type.encoding}


def run(module: Module, item: Encode) -> tuple[Module, Report]:
    """The pass alone, once."""
    copy, report = module.clone(), Report()
    item.run(copy, report)
    verify(copy)
    return copy, report


def test_the_first_rule_that_takes_a_layer_decides() -> None:
    half = {"conv.weight": "f16", "depthwise.weight": "f16"}
    assert encoded({"l2.*": "f32", "l?.*": "bf16", "*": "f16"}) == {**half, "l1.weight": "bf16"}
    assert encoded({}) == {}


def test_biases_and_grouped_convolutions_stay() -> None:
    assert set(encoded({"*": "f16"})) == {"conv.weight", "depthwise.weight", "l1.weight", "l2.weight"}
    grouped = built(lambda g: g.b.nn.conv2d(g.input("x", 1, 4, 6, 6), g.weight("w", 8, 2, 3, 3), groups=2))
    notes = run(grouped, encode({"*": "f16"}))[1].notes
    assert notes == ["@w stays f32, not f16: the convolution has groups"]


def test_coarse_convolutions_without_data_are_told() -> None:
    notes = run(built(network), encode({"depthwise*": "f32", "*": "int4"}))[1].notes
    assert [note for note in notes if note.startswith("1 convolutions have fewer than 6 bits")]
    assert not run(built(network), encode({"depthwise*": "f32", "*": "int8 by clip"}))[1].notes


def test_a_weight_that_another_op_reads_stays() -> None:
    def shared(g: Graph) -> Value:
        table = g.weight("table", 4, 4)
        return g.b.ew.add(g.b.nn.linear(g.input("x", "S", 4), table), g.b.reduce.sum(table, axes=(0,), keepdims=False))

    module, report = run(built(shared), encode({"*": "f16"}))
    assert module.weights["table"].type.encoding is None
    assert report.notes == ["@table stays f32, not f16: reduce.sum uses it as operand 0"]


def test_results_stay_close() -> None:
    module = built(network)
    out = apply(module, encode({"*": "f16"})).module
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 6)).astype(np.float32)
    (before,), (after,) = interpreter.run(module, x), interpreter.run(out, x)
    assert 0 < np.abs(before - after).max() < 1e-2 * np.abs(before).max()


def test_equal_encodings_are_merged_and_different_ones_are_not() -> None:
    def layer(g: Graph) -> Value:
        x = g.input("x", "B", "S", 8)
        parts = [g.b.view.reshape(g.b.nn.linear(x, g.weight(name, 8, 8)), shape=("B", "S", 2, 4)) for name in "qkv"]
        return g.b.nn.attention(*parts, scale=0.5)

    out = apply(built(layer), encode({"v": "bf16", "*": "f16"}), "merge_linears").module
    assert {name: str(w.type.encoding) for name, w in out.weights.items()} == {"q_k": "f16", "v": "bf16"}


def test_roles() -> None:
    roles = {layer.weight.name: layer.roles for layer in layers_of(built(network))}
    assert roles == {
        "conv.weight": ("conv",),
        "depthwise.weight": ("conv", "depthwise"),
        "l1.weight": ("linear",),
        "l2.weight": ("head", "linear"),
    }


def test_the_only_layer_is_no_head() -> None:
    module = built(lambda g: g.b.nn.linear(g.input("x", "B", 8), g.weight("w", 4, 8)))
    assert layers_of(module)[0].roles == ("linear",)


def one_layer(columns: int) -> Module:
    return built(lambda g: g.b.nn.linear(g.input("x", "B", columns), g.weight("w", 4, columns)))


@pytest.mark.parametrize(
    ("columns", "wanted", "given"),
    [
        (96, "int4<group=128>", "int4<group=96>"),
        (192, "ternary<planes=2, group=128>", "ternary<planes=2, group=96>"),
        (37, "int4<group=32>", "int4"),
        (34, "nm", "int8"),
        (6, "ternary<pack=3of4>", "int8"),
    ],
)
def test_what_stands_in_for_an_encoding_that_does_not_fit(columns: int, wanted: str, given: str) -> None:
    module, report = run(one_layer(columns), encode({"*": wanted}))
    assert str(module.weights["w"].type.encoding) == given
    assert report.notes[0].startswith(f"@w is stored as {given}, not {wanted}: ")


def failure(module: Module, rules: Rules, strict: bool = False) -> NomulError:
    recipe = read_recipe(rules)
    with pytest.raises(NomulError) as error:
        apply(module, Encode(Recipe(recipe.rules, strict)))
    return error.value


def test_a_strict_recipe_takes_nothing_else() -> None:
    error = failure(built(network), {"*": "ternary<group=16>"}, strict=True)
    assert {problem.code for problem in error.problems} == {"NM459"}
    assert len(error.problems) == 4
    assert "@depthwise.weight cannot be stored as ternary<group=16>: only rules with role 'depthwise'" in str(error)


def test_a_rule_that_matches_nothing_is_named_with_what_is_near() -> None:
    error = failure(built(network), {"l3.weight": "f16", "encoder.*": "bf16", "l1.*": "f16"})
    assert [problem.code for problem in error.problems] == ["NM458", "NM458"]
    assert "near to it: l" in (error.problems[0].help or "")


def test_a_rule_that_decides_nothing_is_told() -> None:
    notes = run(built(network), encode({"depthwise*": "f32", "*": "f16", "l1.weight": "int8", "l1.bias": "int8"}))[
        1
    ].notes
    assert [note for note in notes if "does nothing" in note] == [
        "the rule for 'l1.weight' does nothing: rules above it take all that it matches",
        "the rule for 'l1.bias' does nothing: what it matches is no layer that it may take",
    ]
    assert not run(built(network), encode({"l1.weight": "int8", "*": "f16"}))[1].notes


def test_a_weight_outside_the_range_is_named() -> None:
    def large(g: Graph) -> Value:
        return g.b.nn.linear(g.input("x", "S", 2), g.array("huge", np.float32([[1e6, 0]])))

    error = failure(built(large), {"*": "f16"})
    assert error.code == "NM457"
    assert "@huge cannot be stored as f16: a weight is too large" in str(error)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(bad: float) -> None:
    rows = np.ones((2, 32), np.float32)
    rows[1, 3] = bad
    module = built(lambda g: g.b.nn.linear(g.input("x", "S", 32), g.array("broken", rows)))
    for choice in ("int4", "ternary<planes=2> by ptqtp", "bitplane", "codebook", "shift", "nm", "split"):
        error = failure(module, {"*": choice})
        assert error.code == "NM457" and "@broken" in str(error) and "not finite" in str(error), choice
    note = "@broken holds NaN or infinite numbers, which spread to results behind it"
    assert run(module, encode({}))[1].notes == [note]
    rows[1, 3] = 1e38
    assert not run(built(lambda g: g.b.nn.linear(g.input("x", "S", 32), g.array("w", rows))), encode({}))[1].notes


def test_activations() -> None:
    recipe = Recipe((Rule(encoding=get_encoding("int8"), act="i8"),))
    nodes = apply(built(network), Encode(recipe)).module.main.nodes
    assert [node.attrs["act"] for node in nodes if "act" in node.attrs] == ["i8", "f32", "i8", "i8"]


# -- calibration -----------------------------------------------------------------------------------------------
def images(count: int = 12) -> list[list[np.ndarray]]:
    generator = np.random.default_rng(3)
    tint = generator.standard_normal((4, 4))
    return [
        [(np.einsum("bchw,cd->bdhw", generator.standard_normal((3, 4, 6, 6)), tint) + 1).astype(np.float32)]
        for _ in range(count)
    ]


def output_error(module: Module, other: Module) -> float:
    total = 0.0
    for batch in images(3):
        (before,), (after,) = interpreter.run(module, *batch), interpreter.run(other, *batch)
        total += float(np.sum((before - after) ** 2))
    return total


@pytest.mark.parametrize("choice", ["int4", "ternary<planes=2>", "bitplane<bits=2>", "nm<value=int8>"])
def test_calibration_makes_results_better(choice: str) -> None:
    module = built(network)
    plain, fitted = (apply(module, encode({"l?.*": choice}, batches=batches)).module for batches in ((), images()))
    assert output_error(module, fitted) < output_error(module, plain)


def test_few_calibration_rows_do_little_harm() -> None:
    """As many rows as inputs, of which nothing can be learned, are the worst case of compensation that trusts them."""

    def graph(g: Graph) -> Value:
        return g.b.nn.linear(g.input("x", "B", 96), g.weight("w", 48, 96))

    module, generator = built(graph), np.random.default_rng(5)
    module.dims["B"] = (1, 500)
    few, others = (generator.standard_normal((rows, 96)).astype(np.float32) for rows in (96, 500))
    plain = interpreter.run(module, others)[0]
    errors = []
    for batches in ([], [[few]]):
        given = run(module, encode({"*": "ternary<planes=2, group=32>"}, batches=batches))[0]
        errors.append(np.linalg.norm(interpreter.run(given, others)[0] - plain))
    assert errors[1] < 1.05 * errors[0]


def test_a_bias_takes_the_mean_error() -> None:
    module = built(network)
    fitted = apply(module, encode({"l1.*": "ternary"}, batches=images())).module
    assert not np.array_equal(fitted.weights["l1.bias"].array(), module.weights["l1.bias"].array())
    seen: dict[str, np.ndarray] = {}
    for name, each in (("before", module), ("after", fitted)):
        rows = [interpreter.run(_until_hidden(each), *batch)[0] for batch in images()]
        seen[name] = np.concatenate(rows).mean(axis=0)
    assert np.abs(seen["after"] - seen["before"]).max() < 1e-4


def test_static_activations_take_the_largest_input() -> None:
    recipe = Recipe((Rule("l2.*", get_encoding("int8"), act="i8-static", levels=42),))
    module = built(network)
    out = apply(module, Encode(recipe, images())).module
    largest = 0.0
    for batch in images():
        (hidden,) = interpreter.run(_until_hidden(module), *batch)
        largest = max(largest, float(np.abs(hidden).max()))
    assert out.main.nodes[-1].attrs["act_scale"] == pytest.approx(largest / 42)
    assert out.main.nodes[-1].attrs["act_levels"] == 42


def _until_hidden(module: Module) -> Module:
    copy = module.clone()
    copy.main.returns = [copy.main.nodes[-1].args[0]]  # type: ignore[list-item]
    copy.main.erase(copy.main.nodes[-1])
    return copy


def test_an_interrupt_loses_nothing(tmp_path: Path) -> None:
    cache, module, seen = tmp_path / "fits", built(network), []

    class Stop(Exception):
        pass

    def stop(text: str, fraction: float) -> None:
        seen.append(text)
        if text == "fit 2/4":
            raise Stop

    with pytest.raises(Stop):
        run(module, encode({"*": "int4"}, batches=images(), cache=cache, progress=stop))
    kept = {path.name for path in cache.iterdir()}
    assert len(kept) >= 2
    seen.clear()
    item = encode({"*": "int4"}, batches=images(), cache=cache, progress=lambda text, _: seen.append(text))
    resumed, _ = run(module, item)
    assert len([text for text in seen if text.startswith("fit")]) == 4 - len(kept)
    seen.clear()
    again, _ = run(module, item)
    assert seen == []
    fresh, _ = run(module, encode({"*": "int4"}, batches=images()))
    for name, weight in fresh.weights.items():
        for other in (resumed, again):
            for field, array in weight.fields.items():
                assert np.array_equal(array, other.weights[name].fields[field]), (name, field)


def test_what_is_quick_is_not_kept(tmp_path: Path) -> None:
    run(built(network), encode({"*": "f16"}, cache=tmp_path / "fits"))
    assert not (tmp_path / "fits").exists()


def test_the_cache_knows_other_data_and_other_weights(tmp_path: Path) -> None:
    cache = tmp_path / "fits"
    FitCache(cache).clear()
    for module, batches in ((built(network), images()), (built(network), images(3)), (built(network), [])):
        run(module, encode({"l?.*": "int4"}, batches=batches, cache=cache))
    assert len(list(cache.iterdir())) == 6
    for path in cache.iterdir():
        path.write_bytes(b"damaged")
    run(built(network), encode({"l?.*": "int4"}, batches=images(), cache=cache))
    (cache / "notes.txt").write_text("mine")
    FitCache(cache).clear()
    assert [path.name for path in cache.iterdir()] == ["notes.txt"]
    (cache / "notes.txt").unlink()
    FitCache(cache).clear()
    assert not cache.exists()
