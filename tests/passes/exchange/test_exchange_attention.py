"""Softmax attention exchanged for other forms: what each computes, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pass_graphs import Graph

from nomul.api import lower
from nomul.ir import interpreter
from nomul.ir.attention import softmax
from nomul.ir.dim import Dim
from nomul.ir.errors import NomulError
from nomul.ir.graph import Module, Value
from nomul.ir.ops.attention import attention
from nomul.ir.ops.attention_linear import feature_map
from nomul.ir.types import DType
from nomul.passes.base import Report
from nomul.passes.exchange import all_forms, attention_layers, read_form
from nomul.passes.exchange.maps import Maps, load_maps, save_maps
from nomul.passes.exchange_attention import ExchangeAttention
from nomul.recipe import read_recipe

HEADS, SIZE = 4, 8
RANDOM = np.random.default_rng(5)
START = RANDOM.bit_generator.state


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Each test has the same numbers, whatever ran before it."""
    RANDOM.bit_generator.state = START


def model(layers: int = 1, groups: int = HEADS, **rules: Any) -> Module:
    """Attentions one behind the other. rules: of nn.attention; `mask`, `lengths`, `relative`: makers of operands."""
    g = Graph({"S": (1, 200)})
    x = g.input("x", 2, "S", HEADS, SIZE)
    made = {name: rules.pop(name)(g) if name in rules else None for name in ("mask", "relative", "lengths")}
    for number in range(layers):
        with g.b.at(f"layer.{number}.attention:sdpa"):
            k = g.b.view.slice(x, axis=2, stop=groups) if groups != HEADS else x
            x = g.b.nn.attention(x, k, k, *made.values(), scale=0.4, **rules)
    return g.module(x)


def exchanged(module: Module, form: str, calib: Any = (), **options: Any) -> Module:
    recipe = read_recipe({"attention": [{"form": form, **options}]})
    out = module.clone()
    ExchangeAttention(recipe, calib).run(out, Report())
    return out


def result(module: Module, *inputs: np.ndarray) -> np.ndarray:
    return interpreter.run(module, *inputs)[0]


def tokens(count: int) -> np.ndarray:
    return RANDOM.standard_normal((2, count, HEADS, SIZE)).astype(np.float32)


def weighted(weights: np.ndarray, v: np.ndarray) -> np.ndarray:
    """[B, S, H, E] of weights [B, H, S, T] that are divided by their sums."""
    total = weights.sum(-1, keepdims=True)
    return np.einsum("bhst,bthe->bshe", weights / np.where(total == 0, 1, total), v)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("inline", {}),
        ("linear", {"map": "elu"}),
        ("window", {"window": 3}),
        ("softmax", {"scores": "i8"}),
        ("sla", {"critical": 0.5}),
    ],
)
def test_latent_attention_is_softmax_attention_of_one_key_head(form: str, options: dict[str, Any]) -> None:
    g, plain = Graph({"S": (1, 200)}), Graph({"S": (1, 200)})
    shapes = {"q": (HEADS, SIZE), "qr": (HEADS, 4), "c": (SIZE,), "kr": (4,)}
    q, q_rotary, latent, k_rotary = (g.input(name, 2, "S", *rest) for name, rest in shapes.items())
    with g.b.at("layer.0.attention:sdpa"):
        module = g.module(g.b.nn.latent_attention(q, q_rotary, latent, k_rotary, scale=0.4))
    whole, keys = plain.input("q", 2, "S", HEADS, SIZE + 4), plain.input("k", 2, "S", 1, SIZE + 4)
    values = plain.b.view.slice(keys, axis=3, stop=SIZE)
    arrays = [RANDOM.standard_normal((2, 130, *rest)).astype(np.float32) for rest in shapes.values()]
    together = [np.concatenate(arrays[:2], -1), np.concatenate(arrays[2:], -1)[:, :, None]]
    wanted = exchanged(plain.module(plain.b.nn.attention(whole, keys, values, scale=0.4)), form, **options)
    out = exchanged(module, form, **options)
    assert [layer.name for layer in attention_layers(out)] == ["layer.0.attention"] * (form in ("window", "softmax"))
    np.testing.assert_allclose(result(out, *arrays), result(wanted, *together), atol=1e-5)


