"""Kolmogorov-Arnold attention as one writes its published formula becomes one op, and computes what torch does."""

from __future__ import annotations

from typing import Any

import pytest
from test_torch_attention_forms import fused, told
from test_torch_attention_formulas import BATCH, HEADS, SIZE, WIDTH, Block, heads_first, ops_of
from torch_models import same, torch

TOKENS, UNITS, MULTIPLES = 11, 5, 3


class Fourier(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Rows of scores through learned waves and a projection. form: by name of the method; multiples: of the scores."""

    def __init__(self, form: str, multiples: tuple[int, ...] = tuple(range(1, MULTIPLES + 1))) -> None:
        super().__init__()
        self.form, self.multiples = form, multiples
        shape = (HEADS, UNITS, TOKENS, len(multiples))
        self.cosine, self.sine = (torch.nn.Parameter(torch.randn(shape)) for _ in range(2))
        self.projection = torch.nn.Parameter(torch.randn(HEADS, TOKENS, UNITS))

    def forward(self, q: Any, k: Any, v: Any) -> Any:
        q, k, v = heads_first(q, k, v)
        scores = q @ k.transpose(-2, -1) * SIZE**-0.5
        return getattr(self, self.form)(scores, v).transpose(1, 2)

    def at_once(self, scores: Any, v: Any) -> Any:
        angles = scores[..., None] * torch.arange(1, len(self.multiples) + 1)
        units = torch.einsum("bhstg,hrtg->bhsr", angles.cos(), self.cosine)
        units = units + torch.einsum("bhstg,hrtg->bhsr", angles.sin(), self.sine)
        return torch.einsum("bhsr,htr->bhst", units, self.projection) @ v

    def one_by_one(self, scores: Any, v: Any) -> Any:
        units = 0
        for place, multiple in enumerate(self.multiples):
            units = units + (multiple * scores).cos() @ self.cosine[..., place].transpose(-2, -1)
            units = units + (multiple * scores).sin() @ self.sine[..., place].transpose(-2, -1)
        return units @ (self.projection.transpose(-2, -1) @ v)


@pytest.mark.parametrize("options", [{}, BATCH], ids=["static", "batch"])
@pytest.mark.parametrize("form", ["at_once", "one_by_one"])
def test_fourier(form: str, options: dict[str, Any]) -> None:
    model, inputs = Block(Fourier(form)).eval(), (torch.randn(2, TOKENS, WIDTH),)
    module = fused(model, inputs, **options)
    assert ops_of(module) == ["nn.linear", "nn.kolmogorov_arnold_attention", "nn.linear"]
    (node,) = [node for node in module.main.nodes if node.op == "nn.kolmogorov_arnold_attention"]
    assert node.attrs["scale"] == pytest.approx(SIZE**-0.5)
    assert [str(size) for size in node.args[3].shape] == [str(size) for size in (HEADS, UNITS, TOKENS, MULTIPLES)]
    same(module, model, inputs, tolerance=1e-4)


def test_other_multiples_are_told() -> None:
    model, inputs = Block(Fourier("one_by_one", (1, 3))).eval(), (torch.randn(2, TOKENS, WIDTH),)
    module = told(model, inputs, "kolmogorov_arnold_formula", "the multiples of the scores are 1, 3")
    assert not [node for node in module.main.nodes if node.op == "nn.kolmogorov_arnold_attention"]
