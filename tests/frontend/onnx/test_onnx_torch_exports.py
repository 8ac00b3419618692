"""transformers models that PyTorch exports to ONNX, with dynamic batch and length, against onnxruntime."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import check, imported, ops

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT: dict[str, Any] = SMALL | {"vocab_size": 100}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", TEXT),
    "llama": ("Llama", TEXT | {"num_key_value_heads": 2, "use_cache": False}),
    "gpt2": (
        "GPT2",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100, "n_positions": 64, "use_cache": False}
        | {"bos_token_id": 0, "eos_token_id": 0},
    ),
    "t5": ("T5", {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 100}),
    "vit": ("ViT", SMALL | {"image_size": 32, "patch_size": 8}),
    "swin": ("Swin", {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]}),
    "convnext": ("ConvNext", {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "image_size": 32}),
    "resnet": ("ResNet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}),
    "mobilenet": ("MobileNetV2", {"image_size": 32, "depth_multiplier": 0.25}),
}
IMAGES = ("vit", "swin", "convnext", "resnet", "mobilenet")
QUICK = [("bert", 14, "sdpa"), ("llama", 20, "sdpa")]
SLOW = [(name, 17, "") for name in MODELS] + [("bert", 11, "eager"), ("gpt2", 13, "eager"), ("llama", 14, "eager")]


class First(torch.nn.Module):
    """The first output of a model, its inputs by position."""

    def __init__(self, inner: Any, names: list[str]) -> None:
        super().__init__()
        self.m = inner
        self.names = names

    def forward(self, *tensors: Any) -> Any:
        return self.m(**dict(zip(self.names, tensors, strict=True)))[0]


def inputs(name: str, batch: int, length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(length)
    if name in IMAGES:
        return {"pixel_values": rng.standard_normal((batch, 3, 32, 32)).astype(np.float32)}
    mask = np.ones((batch, length), np.int64)
    mask[1:, length - 2 :] = 0
    return {"input_ids": rng.integers(1, 100, (batch, length)), "attention_mask": mask}


def exported(name: str, opset: int, attention: str, path: Path) -> onnx.ModelProto:
    kind, options = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        **options, **({"attn_implementation": attention} if attention else {})
    )
    model = getattr(transformers, "T5EncoderModel" if kind == "T5" else f"{kind}Model")(config).eval()
    example = {key: torch.from_numpy(array) for key, array in inputs(name, 2, 7).items()}
    axes = {0: "batch"} if name in IMAGES else {0: "batch", 1: "length"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            First(model, list(example)),
            tuple(example.values()),
            path,
            input_names=list(example),
            dynamic_axes=dict.fromkeys(example, axes),
            opset_version=opset,
            dynamo=False,
        )
    return onnx.load(path)


def run(name: str, opset: int, attention: str, folder: Path) -> None:
    proto = exported(name, opset, attention, folder / "model.onnx")
    module = imported(proto)
    assert not {"make.size", "reduce.prod", "index.gather_nd"} & set(ops(module)), "sizes at run time"
    assert ops(module).count("index.gather") <= 2
    for batch, length in ((2, 7), (3, 12)):
        check(proto, *inputs(name, batch, length).values(), module=module, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "opset", "attention"), QUICK)
def test_export(name: str, opset: int, attention: str, tmp_path: Path) -> None:
    run(name, opset, attention, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "opset", "attention"), SLOW)
def test_more_exports(name: str, opset: int, attention: str, tmp_path: Path) -> None:
    run(name, opset, attention, tmp_path)
