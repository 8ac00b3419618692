"""Small transformers models with random weights: import and give torch's results, for several sizes."""

from __future__ import annotations

from typing import Any

import pytest
from torch_models import check, imported, ops, torch

from nomul.ir.graph import Module

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT: dict[str, Any] = SMALL | {"vocab_size": 100}
GPT2: dict[str, Any] = {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "vocab_size": 100,
    "n_positions": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
T5: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 100}
TOKENS = {0: "B", 1: "S"}
DIMS = {"B": (1, 4), "S": (1, 64)}


def build(kind: str, config: dict[str, Any], attention: str | None = None) -> Any:
    """A model in evaluation mode with weights that depend on nothing but the configuration."""
    torch.manual_seed(0)
    family = kind.removesuffix("Encoder")
    options = {"attn_implementation": attention} if attention else {}
    settings = getattr(transformers, f"{family}Config")(**config, **options)
    return getattr(transformers, f"{kind}Model")(settings).eval()


def text(batch: int, length: int, mask: bool = True, cache: bool = True) -> dict[str, Any]:
    """Token ids, with a mask whose rows end at different places; use_cache=False for models that have it."""
    inputs: dict[str, Any] = {"input_ids": torch.randint(0, 100, (batch, length))}
    if mask:
        inputs["attention_mask"] = (torch.arange(length) < length - torch.arange(batch)[:, None]).long()
    return inputs if cache else inputs | {"use_cache": False}


def check_text(model: Any, mask: bool, cache: bool) -> Module:
    names = ("input_ids", "attention_mask") if mask else ("input_ids",)
    examples = [text(*size, mask, cache) for size in ((2, 9), (1, 5), (3, 20))]
    return check(model, *examples, dynamic_shapes=dict.fromkeys(names, TOKENS), dims=DIMS)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bert(attention: str) -> None:
    module = check_text(build("Bert", TEXT, attention), mask=True, cache=True)
    assert module.dims == DIMS
    assert ops(module)["index.gather"] == 1  # positions and token types are slices of their tables


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_gpt2(attention: str) -> None:
    check_text(build("GPT2", GPT2, attention), mask=False, cache=False)


def test_gpt2_with_mask() -> None:
    check_text(build("GPT2", GPT2), mask=True, cache=False)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("mask", [False, True])
def test_llama_with_grouped_heads(attention: str, mask: bool) -> None:
    config = TEXT | {"num_key_value_heads": 2, "max_position_embeddings": 128}
    module = check_text(build("Llama", config, attention), mask, cache=False)
    attentions = [node for node in module.main.nodes if node.op == "nn.attention"]
    assert len(attentions) == (2 if attention == "sdpa" else 0)
    for node in attentions:  # the mask of a decoder is known by formula; only the padding remains a tensor
        assert node.attrs["causal"]
        assert (len(node.args) == 4) == mask


def test_t5_encoder() -> None:
    check_text(build("T5Encoder", T5), mask=True, cache=True)


def test_t5_decoder_with_cross_attention() -> None:
    model = build("T5", T5)

    def inputs(batch: int, source: int, target: int) -> dict[str, Any]:
        decoder = {"decoder_input_ids": torch.randint(0, 100, (batch, target)), "use_cache": False}
        return text(batch, source) | decoder

    shapes = {"input_ids": TOKENS, "attention_mask": TOKENS, "decoder_input_ids": {0: "B", 1: "T"}}
    module = check(model, inputs(2, 9, 5), inputs(1, 6, 11), dynamic_shapes=shapes, dims=DIMS | {"T": (1, 32)})
    assert [value.name for value in module.main.returns] == ["last_hidden_state", "encoder_last_hidden_state"]


IMAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViT", SMALL | {"image_size": 32, "patch_size": 8}),
    "swin": ("Swin", {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]}),
    "resnet": ("ResNet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2]}),
    "mobilenet": ("MobileNetV2", {"image_size": 32, "depth_multiplier": 0.25}),
    "convnext": ("ConvNext", {"hidden_sizes": [8, 16, 32], "depths": [1, 1, 1], "num_stages": 3, "image_size": 32}),
}


@pytest.mark.parametrize("name", IMAGES)
def test_image_model(name: str) -> None:
    kind, config = IMAGES[name]
    if name == "swin":
        config = config | {"window_size": 4}
    images = [{"pixel_values": torch.randn(batch, 3, 32, 32)} for batch in (2, 1)]
    check(build(kind, config), *images, dynamic_shapes={"pixel_values": {0: "B"}}, dims={"B": (1, 8)})


def test_resnet_takes_any_image_size() -> None:
    model = build("ResNet", IMAGES["resnet"][1])
    shapes = {"pixel_values": {0: "B", 2: "H", 3: "W"}}
    images = [{"pixel_values": torch.randn(b, 3, h, w)} for b, h, w in ((2, 32, 48), (1, 64, 40))]
    check(model, *images, dynamic_shapes=shapes, dims={"B": (1, 8), "H": (32, 128), "W": (32, 128)})


def test_parameters_keep_their_names() -> None:
    module = imported(build("Bert", TEXT), text(2, 9))
    names = set(module.weights)
    assert {"embeddings.word_embeddings.weight", "encoder.layer.1.attention.self.query.weight"} <= names
    locs = {node.loc for node in module.main.nodes if node.op == "nn.linear"}
    assert "encoder.layer.1.attention.self.query:linear" in locs
