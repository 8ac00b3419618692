"""Attention operators in their forms against onnxruntime: each becomes one attention op."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx.reference
import pytest
from onnx_models import check, imported, model, normal, ops, reference

from nomul.ir.errors import NomulError
from nomul.ir.interpreter import run

Q, K, V = normal(2, 5, 8), normal(2, 7, 8, seed=1), normal(2, 7, 8, seed=2)
PAST = normal(2, 2, 3, 4, seed=4)
ANGLES = np.linspace(0, 3, 40, dtype=np.float32).reshape(20, 2)
COS, SIN = np.cos(ANGLES), np.sin(ANGLES)


@dataclass(frozen=True)
class Form:
    """call: the node.  results: names and types of other outputs than y."""

    call: str
    inputs: dict[str, np.ndarray]
    results: str = ""
    opset: int = 17
    weights: dict[str, np.ndarray] = field(default_factory=dict)


def types(arrays: dict[str, np.ndarray]) -> str:
    names = {"float32": "float", "int32": "int32", "int64": "int64", "bool": "bool"}
    return ", ".join(f"{names[str(a.dtype)]}[{', '.join(map(str, a.shape))}] {name}" for name, a in arrays.items())


QKV = {"q": Q, "k": K, "v": V}
HEADS = {name: x.reshape(*x.shape[:2], 2, 4).transpose(0, 2, 1, 3).copy() for name, x in QKV.items()}
SELF = {"q": Q, "k": normal(2, 5, 8, seed=6), "v": normal(2, 5, 8, seed=7)}
LENGTHS = np.array([7, 4], np.int32)
PADDING = np.array([[1] * 7, [1, 1, 1, 0, 1, 0, 0]], np.int32)
PASTS = {"pk": PAST, "pv": normal(2, 2, 3, 4, seed=5)}
MHA = "com.microsoft.MultiHeadAttention <num_heads = 2{}> "
GQA = "com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2{}> "
GROUPED = {"q": normal(1, 5, 64), "k": normal(1, 5, 32, seed=1), "v": normal(1, 5, 32, seed=2)}
GROUPED_PAST = {"pk": normal(1, 2, 3, 16), "pv": normal(1, 2, 3, 16, seed=5)}
PRESENT = ", float[] ok, float[] ov"


def counts(tokens: int, batch: int = 1) -> dict[str, np.ndarray]:
    return {"last": np.full(batch, tokens - 1, np.int32), "total": np.array(tokens, np.int32)}


FORMS = {
    "padding lengths": Form(MHA.format("") + "(q, k, v, , n)", QKV | {"n": LENGTHS}),
    "padding of keys": Form(MHA.format("") + "(q, k, v, , m)", QKV | {"m": PADDING}),
    "additive mask": Form(MHA.format("") + "(q, k, v, , , m)", QKV | {"m": normal(1, 2, 5, 7)}),
    "keys by heads": Form(MHA.format("") + "(q, k, v)", QKV | {"k": HEADS["k"], "v": HEADS["v"]}),
    "past": Form(MHA.format("") + "(q, k, v, , , , pk, pv)", SELF | PASTS, PRESENT),
    "past, causal": Form(MHA.format(", unidirectional = 1") + "(q, k, v, , , , pk, pv)", SELF | PASTS, PRESENT),
    "grouped": Form(GQA.format("") + "(q, k, v, , , last, total)", GROUPED | counts(5), PRESENT),
    "grouped, packed": Form(GQA.format("") + "(q, , , , , last, total)", {"q": normal(1, 5, 128)} | counts(5), PRESENT),
    "grouped, past": Form(
        GQA.format("") + "(q, k, v, pk, pv, last, total)", GROUPED | GROUPED_PAST | counts(8), PRESENT
    ),
    "grouped, window": Form(
        GQA.format(", local_window_size = 3, softcap = 2.0") + "(q, k, v, , , last, total)",
        GROUPED | counts(5),
        PRESENT,
    ),
    "grouped, rotary": Form(
        GQA.format(", do_rotary = 1") + "(q, k, v, pk, pv, last, total, cos, sin)",
        GROUPED | GROUPED_PAST | counts(8),
        PRESENT,
        weights={"cos": np.tile(COS, 4), "sin": np.tile(SIN, 4)},
    ),
    "standard, soft cap": Form("Attention <q_num_heads = 2, kv_num_heads = 2, softcap = 2.0> (q, k, v)", QKV, opset=23),
}


def built(form: Form):  # type: ignore[no-untyped-def]
    """Numbers without axes become weights: the text form has no inputs like that."""
    outputs = "y, ok, ov" if form.results else "y"
    scalars = {name: array for name, array in form.inputs.items() if not array.shape}
    text = f"g ({types(arrays_of(form))}) => (float[] y{form.results}) {{ {outputs} = {form.call} }}"
    return model(text, opset=form.opset, weights=form.weights | scalars)


def arrays_of(form: Form) -> dict[str, np.ndarray]:
    return {name: array for name, array in form.inputs.items() if array.shape}


@pytest.mark.parametrize("name", FORMS)
def test_form(name: str) -> None:
    form = FORMS[name]
    module = imported(built(form))
    assert ops(module).count("nn.attention") == 1 and "nn.softmax" not in ops(module)
    check(built(form), *arrays_of(form).values(), module=module, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("packed", [("k", "v"), ("q", "k", "v")])
def test_packed_operands(packed: tuple[str, ...]) -> None:
    """onnxruntime's processor kernel has no packed form, so that the separate one is the reference."""
    parts = np.stack([SELF[name].reshape(2, 5, 2, 4) for name in packed], axis=3)
    inputs = {"q": Q, "k": parts} if len(packed) == 2 else {"q": parts}
    module = imported(built(Form(f"{MHA.format('')}({', '.join(inputs)})", inputs)))
    (expected,) = reference(built(Form(MHA.format("") + "(q, k, v)", SELF)), list(SELF.values()))
    np.testing.assert_allclose(run(module, *inputs.values())[0], expected, 1e-4, 1e-5)


