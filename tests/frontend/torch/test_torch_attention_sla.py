"""Sparse-linear attention (SLA) as both releases define it becomes one op, and computes what torch does."""

from __future__ import annotations

import math
from typing import Any

import pytest
from test_torch_attention_forms import fused
from test_torch_attention_formulas import SIZE, WIDTH, Block, elu, heads_first, ops_of
from torch_models import same, torch

BLOCK, TOKENS = 64, 256


class SparseLinear(torch.nn.Module):  # type: ignore[misc, name-defined]
    """form: "second" release, the linear part over all keys; "weights", "tables" of the first, over marginal blocks;
    "less": the first by taking the critical blocks off the sums over all.
    hide: what other blocks' scores are filled with in front of a softmax; None: a mask of torch's own attention."""

    def __init__(self, form: str, negligible: int = 0, hide: float | None = None) -> None:
        super().__init__()
        self.form, self.negligible, self.hide = form, negligible, hide
        self.project = torch.nn.Linear(SIZE, SIZE)

    def forward(self, q: Any, k: Any, v: Any) -> Any:
        q, k, v = heads_first(q, k, v)
        smooth = k - k.mean(-2, keepdim=True) if self.form in ("second", "less") else k
        scores = pooled(q) @ pooled(smooth).transpose(-2, -1)
        if self.form in ("weights", "tables"):
            scores = (scores * SIZE**-0.5).softmax(-1)
        best = torch.zeros_like(scores, dtype=torch.int8).scatter_(-1, scores.topk(2, -1).indices, 1)
        seen = best.bool().repeat_interleave(BLOCK, -2).repeat_interleave(BLOCK, -1)
        if self.hide is None:
            sparse = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        else:
            sparse = (q @ k.transpose(-2, -1) * SIZE**-0.5).masked_fill(~seen, self.hide).softmax(-1) @ v
        far = 1 - best.float()
        if self.negligible:
            far = far.scatter(-1, scores.topk(self.negligible, -1, largest=False).indices, 0.0)
        return (sparse + self.project(self.linear(q, k, v, best.float(), far))).transpose(1, 2)

    def linear(self, q: Any, k: Any, v: Any, near: Any, far: Any) -> Any:
        if self.form == "second":
            q, k = q.softmax(-1), k.softmax(-1)
            return (q @ (k.transpose(-2, -1) @ v)) / (1e-5 + (q * k.sum(-2, keepdim=True)).sum(-1, keepdim=True))
        q, k = elu(q), elu(k)
        if self.form == "weights":
            weights = q @ k.transpose(-2, -1) * far.repeat_interleave(BLOCK, -2).repeat_interleave(BLOCK, -1)
            return weights / weights.sum(-1, keepdim=True) @ v
        q, k, v = (part.unflatten(2, (-1, BLOCK)) for part in (q, k, v))
        tables, totals = k.transpose(-2, -1) @ v, k.sum(3)
        chosen = far if self.form == "tables" else near
        sums = torch.einsum("bhij,bhjde->bhide", chosen, tables)
        divisors = torch.einsum("bhij,bhjd->bhid", chosen, totals)
        if self.form == "less":
            sums, divisors = tables.sum(2, keepdim=True) - sums, totals.sum(2, keepdim=True) - divisors
        return (q @ sums / (q @ divisors.unsqueeze(-1))).flatten(2, 3)


def pooled(x: Any) -> Any:
    return x.unflatten(2, (-1, BLOCK)).mean(3)


@pytest.mark.parametrize(("form", "negligible"), [("second", 0), ("weights", 1), ("tables", 0), ("less", 0)])
def test_sparse_linear(form: str, negligible: int) -> None:
    check(SparseLinear(form, negligible), form, negligible)


@pytest.mark.parametrize("hide", [-math.inf, -1e9, torch.finfo(torch.float32).min])
def test_hidden_blocks_of_scores(hide: float) -> None:
    check(SparseLinear("tables", hide=hide), "tables", 0)


def check(layer: SparseLinear, form: str, negligible: int) -> None:
    model, inputs = Block(layer).eval(), (torch.randn(2, TOKENS, WIDTH),)
    module = fused(model, inputs)
    assert ops_of(module) == ["nn.linear", "nn.sparse_linear_attention", "nn.linear"]
    (node,) = [node for node in module.main.nodes if node.op == "nn.sparse_linear_attention"]
    wanted = ("all", "softmax") if form == "second" else ("marginal", "elu")
    assert (node.attrs["rest"], node.attrs["map"]) == wanted
    assert (node.attrs["critical"], node.attrs["negligible"]) == (2, negligible)
    same(module, model, inputs, tolerance=1e-4)
