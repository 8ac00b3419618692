"""Attention as common models write it becomes one op for each layer, and computes what torch does."""

from __future__ import annotations

from typing import Any

import pytest
from test_torch_transformers import DIMS, GPT2, T5, TEXT, TOKENS, build, text
from torch_models import imported, same, torch

from nomul.ir.graph import Module
from nomul.passes.runner import PassRunner
from nomul.phases import phases

GROUPED = TEXT | {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "sliding_window": 8}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
LATENT = TEXT | {  # DeepSeek's attention with latent keys and values; no layer has experts
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "first_k_dense_replace": 2, "head_dim": 4, "num_key_value_heads": 4,
}  # fmt: skip
WHISPER = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 100, "num_mel_bins": 8, "max_source_positions": 16,
    "max_target_positions": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", TEXT),
    "gpt2": ("GPT2", GPT2),
    "llama": ("Llama", TEXT | {"num_key_value_heads": 2}),
    "mistral": ("Mistral", GROUPED),
    "gemma2": ("Gemma2", GROUPED),
    "t5": ("T5Encoder", T5),
    "swin": ("Swin", SWIN),
    "qwen3": ("Qwen3", GROUPED | {"sliding_window": None}),
    "phi": ("Phi", TEXT | {"max_position_embeddings": 128}),
    "deepseek_v2": ("DeepseekV2", LATENT),
    "deepseek_v3": ("DeepseekV3", LATENT),
    "vit": ("ViT", VIT | {"image_size": 32, "patch_size": 8}),
}
LAYERS = {"swin": 4}
WITHOUT_FORM = {("gemma2", "sdpa"): "transformers has no such form of Gemma 2"}
IMAGES = ("swin", "vit")
WITHOUT_CACHE = ("gpt2", "llama", "mistral", "gemma2", "qwen3", "phi", "deepseek_v2", "deepseek_v3")


def fused(model: Any, inputs: Any, **options: Any) -> Module:
    """After the phases that recognise ops."""
    return PassRunner().run(imported(model, inputs, **options), phases()[:2])


def told(model: Any, inputs: Any, rule: str, reason: str) -> Module:
    """The module behind the phase `fuse`, which computes what the model does; the rule told of the reason."""
    runner = PassRunner()
    module = runner.run(imported(model, inputs), phases()[:2])
    reasons = [miss.reason for miss in runner.misses if miss.rule == rule]
    assert any(reason in text for text in reasons), reasons
    same(module, model, inputs, tolerance=1e-4)
    return module


def attentions(module: Module) -> list[Any]:
    assert not [node for node in module.main.nodes if node.op in ("nn.softmax", "nn.matmul")]
    return [node for node in module.main.nodes if node.op == "nn.attention"]


@pytest.mark.parametrize("form", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_every_layer_has_one_attention(name: str, form: str) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    if (name, form) in WITHOUT_FORM:
        pytest.skip(WITHOUT_FORM[name, form])
    kind, config = MODELS[name]
    model = build(kind, config, form)
    if name in IMAGES:
        inputs: Any = {"pixel_values": torch.randn(2, 3, 32, 32)}
        module = fused(model, inputs, dynamic_shapes={"pixel_values": {0: "B"}}, dims={"B": (1, 8)})
    else:
        inputs = text(2, 12, mask=name != "gpt2", cache=name not in WITHOUT_CACHE)
        shapes = dict.fromkeys([key for key in inputs if key != "use_cache"], TOKENS)
        module = fused(model, inputs, dynamic_shapes=shapes, dims=DIMS)
    found = attentions(module)
    assert len(found) == LAYERS.get(name, 2)
    same(module, model, inputs, tolerance=1e-4)
    if name == "gemma2":
        assert {node.attrs["softcap"] for node in found} == {50.0}
    if (name, form) == ("mistral", "sdpa"):
        assert all(node.attrs["causal"] and node.attrs["window"] == 8 for node in found)
    if name == "t5":
        assert {str(node.args[4].type) for node in found} == {"f32[4, 2*S - 1]"}


@pytest.mark.parametrize("form", ["sdpa", "eager"])
def test_encoder_decoder_and_cross_attention_of_whisper(form: str) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    model = build("Whisper", WHISPER, form)
    decoder = {"decoder_input_ids": torch.randint(0, 100, (2, 6)), "use_cache": False}
    inputs = {"input_features": torch.randn(2, 8, 32)} | decoder
    shapes = {"input_features": {0: "B"}, "decoder_input_ids": TOKENS}
    module = fused(model, inputs, dynamic_shapes=shapes, dims=DIMS)
    assert len(attentions(module)) == 3
    same(module, model, inputs, tolerance=1e-4)


class SelfAttention(torch.nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(32, 4, batch_first=True)
        self.need_weights = need_weights

    def forward(self, x: Any) -> Any:
        return self.attention(x, x, x, need_weights=self.need_weights)[0]


@pytest.mark.parametrize("need_weights", [False, True])
def test_multi_head_attention(need_weights: bool) -> None:
    """With weights asked for and thrown away, torch writes products and a softmax."""
    model, inputs = SelfAttention(need_weights).eval(), (torch.randn(2, 10, 32),)
    module = fused(model, inputs, dynamic_shapes=({0: "B", 1: "S"},), dims={"B": (1, 4), "S": (1, 64)})
    assert len(attentions(module)) == 1
    same(module, model, inputs)


class CrossCovariance(torch.nn.Module):  # type: ignore[misc, name-defined]
    """XCiT's attention, from its formula."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = torch.nn.Parameter(torch.rand(4, 1, 1) + 0.5)
        self.qkv, self.proj = torch.nn.Linear(32, 96), torch.nn.Linear(32, 32)

    def forward(self, x: Any) -> Any:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, 4, 8).permute(2, 0, 3, 4, 1)
        unit = torch.nn.functional.normalize
        weights = (unit(q, dim=-1) @ unit(k, dim=-1).transpose(-2, -1) * self.temperature).softmax(dim=-1)
        return self.proj((weights @ v).permute(0, 3, 1, 2).reshape(batch, tokens, width))


def test_attention_over_channels() -> None:
    torch.manual_seed(0)
    model, inputs = CrossCovariance().eval(), (torch.randn(2, 10, 32),)
    module = fused(model, inputs, dynamic_shapes=({0: "B", 1: "S"},), dims={"B": (1, 4), "S": (1, 64)})
    assert [node.op for node in module.main.nodes].count("nn.cross_covariance_attention") == 1
    assert not attentions(module)
    same(module, model, inputs)
