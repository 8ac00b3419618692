"""Values known by formula: masks of decoders become the attribute `causal`, and nothing changes its meaning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch_models import check, ops, torch

from nomul.frontend.torch.lazy import Affine, Uniform, recognise
from nomul.ir.graph import Module

F = torch.nn.functional
ROWS = {"dynamic_shapes": {"x": {1: "S"}}, "dims": {"S": (1, 32)}}


class Wrap(torch.nn.Module):
    def __init__(self, function: Any, **buffers: Any) -> None:
        super().__init__()
        self.function = function
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


def attend(x: Any, mask: Any = None, **options: Any) -> Any:
    """Attention of x [B, S, 8] to itself with two heads."""
    heads = x.unflatten(-1, (2, 4)).transpose(1, 2)
    return F.scaled_dot_product_attention(heads, heads, heads, mask, **options)


def decode(function: Any, **buffers: Any) -> Module:
    model = Wrap(function, **buffers)
    return check(model, torch_input(5), torch_input(1), torch_input(17), **ROWS)


def torch_input(length: int) -> tuple[Any, ...]:
    return (torch.randn(2, length, 8),)


def causal_and_mask(module: Module) -> tuple[bool, bool]:
    (node,) = (node for node in module.main.nodes if node.op == "nn.attention")
    return node.attrs["causal"], len(node.args) == 4


def length(x: Any) -> int:
    return x.shape[1]


def triangle(x: Any, diagonal: int = 0, **options: Any) -> Any:
    return torch.ones(length(x), length(x), **options).tril(diagonal)


WAYS: dict[str, Any] = {
    "flag": lambda m, x: attend(x, is_causal=True),
    "tril of bools": lambda m, x: attend(x, triangle(x, dtype=torch.bool)),
    "tril equals one": lambda m, x: attend(x, triangle(x) == 1),
    "tril is not zero": lambda m, x: attend(x, triangle(x)[None, None] != 0),
    "not triu": lambda m, x: attend(x, ~torch.ones(length(x), length(x), dtype=torch.bool).triu(1)),
    "positions": lambda m, x: attend(x, torch.arange(length(x))[None] <= torch.arange(length(x))[:, None]),
    "positions the other way": lambda m, x: attend(x, torch.arange(length(x))[:, None] >= torch.arange(length(x))),
    "strictly below": lambda m, x: attend(x, torch.arange(length(x)) < torch.arange(1, length(x) + 1)[:, None]),
    "added infinity": lambda m, x: attend(x, torch.full((length(x), length(x)), float("-inf")).triu(1)),
    "filled infinity": lambda m, x: attend(
        x, torch.zeros(length(x), length(x)).masked_fill(triangle(x) == 0, float("-inf"))
    ),
    "where": lambda m, x: attend(x, torch.where(triangle(x).bool(), 0.0, float("-inf"))),
    "with all": lambda m, x: attend(x, triangle(x).bool() & torch.ones(1, 1, dtype=torch.bool)),
    "expanded": lambda m, x: attend(x, triangle(x).bool()[None, None].expand(x.shape[0], 1, -1, -1)),
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_say_causal(way: str) -> None:
    assert causal_and_mask(decode(WAYS[way])) == (True, False)


def test_a_mask_that_is_always_true_disappears() -> None:
    module = decode(lambda m, x: attend(x, torch.arange(length(x))[None] >= 0))
    assert causal_and_mask(module) == (False, False)


def test_a_window_remains_a_mask() -> None:
    def windowed(m: Any, x: Any) -> Any:
        place = torch.arange(length(x))
        distance = place[:, None] - place
        return attend(x, (distance >= 0) & (distance < 4))

    assert causal_and_mask(decode(windowed)) == (True, True)
    assert causal_and_mask(decode(lambda m, x: attend(x, triangle(x, 2).bool()))) == (False, True)


def test_padding_remains_a_mask_that_is_not_repeated() -> None:
    module = decode(lambda m, x: attend(x, triangle(x).bool() & (x[:, :, 0] > -1)[:, None, None, :]))
    assert causal_and_mask(module) == (True, True)
    (node,) = (node for node in module.main.nodes if node.op == "nn.attention")
    assert [str(size) for size in node.args[3].shape] == ["2", "1", "1", "S"]


def test_rows_without_a_visible_key() -> None:
    """The IR gives 0 there; torch gives NaN or 0 by its version, so the model hides those rows."""
    x = torch.randn(1, 4, 8)
    seen = torch.tensor([[True, True, False, True]] * 4)
    check(Wrap(lambda m, x: attend(x, seen)), (x,))


def test_mask_as_numbers() -> None:
    """A triangle that is not used as a mask is computed."""
    for function in (
        lambda m, x: triangle(x) + triangle(x, 1),
        lambda m, x: triangle(x).sum(-1),
        lambda m, x: (torch.arange(length(x))[None] - torch.arange(length(x))[:, None]).abs().float() + 0 * x.mean(),
        lambda m, x: torch.where(triangle(x).bool(), x[0] @ x[0].T, -1.0),
        lambda m, x: (triangle(x).bool() | (x[0] @ x[0].T > 0)).float(),
        lambda m, x: (x[0] @ x[0].T).masked_fill(~triangle(x).bool(), 0.0),
        lambda m, x: (x[0] @ x[0].T).tril(-1),
        lambda m, x: torch.cumsum(torch.ones(length(x), dtype=torch.int64), 0) * 3 - 1,
    ):
        decode(function)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x[:, torch.arange(length(x))],
        lambda m, x: x[:, torch.zeros(3, dtype=torch.int64)],
        lambda m, x: x[torch.arange(2)[:, None], torch.arange(length(x))],
        lambda m, x: x[torch.arange(2), 0],
        lambda m, x: x[:, -1:],
        lambda m, x: torch.arange(10, 10 + length(x)).view(1, -1, 1)[:, 1 - 1 :, 0] + torch.arange(2)[:, None],
        lambda m, x: torch.cat([torch.arange(3), torch.arange(3, 3 + length(x))]),
        lambda m, x: torch.diff(torch.arange(length(x)) * 2, prepend=torch.tensor([-2])),
        lambda m, x: torch.arange(length(x)).expand(4, -1).gather(1, torch.zeros(4, 1, dtype=torch.int64)),
        lambda m, x: (torch.arange(length(x)) % 3 == 0).long() * 2 + torch.arange(length(x)) // 2,
        lambda m, x: torch.ones_like(x) * 2 + torch.zeros(1),
        lambda m, x: m.table[:, : length(x)] + x[:, :, 0].long() * 0,
        lambda m, x: (m.table[:, : length(x)] >= 3) & (x[:, :, 0] > 0),
    ],
)
def test_formulas_agree_with_torch(function: Any) -> None:
    decode(function, table=torch.arange(32)[None])


def test_positions_of_a_slice_are_a_slice() -> None:
    rows = {"dynamic_shapes": {"x": {1: "S"}}, "dims": {"S": (4, 32)}}
    model = Wrap(lambda m, x: x[:, torch.arange(length(x) - 1) + 1])
    module = check(model, torch_input(5), torch_input(9), **rows)
    assert set(ops(module)) == {"view.slice"}


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.arange(12).reshape(3, 4), Affine),
        (np.arange(0, -10, -2), Affine),
        (np.full((2, 3), 7), Uniform),
        (np.ones((1, 1), bool), Uniform),
        (np.array([0, 1, 3]), type(None)),
        (np.array([True, False]), type(None)),
        (np.array([0.5, 0.5]), type(None)),
        (np.zeros((0, 3), np.int64), type(None)),
    ],
)
def test_constants_that_count(array: np.ndarray, kind: type) -> None:
    found = recognise(array)
    assert isinstance(found, kind)
    if isinstance(found, Affine):
        grid = np.meshgrid(*(np.arange(size) for size in array.shape), indexing="ij")
        counted = int(found.offset) + sum(int(step) * axis for step, axis in zip(found.steps, grid, strict=True))
        assert (counted == array).all()
