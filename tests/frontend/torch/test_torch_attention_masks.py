"""Attention whose scores are masked and laid out in whatever way becomes one op, and computes what torch does: also in
rows that see nothing, which take the mean of all values where the mask is finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from test_torch_attention_forms import fused
from test_torch_attention_formulas import SIZE, WIDTH, Block, heads_first, ops_of
from torch_models import same, torch

LOWEST = torch.finfo(torch.float32).min
ONE = ["nn.linear", "nn.attention", "nn.linear"]


def places(tokens: int) -> tuple[Any, Any]:
    return torch.arange(tokens)[:, None], torch.arange(tokens)


def causal(tokens: int) -> Any:
    return torch.ones(tokens, tokens, dtype=torch.bool).tril()


def window(tokens: int) -> Any:
    return causal(tokens).triu(-3)


def strict(tokens: int) -> Any:
    """The first query sees nothing."""
    query, key = places(tokens)
    return key < query


def filled(scores: Any, seen: Any, low: float) -> Any:
    return scores.masked_fill(~seen, low)


def added(scores: Any, seen: Any, low: float) -> Any:
    return scores + torch.zeros(seen.shape).masked_fill(~seen, low)


def chosen(scores: Any, seen: Any, low: float) -> Any:
    return torch.where(seen, scores, low)


class Masked(torch.nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self, write: Callable[..., Any], see: Callable[[int], Any], low: float) -> None:
        super().__init__()
        self.write, self.see, self.low = write, see, low

    def forward(self, q: Any, k: Any, v: Any) -> Any:
        q, k, v = heads_first(q, k, v)
        scores = self.write(q @ k.transpose(-2, -1) * SIZE**-0.5, self.see(q.shape[2]), self.low)
        return (scores.softmax(-1) @ v).transpose(1, 2)


def attention_of(layer: Any, tokens: int = 12, **options: Any) -> Any:
    """The one attention node of a block with the layer, whose results are torch's."""
    model, inputs = Block(layer).eval(), (torch.randn(2, tokens, WIDTH),)
    module = fused(model, inputs, **options)
    same(module, model, inputs, tolerance=1e-4)
    (node,) = [node for node in module.main.nodes if node.op == "nn.attention"]
    assert not [op for op in ops_of(module) if op in ("nn.softmax", "nn.matmul")]
    return node


@pytest.mark.parametrize("low", [-math.inf, -1e9, LOWEST])
@pytest.mark.parametrize("write", [filled, added, chosen])
def test_masks_by_places(write: Callable[..., Any], low: float) -> None:
    for see, width in ((causal, 0), (window, 4)):
        node = attention_of(Masked(write, see, low))
        assert (node.attrs["causal"], node.attrs["window"], node.operand(3)) == (True, width, None)


@pytest.mark.parametrize("low", [-1e9, LOWEST])
@pytest.mark.parametrize("write", [filled, added, chosen])
def test_rows_that_see_nothing_take_the_mean(write: Callable[..., Any], low: float) -> None:
    node = attention_of(Masked(write, strict, low))
    assert not node.attrs["causal"] and node.operand(3) is not None


class Crossed(torch.nn.Module):  # type: ignore[misc, name-defined]
    """More queries than keys, in a window: the last queries see no key."""

    def forward(self, q: Any, k: Any, v: Any) -> Any:
        query, key = places(q.shape[2])[0], torch.arange(k.shape[2])
        seen = (key <= query) & (key > query - 3)
        return (filled(q @ k.transpose(-2, -1), seen, -1e9)).softmax(-1) @ v


def test_queries_behind_the_last_key() -> None:
    model, inputs = Crossed(), tuple(torch.randn(2, 4, size, 8) for size in (12, 5, 5))
    module = fused(model, inputs)
    same(module, model, inputs, tolerance=1e-4)
    assert [node.attrs["window"] for node in module.main.nodes if node.op == "nn.attention"] == [0]


def by_heads(q: Any, k: Any, v: Any) -> Any:
    """Tokens in front of heads in the scores too."""
    weights = torch.einsum("bshd,bthd->bsht", q, k).mul(SIZE**-0.5).softmax(-1)
    return torch.einsum("bsht,bthe->bshe", weights, v)


def keys_first(q: Any, k: Any, v: Any) -> Any:
    """Softmax over the rows of transposed scores."""
    weights = torch.einsum("bthd,bshd->bhts", k, q * SIZE**-0.5).softmax(2)
    return torch.einsum("bhts,bthe->bshe", weights, v)


def limited(q: Any, k: Any, v: Any) -> Any:
    scores = torch.einsum("bshd,bthd->bhst", q, k) * SIZE**-0.5
    return torch.einsum("bhst,bthe->bshe", (torch.tanh(scores / 5.0) * 5.0).softmax(-1), v)


def biased(q: Any, k: Any, v: Any) -> Any:
    """Every head its own slope, and what is hidden besides."""
    query, key = places(q.shape[1])
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625])
    scores = torch.einsum("bshd,bthd->bhst", q, k) * SIZE**-0.5
    scores = scores - slopes[:, None, None] * (query - key).abs()
    return torch.einsum("bhst,bthe->bshe", scores.masked_fill(key > query, -1e9).softmax(-1), v)


def in_chunks(q: Any, k: Any, v: Any) -> Any:
    """Chunks of four tokens that see themselves and the chunk before (the first one zeros)."""
    q, k, v = (part.unflatten(1, (-1, 4)) for part in (q, k, v))
    k, v = (torch.cat([torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1), x], 2) for x in (k, v))
    weights = torch.einsum("bcshd,bcthd->bchst", q, k).softmax(-1)
    return torch.einsum("bchst,bcthe->bcshe", weights, v).flatten(1, 2)


@pytest.mark.parametrize("formula", [by_heads, keys_first, limited, biased, in_chunks])
def test_layouts(formula: Callable[..., Any]) -> None:
    node = attention_of(formula)
    assert node.attrs["softcap"] == (5.0 if formula is limited else 0.0)
    assert node.attrs["causal"] == (formula is biased)


def test_layouts_of_any_size() -> None:
    node = attention_of(by_heads, dynamic_shapes=[{0: "B", 1: "S"}], dims={"B": (1, 4), "S": (1, 64)})
    assert str(node.result.type) == "f32[B, S, 4, 8]"
