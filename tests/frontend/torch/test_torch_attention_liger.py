"""Liger attention as its authors write it becomes one op, and computes what torch does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from test_torch_attention_forms import fused, told
from test_torch_attention_formulas import DYNAMIC, HEADS, SIZE, WIDTH, ops_of
from torch_models import same, torch

WINDOW = 4
Gates = Callable[[Any], Any]


CASES: list[tuple[int, str, dict[str, Any]]] = [
    (1, "sdpa", {}),
    (2, "sdpa", DYNAMIC),
    (2, "eager", {}),
    (HEADS, "eager", DYNAMIC),
    (HEADS, "both", {}),
]


def logsigmoid(k: Any) -> Any:
    return torch.nn.functional.logsigmoid(k) / 16


def pooled(k: Any) -> Any:
    """Gates from neighbouring keys' means, as the authors' pooling layer makes them."""
    means = torch.nn.functional.avg_pool1d(k.flatten(0, 2), 3, stride=1, padding=1, count_include_pad=False)
    return logsigmoid(means.reshape(k.shape))


class Liger(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A layer of a Llama whose softmax attention became half a window of it and half gated linear attention."""

    def __init__(
        self, groups: int = 2, form: str = "sdpa", gates: Gates = logsigmoid, shares: Any = (0.5, 0.5)
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.groups, self.form, self.gates, self.shares = groups, form, gates, shares
        self.q, self.out = (torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.k, self.v = (torch.nn.Linear(WIDTH, groups * SIZE, bias=False) for _ in range(2))

    def forward(self, x: Any) -> Any:
        q, k, v = (layer(x).unflatten(-1, (-1, SIZE)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        turned = [rotated(part) for part in (q, k)]
        k, v, near_k, gates = (
            part.repeat_interleave(HEADS // self.groups, 1) for part in (k, v, turned[1], self.gates(k))
        )
        near, far = self.softmax(turned[0], near_k, v), gated(q, k, v, gates)
        y = (near + far) * 0.5 if self.form == "both" else self.shares[0] * near + self.shares[1] * far
        return self.out(y.transpose(1, 2).reshape(x.shape))

    def softmax(self, q: Any, k: Any, v: Any) -> Any:
        places = torch.arange(q.shape[2])
        apart = places[:, None] - places
        seen = (apart >= 0) & (apart < WINDOW)
        if self.form == "sdpa":
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        scores = (q @ k.transpose(-2, -1) * SIZE**-0.5).masked_fill(~seen, float("-inf"))
        return scores.softmax(-1) @ v


def rotated(x: Any) -> Any:
    angles = torch.outer(torch.arange(x.shape[2]).float(), 10000.0 ** -(torch.arange(0, SIZE, 2) / SIZE)).repeat(1, 2)
    first, second = x.chunk(2, -1)
    return x * angles.cos() + torch.cat((-second, first), -1) * angles.sin()


def gated(q: Any, k: Any, v: Any, gates: Any) -> Any:
    """The parallel form."""
    sums = gates.cumsum(2)
    weights = (q.softmax(-1) * sums.exp()) @ (k.softmax(-1) * (-sums).exp()).transpose(-2, -1)
    return weights.tril() @ v


@pytest.mark.parametrize(("groups", "form", "options"), CASES, ids=str)
def test_liger(groups: int, form: str, options: dict[str, Any]) -> None:
    model, inputs = Liger(groups, form).eval(), (torch.randn(2, 11, WIDTH),)
    module = fused(model, inputs, **options)
    (node,) = [node for node in module.main.nodes if node.op == "nn.liger_attention"]
    assert node.attrs["window"] == WINDOW and node.args[1] is not None and int(node.args[1].shape[2]) == groups
    left = {"nn.matmul", "nn.softmax", "nn.attention", "nn.linear_attention", "reduce.cumsum", "ew.exp"}
    assert not left & set(ops_of(module))
    same(module, model, inputs, tolerance=1e-4)


def test_other_gates() -> None:
    model, inputs = Liger(gates=pooled).eval(), (torch.randn(2, 11, WIDTH),)
    module = fused(model, inputs)
    assert ops_of(module).count("nn.liger_attention") == 1
    same(module, model, inputs, tolerance=1e-4)


def test_other_shares_stay_two_ops_and_are_told() -> None:
    model, inputs = Liger(shares=(0.75, 0.25)).eval(), (torch.randn(2, 11, WIDTH),)
    module = told(model, inputs, "liger_formula", "0.75 and 0.25")
    assert {"nn.attention", "nn.linear_attention"} < set(ops_of(module))