ROTARY = {"x": normal(2, 5, 8)}
POSITIONS = np.array([[0, 1, 2, 3, 4], [7, 6, 5, 4, 3]], np.int64)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("form", ["positions", "first", "standard", "heads"])
def test_rotary_positions(form: str, interleaved: int) -> None:
    """com.microsoft's with positions or the first one; the standard's, and one that turns only half of each head."""
    inputs = ROTARY | {"p": np.array([2], np.int64) if form == "first" else POSITIONS}
    call = f"com.microsoft.RotaryEmbedding <interleaved = {interleaved}> (x, p, cos, sin)"
    if form in ("standard", "heads"):
        call = f"RotaryEmbedding <interleaved = {interleaved}, num_heads = 2> (x, cos, sin, p)"
    if form == "heads":
        inputs["x"] = normal(2, 2, 5, 8)
        call = call.replace(", num_heads = 2", ", rotary_embedding_dim = 4")
    proto = built(Form(call, inputs, opset=23, weights={"cos": COS, "sin": SIN}))
    assert ops(imported(proto)).count("nn.rotary") == 1
    check(proto, *inputs.values())


def test_past_keys_of_several_sequences_are_refused() -> None:
    inputs = {name: normal(2, *x.shape[1:]) for name, x in (GROUPED | GROUPED_PAST).items()} | counts(8, 2)
    with pytest.raises(NomulError, match="may end at different places"):
        imported(built(Form(GQA.format("") + "(q, k, v, pk, pv, last, total)", inputs, PRESENT)))


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("window", [-1, 4])
@pytest.mark.parametrize("new", [1, 5])
def test_a_past_buffer_that_is_not_full(new: int, window: int, rotary: bool) -> None:
    """Past keys in the first six places of a buffer of sixteen, which runtimes share with the present ones."""
    held, buffer = 6, 16
    inputs = {name: np.ascontiguousarray(x[:, :new]) for name, x in GROUPED.items()}
    inputs |= {name: normal(1, 2, buffer, 16, seed=seed) for name, seed in (("pk", 8), ("pv", 9))} | counts(held + new)
    options = f", local_window_size = {window}, do_rotary = {int(rotary)}"
    call = GQA.format(options) + "(q, k, v, pk, pv, last, total" + (", cos, sin)" if rotary else ")")
    angles = {"cos": np.tile(COS, 4), "sin": np.tile(SIN, 4)} if rotary else {}
    proto = built(Form(call, inputs, PRESENT, weights=angles))
    given = [array for array in inputs.values() if array.shape]
    (expected, *_) = reference(proto, given)
    np.testing.assert_allclose(run(imported(proto), *given)[0], expected, 1e-4, 1e-5)


@pytest.mark.parametrize("rule", ["delta", "gated_delta"])
def test_the_delta_rule_with_states_and_any_number_of_tokens(rule: str) -> None:
    """Against onnx's own definition in numpy, which onnxruntime does not have yet."""
    decay = "d" if rule == "gated_delta" else ""
    text = f"""agraph (float[2, S, 16] q, float[2, S, 8] k, float[2, S, 6] v, float[2, 2, 4, 3] past, float[2, S, 2] d,
        float[2, S, 2] rate) => (float[2, S, 12] y, float[2, 2, 4, 3] present)
        {{ y, present = LinearAttention <q_num_heads = 4, kv_num_heads = 2, update_rule = "{rule}">
           (q, k, v, past, {decay}, rate) }}"""
    proto = model(text, opset=27)
    module = imported(proto, dims={"S": (1, 9)})
    assert ops(module).count("nn.delta_attention") == 1
    definition = onnx.reference.ReferenceEvaluator(proto)
    for tokens in (1, 5):
        inputs = {"q": normal(2, tokens, 16), "k": normal(2, tokens, 8, seed=1) / 3, "v": normal(2, tokens, 6, seed=2)}
        inputs |= {"past": normal(2, 2, 4, 3, seed=3), "d": -np.abs(normal(2, tokens, 2, seed=4))}
        inputs |= {"rate": np.abs(normal(2, tokens, 2, seed=5)) / 3}
        for got, wanted in zip(run(module, *inputs.values()), definition.run(None, inputs), strict=True):
            np.testing.assert_allclose(got, wanted, 1e-4, 1e-5)
