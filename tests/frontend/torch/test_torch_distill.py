"""Maps for linear attention that are learned from softmax attention, and a model compiled with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch_models import torch

import nomul
from nomul.api import lower
from nomul.frontend.torch.qat.distill import Sample, distil_layer, features
from nomul.ir import interpreter
from nomul.ir.attention import products, softmax
from nomul.ir.errors import NomulError
from nomul.ir.ops.attention_linear import hedgehog_map

HEADS, SIZE = 4, 8
WIDTH = HEADS * SIZE


class Attention(torch.nn.Module):  # type: ignore[misc, name-defined]
    """maps: of queries and keys, for Hedgehog's formula in place of softmax; they take queries before any scale."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.qkv, self.out = torch.nn.Linear(WIDTH, 3 * WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        self.causal, self.maps = causal, ()

    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, HEADS, SIZE).unbind(2)
        if not self.maps:
            q, k, v = (part.transpose(1, 2) for part in (q, k, v))
            y = torch.nn.functional.scaled_dot_product_attention(q * 3, k, v, is_causal=self.causal).transpose(1, 2)
        else:
            q, k = (features(part, weights, "softmax") for part, weights in zip((q, k), self.maps, strict=True))
            weights = torch.einsum("bshf,bthf->bhst", q, k)
            weights = weights.tril() if self.causal else weights
            y = torch.einsum("bhst,bthe->bshe", weights / weights.sum(-1, keepdim=True), v)
        return self.out(y.reshape(x.shape))


class Model(torch.nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([Attention(causal), Attention(causal)])

    def forward(self, x: Any) -> Any:
        for block in self.blocks:
            x = torch.nn.functional.layer_norm(x + block(x), (WIDTH,))
        return x


def data(count: int = 4) -> list[np.ndarray]:
    generator = np.random.default_rng(2)
    return [generator.standard_normal((2, 24, WIDTH)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("causal", [False, True])
def test_distilled_maps_are_nearer_to_softmax(causal: bool, tmp_path: Path) -> None:
    """And the compiled library computes Hedgehog's formula with them, as PyTorch does."""
    torch.manual_seed(0)
    model, batches = Model(causal).eval(), data()
    example, path = (torch.from_numpy(batches[0]),), tmp_path / "maps.safetensors"
    found = nomul.qat.distill_attention(model, batches, example, output=path, steps=150)
    assert list(found) == ["blocks.0", "blocks.1"]
    assert all(maps.after < 0.7 * maps.before for maps in found.values())

    recipe = {"attention": [{"form": "linear", "maps": str(path)}]}
    exchanged = lower(model, example, until="exchange", recipe=recipe)
    assert [node.op for node in exchanged.main.nodes].count("nn.hedgehog_map") == 4
    plain = model(*example).detach().numpy()
    for block, maps in zip(model.blocks, found.values(), strict=True):
        block.maps = (torch.from_numpy(maps.q), torch.from_numpy(maps.k))
    wanted = model(*example).detach().numpy()
    np.testing.assert_allclose(interpreter.run(exchanged, batches[0])[0], wanted, atol=1e-4)
    for block in model.blocks:
        block.maps = ()
    artifact = nomul.compile(model, example, recipe=recipe)
    np.testing.assert_allclose(artifact(batches[0])[0], wanted, atol=1e-4)

    identity = torch.eye(SIZE).repeat(HEADS, 1, 1)
    for block in model.blocks:
        block.maps = (identity, identity)
    untrained = model(*example).detach().numpy()
    assert np.square(wanted - plain).sum() < 0.8 * np.square(untrained - plain).sum()


@pytest.mark.parametrize("form", ["softmax", "exp"])
def test_features_are_those_of_the_op(form: str) -> None:
    generator = np.random.default_rng(3)
    x, w = (generator.standard_normal(shape).astype(np.float32) for shape in ((2, 5, 4, 8), (4, 8, 6)))
    given = features(torch.from_numpy(x), torch.from_numpy(w), form).numpy()
    np.testing.assert_allclose(given, hedgehog_map.function(x, w, form=form), atol=1e-6)


def test_grouped_heads_and_hidden_keys() -> None:
    generator = np.random.default_rng(4)
    q, k = (generator.standard_normal((1, 12, heads, 8)).astype(np.float32) for heads in (4, 2))
    seen = np.arange(12) < 7
    weights = softmax(np.where(seen, products(q, k, 1.0), -np.inf).astype(np.float32))
    maps = distil_layer([Sample(q, k, weights)], "exp", 60, 0.02)
    assert maps.q.shape == (4, 8, 8) and maps.k.shape == (2, 8, 8)
    assert 0 < maps.after < maps.before


def test_what_cannot_be_distilled(tmp_path: Path) -> None:
    model, batches = Model().eval(), data(1)
    example, path = (torch.from_numpy(batches[0]),), tmp_path / "maps.safetensors"
    with pytest.raises(NomulError, match="NM458"):
        nomul.qat.distill_attention(model, batches, example, output=path, match="block.0")
    with pytest.raises(NomulError, match="NM465"):
        nomul.qat.distill_attention(model, batches, example, output=tmp_path / "none" / "m.safetensors", steps=1)
    with pytest.raises(NomulError, match="NM009") as caught:
        nomul.qat.distill_attention(model, batches, example, output=path, form="elu", steps=0, rate=-1.0)
    assert len(caught.value.problems) == 3
    with pytest.raises(NomulError, match=r"NM009.*not exchanged for training"):
        nomul.qat.prepare(model, {"attention": [{"form": "inline"}]})
