"""Latent attention in its absorbed form, as its authors and servers of it write it, becomes one op."""

from __future__ import annotations

import math
from typing import Any

import pytest
from test_torch_attention_forms import fused, told
from torch_models import same, torch

HEADS, NOPE, ROPE, VALUE, RANK, WIDTH = 4, 8, 4, 6, 16, 32
DYNAMIC: dict[str, Any] = {"dynamic_shapes": [{0: "B", 1: "S"}], "dims": {"B": (1, 4), "S": (1, 64)}}


def rotated(x: Any) -> Any:
    """x [B, S, ..., ROPE] turned by the places of its tokens."""
    steps = torch.arange(x.shape[1])[:, None] * 10000.0 ** (-torch.arange(ROPE // 2) / (ROPE // 2))
    angles = torch.cat([steps, steps], -1)
    angles = angles[:, None] if x.ndim == 4 else angles
    first, second = x.chunk(2, -1)
    return x * angles.cos() + torch.cat([-second, first], -1) * angles.sin()


class Latent(torch.nn.Module):  # type: ignore[misc, name-defined]
    """form: how scores and values are multiplied, by name of the method."""

    def __init__(self, form: str, causal: bool = True, factor: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form, self.causal, self.factor, self.scale = form, causal, factor, (NOPE + ROPE) ** -0.5
        self.queries = torch.nn.Linear(WIDTH, HEADS * (NOPE + ROPE))
        self.down, self.norm = torch.nn.Linear(WIDTH, RANK + ROPE), torch.nn.RMSNorm(RANK)
        self.up = torch.nn.Linear(RANK, HEADS * (NOPE + VALUE), bias=False)
        self.out = torch.nn.Linear(HEADS * VALUE, WIDTH)

    def forward(self, x: Any) -> Any:
        q, q_rotary = self.queries(x).unflatten(2, (HEADS, -1)).split([NOPE, ROPE], -1)
        latent, k_rotary = self.down(x).split([RANK, ROPE], -1)
        up = self.up.weight.view(HEADS, -1, RANK)
        q = torch.einsum("bshd,hdc->bshc", q, up[:, :NOPE])
        y = getattr(self, self.form)(q, rotated(q_rotary), self.norm(latent), rotated(k_rotary))
        return self.out(torch.einsum("bshc,hdc->bshd", y, up[:, -VALUE:]).flatten(2))

    def mask(self, tokens: int) -> Any:
        return torch.full((tokens, tokens), float("-inf")).triu(1)

    def authors(self, q: Any, q_rotary: Any, latent: Any, k_rotary: Any) -> Any:
        scores = torch.einsum("bshc,btc->bsht", q, latent)
        scores = (scores + self.factor * torch.einsum("bshr,btr->bsht", q_rotary, k_rotary)) * self.scale
        if self.causal:
            scores = scores + self.mask(q.shape[1]).unsqueeze(1)
        return torch.einsum("bsht,btc->bshc", scores.softmax(-1, dtype=torch.float32).type_as(q), latent)

    def by_matmul(self, q: Any, q_rotary: Any, latent: Any, k_rotary: Any) -> Any:
        q, q_rotary = q.transpose(1, 2), q_rotary.transpose(1, 2)
        keys, turned = latent.unsqueeze(1), k_rotary.unsqueeze(1)
        scores = (q @ keys.transpose(-2, -1) + q_rotary @ turned.transpose(-2, -1)) / math.sqrt(NOPE + ROPE)
        if self.causal:
            hidden = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(hidden, float("-inf"))
        return (scores.softmax(-1) @ keys).transpose(1, 2)

    def by_sdpa(self, q: Any, q_rotary: Any, latent: Any, k_rotary: Any) -> Any:
        q, k = torch.cat([q, q_rotary], -1).transpose(1, 2), torch.cat([latent, k_rotary], -1).unsqueeze(1)
        k, v = (part.expand(-1, HEADS, -1, -1) for part in (k, latent.unsqueeze(1)))
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(q, k, v, is_causal=self.causal, scale=self.scale).transpose(1, 2)

    def of_cache(self, q: Any, q_rotary: Any, latent: Any, k_rotary: Any) -> Any:
        """Rotary elements first, values as a part of what a cache holds."""
        q, keys = torch.cat([q_rotary, q], -1).transpose(1, 2), torch.cat([k_rotary, latent], -1).unsqueeze(1)
        scores = q @ keys.transpose(-2, -1) * self.scale
        scores = scores + self.mask(q.shape[2]) if self.causal else scores
        return (scores.softmax(-1) @ keys[..., ROPE:]).transpose(1, 2)


def latents(module: Any) -> list[Any]:
    assert not [node for node in module.main.nodes if node.op in ("nn.softmax", "nn.attention")]
    return [node for node in module.main.nodes if node.op == "nn.latent_attention"]


CASES = [
    *((form, True, DYNAMIC) for form in ("authors", "by_matmul", "by_sdpa", "of_cache")),
    ("authors", True, {}), ("of_cache", True, {}), ("authors", False, {}), ("by_matmul", False, DYNAMIC),
]  # fmt: skip


@pytest.mark.parametrize(("form", "causal", "options"), CASES)
def test_absorbed_forms(form: str, causal: bool, options: dict[str, Any]) -> None:
    model, inputs = Latent(form, causal).eval(), (torch.randn(2, 11, WIDTH),)
    module = fused(model, inputs, **options)
    (node,) = latents(module)
    assert node.attrs["scale"] == pytest.approx((NOPE + ROPE) ** -0.5)
    assert node.attrs["causal"] == causal and node.operand(4) is None
    assert len([node for node in module.main.nodes if node.op == "nn.matmul"]) == 2, "of the weights that are absorbed"
    same(module, model, inputs, tolerance=1e-4)
    if options:
        same(module, model, (torch.randn(1, 1, WIDTH),), tolerance=1e-4)


def test_another_weight_of_rotary_scores_is_told() -> None:
    model, inputs = Latent("authors", factor=0.5).eval(), (torch.randn(2, 11, WIDTH),)
    module = told(model, inputs, "latent_scores", "the two products are scaled by")
    assert not [node for node in module.main.nodes if node.op == "nn.latent_attention"]