def test_latent_attention_has_reasons_too() -> None:
    g = Graph({"S": (1, 200)})
    operands = [g.input(name, 2, "S", *rest) for name, rest in (("q", (4, 8)), ("r", (4, 2)), ("c", (8,)), ("k", (2,)))]
    with g.b.at("layer.0.attention:sdpa"):
        module = g.module(g.b.nn.latent_attention(*operands, scale=0.4, causal=True))
    with pytest.raises(NomulError, match=r"layer.0.attention cannot become inline: .*queries see earlier keys only"):
        exchanged(module, "inline")


@pytest.mark.parametrize("causal", [False, True])
def test_window(causal: bool) -> None:
    module, x = model(causal=causal), tokens(20)
    near = np.abs(np.arange(20)[:, None] - np.arange(20)) < 3
    wanted = attention.function(x, x, x, near, scale=0.4, causal=causal)
    np.testing.assert_allclose(result(exchanged(module, "window", window=3), x), wanted, atol=1e-6)


def test_the_smaller_window_stays() -> None:
    for given, wanted in ((2, 2), (9, 5)):
        (node,) = exchanged(model(window=5), "window", window=given).main.nodes
        assert node.attrs["window"] == wanted


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["elu", "relu", "exp", "softmax"])
@pytest.mark.parametrize("groups", [HEADS, 2])
def test_linear(name: str, causal: bool, groups: int) -> None:
    x = tokens(13)
    k = np.repeat(x[:, :, :groups], HEADS // groups, 2)
    weights = np.einsum("bshd,bthd->bhst", feature_map(x, name), feature_map(k, name))
    wanted = weighted(weights * np.tri(13) if causal else weights, k)
    given = result(exchanged(model(causal=causal, groups=groups), "linear", map=name), x)
    np.testing.assert_allclose(given, wanted, atol=1e-5)


def padding(kind: str) -> dict[str, Any]:
    def boolean(g: Graph) -> Value:
        return g.input("seen", 2, 1, 1, "S", dtype="bool")

    def additive(g: Graph) -> Value:
        zero = g.b.ew.cast(boolean(g), dtype=DType.F32)
        return g.b.ew.mul(g.b.ew.sub(1.0, zero), -10000.0)

    def lengths(g: Graph) -> Value:
        return g.input("lengths", 2, dtype="i64")

    return {"boolean": {"mask": boolean}, "additive": {"mask": additive}, "lengths": {"lengths": lengths}}[kind]


@pytest.mark.parametrize("kind", ["boolean", "additive", "lengths"])
def test_hidden_keys_stay_hidden(kind: str, tmp_path: Path) -> None:
    """What padding holds does not matter, and the tokens before it see what they would see alone."""
    module, x, short = model(**padding(kind)), tokens(12), 7
    seen = (np.arange(12) < short)[None, None, None].repeat(2, 0)
    inputs = [np.full(2, short)] if kind == "lengths" else [seen]
    save_maps(maps(), tmp_path / "maps.safetensors")
    for options in ({"map": "elu"}, {"maps": str(tmp_path / "maps.safetensors")}):
        given = result(exchanged(module, "linear", **options), x, *inputs)[:, :short]
        alone = result(exchanged(model(), "linear", **options), np.ascontiguousarray(x[:, :short]))
        np.testing.assert_allclose(given, alone, atol=1e-5)


def maps(layers: int = 1, groups: int = HEADS) -> Maps:
    arrays = {}
    for number in range(layers):
        for part, heads in (("q", HEADS), ("k", groups)):
            arrays[f"layer.{number}.attention.{part}"] = RANDOM.standard_normal((heads, SIZE, 6)).astype(np.float32)
    return Maps("softmax", arrays)


@pytest.mark.parametrize("groups", [HEADS, 2])
def test_learned_maps(tmp_path: Path, groups: int) -> None:
    given = maps(1, groups)
    save_maps(given, tmp_path / "maps.safetensors")
    assert load_maps(tmp_path / "maps.safetensors").form == "softmax"
    x = tokens(9)

    def features(x: np.ndarray, part: str) -> np.ndarray:
        y = np.einsum("bshd,hdf->bshf", x, given.arrays[f"layer.0.attention.{part}"])
        return np.concatenate([softmax(y), softmax(-y)], -1)

    keys = features(x[:, :, :groups], "k").repeat(HEADS // groups, 2)
    weights = np.einsum("bshd,bthd->bhst", features(x, "q"), keys) * np.tri(9)
    wanted = weighted(weights, x[:, :, :groups].repeat(HEADS // groups, 2))
    module = exchanged(model(causal=True, groups=groups), "linear", maps=str(tmp_path / "maps.safetensors"))
    np.testing.assert_allclose(result(module, x), wanted, atol=1e-5)


def test_maps_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "maps.safetensors"
    save_maps(Maps("softmax", {"layer.1.attention.q": maps().arrays["layer.0.attention.q"]}), path)
    with pytest.raises(NomulError, match=r"NM464.*no 'layer.0.attention.q' \(near to it: layer.1.attention.q\)"):
        exchanged(model(), "linear", maps=str(path))
    arrays = dict(maps().arrays)
    save_maps(Maps("softmax", arrays | {"layer.0.attention.k": np.zeros((3, SIZE, 6), np.float32)}), path)
    with pytest.raises(NomulError, match=r"\[3, 8, 6\], not \[4, 8, F\]"):
        exchanged(model(), "linear", maps=str(path))
    save_maps(Maps("softmax", arrays | {"layer.0.attention.k": np.zeros((4, SIZE, 5), np.float32)}), path)
    with pytest.raises(NomulError, match="features of other sizes"):
        exchanged(model(), "linear", maps=str(path))
    for size, number, words in ((0, 0.0, r"\[4, 8, 0\], not \[4, 8, F\]"), (6, np.nan, "not finite")):
        save_maps(Maps("softmax", arrays | {"layer.0.attention.k": np.full((4, SIZE, size), number, np.float32)}), path)
        with pytest.raises(NomulError, match=f"NM464.*{words}"):
            exchanged(model(), "linear", maps=str(path))
    for text in (b"", b"\xff" * 40):
        path.write_bytes(text)
        with pytest.raises(NomulError, match="NM465"):
            exchanged(model(), "linear", maps=str(path))
    with pytest.raises(NomulError, match="NM465"):
        exchanged(model(), "linear", maps=str(tmp_path / "none"))


def test_hamming_and_inline() -> None:
    x = tokens(10)
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    codes = (unit > unit.mean()).astype(np.float32)
    y = x / 2 + np.einsum("bhst,bthe->bshe", np.einsum("bshd,bthd->bhst", codes, codes), x) / np.pi
    wanted = y / np.linalg.norm(y, axis=-1, keepdims=True)
    np.testing.assert_allclose(result(exchanged(model(), "hamming"), x), wanted, atol=1e-5)
    scores = np.einsum("bshd,bthd->bhst", x, x) * 0.4 / 10
    wanted = np.einsum("bhst,bthe->bshe", scores - scores.mean(-1, keepdims=True) + 0.1, x)
    np.testing.assert_allclose(result(exchanged(model(), "inline"), x), wanted, atol=1e-5)


def test_sparse_linear_learns_from_calibration_data() -> None:
    """Least squares on the calibration data: nearer to softmax attention there than the critical blocks alone."""
    module, options = model(), {"critical": 0.2, "block": 8}
    data = [[tokens(80) * np.float32(0.4)] for _ in range(3)]
    errors = []
    for calib in ((), data):
        out = exchanged(module, "sla", calib, **options)
        (weight,) = out.weights.values()
        assert weight.array().any() == bool(calib)
        errors.append(sum(np.square(result(out, *batch) - result(module, *batch)).sum() for batch in data))
    assert errors[1] < 0.9 * errors[0]
    whole = exchanged(module, "sla", critical=1.0, negligible=0.0)
    np.testing.assert_allclose(result(whole, *data[0]), result(module, *data[0]), atol=1e-5)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_shares_of_blocks_fit_any_length(count: int) -> None:
    for critical, negligible in ((0.05, 0.1), (0.5, 0.5), (0.001, 0.999)):
        out = exchanged(model(), "sla", critical=critical, negligible=negligible)
        assert np.isfinite(result(out, tokens(count))).all()


def test_names_and_rules() -> None:
    """The first rule that takes a layer decides; softmax exempts it; facts say what became of which layer."""
    module = model(3)
    module.source = {"name": "m"}
    assert [layer.name for layer in attention_layers(module)] == [f"layer.{n}.attention" for n in range(3)]
    rules = [
        {"match": "layer.1.*", "form": "softmax"},
        {"match": "layer.0.attention:sdpa", "form": "window", "window": 4},
        {"form": "inline"},
    ]
    ExchangeAttention(read_recipe({"attention": rules})).run(module, Report())
    assert [node.op for node in module.main.nodes] == ["nn.attention", "nn.attention", "nn.inline_attention"]
    assert [(fact["name"], fact["form"]) for fact in module.source["exchanged"]] == [
        ("layer.0.attention", "window<window=4>"),
        ("layer.2.attention", "inline"),
    ]
    assert [node.attrs["window"] for node in module.main.nodes[:2]] == [4, 0]


def test_two_attentions_of_one_layer_have_names_of_their_own() -> None:
    g = Graph({})
    x = g.input("x", 1, 6, HEADS, SIZE)
    with g.b.at("block:sdpa"):
        x = g.b.nn.attention(x, x, x, scale=1.0, name="first")
        x = g.b.nn.attention(x, x, x, scale=1.0, name="second")
    layers = attention_layers(g.module(x))
    assert [layer.name for layer in layers] == ["first", "second"] and layers[0].names[1:] == ("block", "block:sdpa")


def test_paths_of_an_onnx_exporter_are_the_same_names() -> None:
    """The module of `/layer/layer.0/attention/MatMul`; two attentions of one module have the names of values."""
    g = Graph({})
    x = g.input("x", 1, 6, HEADS, SIZE)
    for loc in ("/layer/layer.0/attention/MatMul_1", "/layer/layer.1/MatMul", "/layer/layer.1/MatMul_1", "/MatMul"):
        with g.b.at(loc):
            x = g.b.nn.attention(x, x, x, scale=1.0)
    layers = attention_layers(g.module(x))
    values = [layer.node.result.name for layer in layers]
    assert [layer.name for layer in layers] == ["layer.0.attention", *values[1:]]
    assert layers[0].names[1:] == ("/layer/layer.0/attention/MatMul_1", values[0])
    assert layers[1].names[1:] == ("layer.1", "/layer/layer.1/MatMul")


def test_a_rule_that_matches_nothing() -> None:
    with pytest.raises(NomulError, match="NM458") as caught:
        exchanged(model(2), "inline", match="layer.0.attentoin")
    assert "near to it: layer.0.attention" in str(caught.value)
    g = Graph({})
    with pytest.raises(NomulError, match=r"no softmax attention matches '\*'[^?]*nomul why"):
        exchanged(g.module(g.b.ew.relu(g.input("x", 2))), "inline")


def mask(g: Graph) -> Value:
    return g.input("m", "S", "S", dtype="bool")


def relative(g: Graph) -> Value:
    return g.input("r", 1, Dim.of("S") * 2 - 1)


@pytest.mark.parametrize(
    ("form", "rules", "reason"),
    [
        ("linear", {"mask": mask}, "its mask bool[S, S]"),
        ("linear", {"relative": relative}, "its bias by distance"),
        ("linear", {"window": 5}, "its window of 5"),
        ("linear", {"causal": True, "block": 4}, "its blocks or prefix"),
        ("hamming", {"causal": True}, "that queries see earlier keys only"),
        ("inline", padding("boolean"), "its mask of keys"),
        ("sla", padding("lengths"), "the lengths of its sequences"),
        ("sla", {"softcap": 5.0}, "its limit of scores 5"),
    ],
)
def test_what_a_form_cannot_express(form: str, rules: dict[str, Any], reason: str) -> None:
    options = {"map": "elu"} if form == "linear" else {}
    with pytest.raises(NomulError, match="NM464") as caught:
        exchanged(model(2, **rules), form, **options)
    assert [problem.loc for problem in caught.value.problems] == [f"layer.{n}.attention:sdpa" for n in range(2)]
    assert all(reason in problem.message and "layer." in problem.message for problem in caught.value.problems)


@pytest.mark.parametrize(("form", "taken"), [("window", False), ("hamming", False), ("inline", True), ("linear", True)])
def test_keys_of_other_tokens(form: str, taken: bool) -> None:
    g = Graph({"S": (1, 9), "T": (1, 9)})
    q, k = g.input("q", 1, "S", HEADS, SIZE), g.input("k", 1, "T", HEADS, SIZE)
    module = g.module(g.b.nn.attention(q, k, k, scale=1.0))
    options = {"linear": {"map": "exp"}, "window": {"window": 3}}.get(form, {})
    if taken:
        shapes = [node.result.shape for node in exchanged(module, form, **options).main.nodes]
        assert shapes[-1] == q.shape
        return
    with pytest.raises(NomulError, match="keys of T other tokens than its S queries"):
        exchanged(module, form, **options)


@pytest.mark.parametrize(
    ("form", "options", "words"),
    [
        ("windw", {}, "no form 'windw' of attention (did you mean window?)"),
        ("window", {}, "needs the option window"),
        ("window", {"window": 0}, "window is a number above 0"),
        ("window", {"window": "4"}, "is of type int, not '4'"),
        ("window", {"size": 4}, "has no option 'size', but window"),
        ("linear", {}, "one of both"),
        ("linear", {"map": "gelu"}, "map is one of elu"),
        ("sla", {"critical": 0.0}, "are no shares of 1"),
        ("sla", {"block": 0}, "block is a number above 0"),
        ("softmax", {"scores": "i4"}, "scores is one of f32, bf16, i8"),
    ],
)
def test_wrong_words(form: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_form(form, options)
    assert words in str(caught.value)
    with pytest.raises(NomulError, match="NM009"):
        read_recipe({"attention": [{"form": form, **options}]})


def test_every_form_is_known_by_its_first_line() -> None:
    assert all((kind.__doc__ or "").splitlines()[0].endswith(".") for kind in all_forms().values())


def test_a_recipe_comes_too_late_behind_the_exchange() -> None:
    recipe = {"attention": [{"form": "inline"}]}
    in_time = lower(lower(model(), until="fuse"), until="exchange", recipe=recipe)
    assert "nn.inline_attention" in [node.op for node in in_time.main.nodes]
    with pytest.raises(NomulError, match="NM019"):
        lower(lower(model(), until="exchange"), recipe=recipe)


def test_byte_scores() -> None:
    """A rule of softmax attention that changes how scores are computed, and nothing else."""
    x, module = tokens(20), model(causal=True)
    out = exchanged(module, "softmax", scores="i8")
    (node,) = out.main.nodes
    assert node.op == "nn.attention" and node.attrs["scores"] == "i8" and node.attrs["causal"]
    error = np.abs(result(out, x) - result(module, x)).max()
    assert 0 < error < 0.05
    assert exchanged(module, "softmax").main.nodes[0].attrs == module.main.nodes[0].attrs
