"""Complex numbers inside a model become two tensors: rotary embeddings that are written with them, and arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
from test_torch_dynamic import Wrap
from torch_models import check, imported, ops, torch

from nomul.ir.errors import NomulError

ROWS: dict[str, Any] = {"dynamic_shapes": [{0: "R"}], "dims": {"R": (1, 40)}}


def angles(rows: int) -> Any:
    return torch.outer(torch.arange(rows), 10000.0 ** (-torch.arange(4) / 4))


class Rotary(torch.nn.Module):  # type: ignore[misc, name-defined]
    """As Llama's first release has it. stored: the turns are a buffer, and those of the first tokens are read."""

    def __init__(self, stored: bool) -> None:
        super().__init__()
        turns = torch.polar(torch.ones(64, 4), angles(64))
        self.register_buffer("turns", turns if stored else None)

    def forward(self, x: Any) -> Any:
        if self.turns is None:
            turns = torch.polar(torch.ones(x.shape[0], 4), angles(x.shape[0]))
        else:
            turns = self.turns[: x.shape[0]]
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turns[:, None]).flatten(2).type_as(x)


@pytest.mark.parametrize("stored", [False, True])
def test_rotary_positions(stored: bool) -> None:
    module = check(Rotary(stored), (torch.randn(7, 3, 8),), (torch.randn(1, 3, 8),), **ROWS)
    assert not stored or {"turns.real", "turns.imag"} == {*module.weights}
    assert ops(module)["ew.cos"] == (0 if stored else 1)


def arithmetic(x: Any) -> Any:
    z = torch.complex(x, x * 2)
    parts = [(z * z.conj()).real, (z / 3 - z).abs(), z.imag, (z * 0.5 + z * x).real]
    both = torch.view_as_real(torch.stack([z.unsqueeze(1) + z.sum(1, keepdim=True).unsqueeze(2), -z.unsqueeze(1)]))
    return torch.cat([*parts, both.transpose(0, 1).flatten(1)], 1)


def moved(x: Any) -> Any:
    z = torch.view_as_complex(x.unflatten(1, (-1, 2)))
    first, second = z.split(2, 1)
    z = torch.cat([second.flip(1), first], 1)[torch.tensor([2, 0])].t().contiguous()
    return torch.view_as_real(z.expand(3, *z.shape))


def with_numbers(x: Any) -> Any:
    z = torch.complex(x, x * 2) * (2 - 1j) + (x * 1j - 3j)
    return torch.view_as_real(torch.add(z, z * z, alpha=2) - torch.sub(z, 1j, alpha=0.5))


def cast_to_real(x: Any) -> Any:
    return torch.complex(x, x * 2).to(torch.float32).abs() + x.to(torch.float64).view_as(torch.complex(x, x))


@pytest.mark.filterwarnings("ignore:Casting complex values to real")
@pytest.mark.parametrize("function", [arithmetic, moved, with_numbers, cast_to_real])
def test_arithmetic(function: Any) -> None:
    check(Wrap(function), (torch.randn(5, 8),))


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda x: torch.view_as_real(torch.complex(x, x).exp()), "NM201.: no lowering for aten.exp.default"),
        (lambda x: torch.complex(x, x), "NM202.: the result 'output' is complex"),
        (lambda x: torch.complex(x, x).reciprocal().real, "NM201.: no lowering for aten.reciprocal.default"),
        (lambda x: (x / torch.complex(x, x)).real, "NM202.: division by complex numbers"),
        (lambda x: (torch.complex(x, x) / 2j).real, "NM202.: division by complex numbers"),
        (lambda x: (torch.complex(x, x) + x).real, "NM202.: sums of real and complex numbers"),
        (lambda x: torch.cat([torch.complex(x, x), x]).real, "NM202.: real and complex tensors together"),
        (lambda x: (x ** (1 + 1j)).real, "NM201.: no lowering for aten.pow"),
    ],
)
def test_what_is_refused(function: Any, text: str) -> None:
    with pytest.raises(NomulError, match=text):
        imported(Wrap(function), (torch.randn(5, 6),))
