"""Calibrated attention (ACT) as a person writes it from its formula becomes one op, and computes what torch does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from test_torch_attention_forms import fused, told
from test_torch_attention_formulas import SIZE, WIDTH, Block, heads_first, ops_of
from torch_models import same, torch

DYNAMIC: dict[str, Any] = {"dynamic_shapes": ({0: "B", 1: "S"},), "dims": {"B": (1, 4), "S": (3, 64)}}
THRESHOLD, BETA = 0.1, 0.4
Change = Callable[[Any, Any], Any]  # of weights [B, H, S, S] and what queries see [S, S]


class Calibrated:
    def __init__(self, change: Change, causal: bool = True) -> None:
        self.change, self.causal = change, causal

    def __call__(self, q: Any, k: Any, v: Any) -> Any:
        q, k, v = heads_first(q, k, v)
        seen = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool)
        seen = seen.tril() if self.causal else seen
        scores = q @ k.transpose(-2, -1) * SIZE**-0.5
        weights = (scores.masked_fill(~seen, float("-inf")) if self.causal else scores).softmax(-1)
        return (self.change(weights, seen) @ v).transpose(1, 2)


def counted(weights: Any, seen: Any) -> Any:
    """Sinks by running sums, what they lose by a difference, the first query by a concatenation, heads by a mask."""
    large = weights.sum(2) / seen.sum(0) > THRESHOLD
    sinks = (large & (large.cumsum(-1) > 1)).unsqueeze(2)
    calm, others = torch.where(sinks, BETA * weights, 0.0), weights.masked_fill(sinks, 0)
    freed = (weights - calm - others).sum(-1, keepdim=True)
    changed = calm + others + others * freed / others.sum(-1, keepdim=True)
    changed = torch.cat([weights[:, :, :1], changed[:, :, 1:]], 2)
    return torch.where(torch.tensor([True, False, True, True])[:, None, None], changed, weights)


def assigned(weights: Any, seen: Any) -> Any:
    """The first sink by argmax, sinks as numbers, the first query and heads by assignment."""
    large = weights.sum(2, keepdim=True) / torch.arange(weights.shape[2], 0, -1) > THRESHOLD
    is_sink = large.scatter(-1, large.int().argmax(-1, keepdim=True), False).to(weights.dtype)
    freed = (1 - BETA) * (weights * is_sink).sum(-1, keepdim=True)
    others = weights * (1 - is_sink)
    changed = weights * is_sink * BETA + others + others * freed / others.sum(-1, keepdim=True)
    changed[:, :, 0] = weights[:, :, 0]
    result = weights.clone()
    result[:, [0, 2, 3]] = changed[:, [0, 2, 3]]
    return result


def scaled(weights: Any, seen: Any) -> Any:
    """A factor for each weight."""
    large = weights.sum(2, keepdim=True) / seen.sum(0) >= THRESHOLD
    sinks = large & (large.int().cumsum(-1) >= 2)
    gone = torch.where(sinks, weights, 0).sum(-1, keepdim=True)
    factor = torch.where(sinks, BETA, 1 + (1 - BETA) * gone / (1 - gone))
    places = torch.arange(weights.shape[2])[:, None]
    return torch.where((places > 0) & torch.tensor([1, 0, 1, 1]).bool()[:, None, None], weights * factor, weights)


def first_too(weights: Any, seen: Any) -> Any:
    sinks = weights.sum(2, keepdim=True) / seen.sum(0) > THRESHOLD
    others = weights.masked_fill(sinks, 0)
    calm = torch.where(sinks, BETA * weights, 0.0)
    changed = calm + others * (1 - calm.sum(-1, keepdim=True)) / others.sum(-1, keepdim=True).clamp(min=1e-9)
    return torch.cat([weights[:, :, :1], changed[:, :, 1:]], 2)


CASES: list[tuple[Change, bool, dict[str, Any]]] = [
    (counted, True, {}),
    (assigned, True, DYNAMIC),
    (scaled, False, DYNAMIC),
]


@pytest.mark.parametrize(("change", "causal", "options"), CASES, ids=["counted", "assigned", "scaled"])
def test_calibrated(change: Change, causal: bool, options: dict[str, Any]) -> None:
    model, inputs = Block(Calibrated(change, causal)).eval(), (torch.randn(2, 11, WIDTH),)
    module = fused(model, inputs, **options)
    assert ops_of(module) == ["nn.linear", "nn.calibrated_attention", "nn.linear"]
    (node,) = [node for node in module.main.nodes if node.op == "nn.calibrated_attention"]
    told = {"causal": causal, "threshold": THRESHOLD, "beta": BETA, "heads": (0, 2, 3)}
    assert {name: node.attrs[name] for name in told} == told
    same(module, model, inputs, tolerance=1e-4)


@pytest.mark.parametrize(
    ("change", "causal", "reason"),
    [(first_too, True, "the first sink loses weight"), (assigned, False, "mean over queries that see them")],
    ids=["first", "counts"],
)
def test_other_changes_stay_and_are_told(change: Change, causal: bool, reason: str) -> None:
    model, inputs = Block(Calibrated(change, causal)).eval(), (torch.randn(2, 11, WIDTH),)
    module = told(model, inputs, "calibration_formula", reason)
    assert "nn.calibrated_attention" not in ops_of(module)
