"""Combiner attention as a person writes it from its formula becomes one op, and computes what torch does."""

from __future__ import annotations

from typing import Any

import pytest
from test_torch_attention_forms import fused, told
from test_torch_attention_formulas import BATCH, SIZE, WIDTH, Block, ops_of
from torch_models import same, torch

SPAN, TOKENS = 3, 12
SCALE = SIZE**-0.5


class Fixed:
    """Near keys are those of the own segment, spans are the other segments. summary: of a segment's keys."""

    def __init__(self, causal: bool, summary: str = "amax") -> None:
        self.causal, self.summary = causal, summary

    def __call__(self, q: Any, k: Any, v: Any) -> Any:
        q, k, v = (x.transpose(1, 2).unflatten(2, (-1, SPAN)) for x in (q, k, v))
        inner = (torch.einsum("bhrd,bhrjd->bhrj", q.amax(3), k) * SCALE).softmax(-1)
        spans = torch.einsum("bhrj,bhrjd->bhrd", inner, v)
        near = torch.einsum("bhnid,bhnjd->bhnij", q, k) * SCALE
        far = torch.einsum("bhnid,bhrd->bhnir", q, getattr(k, self.summary)(3)) * SCALE
        other = ~torch.eye(q.shape[2], dtype=torch.bool)
        if self.causal:
            near = near.masked_fill(torch.ones(SPAN, SPAN, dtype=torch.bool).triu(1), float("-inf"))
            other = other.tril()
        weights = torch.cat([near, far.masked_fill(~other[:, None], float("-inf"))], -1).softmax(-1)
        y = torch.einsum("bhnij,bhnjd->bhnid", weights[..., :SPAN], v)
        y = y + torch.einsum("bhnir,bhrd->bhnid", weights[..., SPAN:], spans)
        return y.flatten(2, 3).transpose(1, 2)


def by_products(q: Any, k: Any, v: Any) -> Any:
    """The fixed pattern by matrix products, queries scaled before, spans first."""
    q, k, v = (x.transpose(1, 2).unflatten(2, (-1, SPAN)) for x in (q, k, v))
    spans = ((q.amax(3, keepdim=True) * SCALE) @ k.transpose(-2, -1)).softmax(-1) @ v
    q = q * SCALE
    near = q @ k.transpose(-2, -1)
    far = q @ k.amax(3).unsqueeze(2).transpose(-2, -1)
    far = far.masked_fill(torch.eye(q.shape[2], dtype=torch.bool)[:, None], float("-inf"))
    far_weights, near_weights = torch.cat([far, near], -1).softmax(-1).split([q.shape[2], SPAN], -1)
    return (far_weights @ spans.squeeze(3).unsqueeze(2) + near_weights @ v).flatten(2, 3).transpose(1, 2)


def axial(q: Any, k: Any, v: Any) -> Any:
    """Near keys are those of the own column and row, spans the other columns above."""
    q, k, v = (x.transpose(1, 2).unflatten(2, (-1, SPAN)) for x in (q, k, v))
    rows, infinite = q.shape[2], float("-inf")
    above = torch.ones(rows, rows, dtype=torch.bool).tril(-1)
    tops = [torch.where(above[..., None, None], x[:, :, None], -1e30).amax(3) for x in (k, q)]
    inner = torch.einsum("bhicd,bhjcd->bhicj", tops[1], k) * SCALE
    spans = torch.einsum("bhicj,bhjcd->bhicd", inner.masked_fill(~above[:, None], -1e30).softmax(-1), v)
    column = torch.einsum("bhicd,bhjcd->bhicj", q, k) * SCALE
    column = column.masked_fill(torch.ones(rows, rows, dtype=torch.bool).triu(1)[:, None], infinite)
    row = torch.einsum("bhicd,bhird->bhicr", q, k) * SCALE
    row = row.masked_fill(torch.ones(SPAN, SPAN, dtype=torch.bool).triu(), infinite)
    far = torch.einsum("bhicd,bhird->bhicr", q, tops[0]) * SCALE
    hidden = torch.eye(SPAN, dtype=torch.bool) | (torch.arange(rows) == 0)[:, None, None]
    weights = torch.cat([column, row, far.masked_fill(hidden, infinite)], -1).softmax(-1)
    y = torch.einsum("bhicj,bhjcd->bhicd", weights[..., :rows], v)
    y = y + torch.einsum("bhicr,bhird->bhicd", weights[..., rows : rows + SPAN], v)
    y = y + torch.einsum("bhicr,bhird->bhicd", weights[..., rows + SPAN :], spans)
    return y.flatten(2, 3).transpose(1, 2)


@pytest.mark.parametrize(
    ("formula", "pattern", "causal"),
    [
        (Fixed(False), "fixed", False),
        (Fixed(True), "fixed", True),
        (by_products, "fixed", False),
        (axial, "axial", True),
    ],
    ids=["fixed", "fixed_causal", "by_products", "axial"],
)
def test_combiner(formula: Any, pattern: str, causal: bool) -> None:
    model, inputs = Block(formula).eval(), (torch.randn(2, TOKENS, WIDTH),)
    module = fused(model, inputs, **BATCH)
    assert ops_of(module) == ["nn.linear", "nn.combiner_attention", "nn.linear"]
    (node,) = [node for node in module.main.nodes if node.op == "nn.combiner_attention"]
    assert (node.attrs["pattern"], node.attrs["causal"], node.attrs["segment"]) == (pattern, causal, SPAN)
    same(module, model, inputs, tolerance=1e-4)


def test_other_summaries_stay_and_are_told() -> None:
    model, inputs = Block(Fixed(False, "mean")).eval(), (torch.randn(2, TOKENS, WIDTH),)
    module = told(model, inputs, "combiner_formula", "Combiner's patterns")
    assert "nn.combiner_attention" not in ops_of(module)
