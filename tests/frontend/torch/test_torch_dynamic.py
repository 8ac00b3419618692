"""Dynamic axes: names, ranges, sizes that follow from them, and the conversion of torch's size expressions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sympy
from torch.utils._sympy import functions as sizes
from torch_models import check, imported, ops, torch

from nomul.frontend.torch.errors import Unsupported
from nomul.frontend.torch.symbols import Symbols
from nomul.ir.dim import Dim
from nomul.ir.errors import NomulError

F = torch.nn.functional


class Wrap(torch.nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any, y: Any = None) -> Any:
        return self.function(x) if y is None else self.function(x, y)


def test_names_and_ranges() -> None:
    module = check(
        Wrap(lambda x: x + 1),
        (torch.ones(3, 4),),
        (torch.ones(7, 2),),
        dynamic_shapes={"x": {0: "rows", 1: "columns"}},
        dims={"rows": (1, 9)},
    )
    assert module.dims == {"rows": (1, 9), "columns": (1, 4096)}
    assert [str(size) for size in module.main.params[0].shape] == ["rows", "columns"]


def test_torch_dims_and_positional_specifications() -> None:
    rows = torch.export.Dim("rows", min=2, max=8)
    module = check(Wrap(lambda x, y: x + y), (torch.ones(3), torch.ones(3)), dynamic_shapes=({0: rows}, {0: rows}))
    assert module.dims == {"rows": (2, 8)}
    auto = imported(Wrap(lambda x: x * 2), (torch.ones(3),), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    assert list(auto.dims) == ["x_0"]


def test_derived_dims_use_the_name_of_their_root() -> None:
    half = torch.export.Dim("half", min=1, max=8)
    module = check(Wrap(lambda x: x.reshape(-1, 2)), (torch.ones(6),), dynamic_shapes=({0: 2 * half},))
    assert str(module.main.params[0].shape[0]) == "2*half"
    assert str(module.main.returns[0].shape[0]) == "half"


def test_example_sizes_of_one_do_not_fix_an_axis() -> None:
    check(Wrap(lambda x, y: x + y), (torch.ones(1, 3), torch.ones(1, 3)), (torch.ones(4, 3), torch.ones(4, 3)),
          dynamic_shapes={"x": {0: "B"}, "y": {0: "B"}})  # fmt: skip


def test_a_dim_may_be_fixed() -> None:
    for request in (2, (2, 2)):
        module = imported(
            Wrap(lambda x: x + 1), (torch.ones(3, 4),), dynamic_shapes={"x": {0: "B"}}, dims={"B": request}
        )
        assert not module.dims and int(module.main.params[0].shape[0]) == 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dynamic_shapes": {"z": {0: "B"}}}, "does not take"),
        ({"dynamic_shapes": {"x": {0: "B"}}, "dims": {"C": (1, 2)}}, "no dynamic dim 'C'"),
        ({"dynamic_shapes": {"x": {0: "not a name"}}}, "not a name"),
        ({"dynamic_shapes": {"x": {0: "B"}}, "dims": {"B": (5, 2)}}, "empty"),
        ({"dynamic_shapes": {"x": {0: "B"}}, "dims": {"B": 9}}, "smaller"),
    ],
)
def test_requests_that_do_not_fit(options: dict[str, Any], text: str) -> None:
    with pytest.raises(NomulError, match=text) as caught:
        imported(Wrap(lambda x: x + 1), (torch.ones(3, 4),), **options)
    assert caught.value.code == "NM206"


def test_an_axis_that_the_model_fixes_is_an_error() -> None:
    with pytest.raises(NomulError, match="cannot be dynamic") as caught:
        imported(Wrap(lambda x: x + torch.ones(3)), (torch.ones(3),), dynamic_shapes={"x": {0: "B"}})
    assert caught.value.code == "NM206"


def test_a_branch_on_a_size_is_not_decided_for_all_sizes() -> None:
    with pytest.raises(NomulError, match="cannot be dynamic"):
        imported(Wrap(lambda x: x[1:] if x.shape[0] > 1 else x), (torch.ones(3),), dynamic_shapes={"x": {0: "B"}})


ROWS = {"dynamic_shapes": {"x": {0: "R"}}, "dims": {"R": (5, 40)}}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[1:],
        lambda x: x[:-2],
        lambda x: x[-3:],
        lambda x: x[::3],
        lambda x: x[-1] + x[0],
        lambda x: x.flip(0),
        lambda x: torch.roll(x, 2, 0),
        lambda x: torch.roll(x, -1, 0),
        lambda x: F.pad(x, (0, 1, 2, 0)),
        lambda x: F.pad(x, (0, 0, -1, -1)),
        lambda x: torch.cat([x, x[1:]]),
        lambda x: x.repeat(2, 3),
        lambda x: x.reshape(-1),
        lambda x: x.mean(0) + x.var(0),
        lambda x: x * x.shape[0],
        lambda x: x / (x.shape[0] + 1),
        lambda x: torch.arange(x.shape[0], dtype=torch.float32)[:, None] * x,
        lambda x: torch.arange(2, 2 + x.shape[0]).flip(0),
        lambda x: torch.zeros_like(x).index_fill(0, torch.tensor([1]), 2.0),
        lambda x: torch.triu(x @ x.T, 1),
        lambda x: torch.eye(x.shape[0]) + x @ x.T,
        lambda x: x.unfold(0, 3, 2),
        lambda x: F.interpolate(x[None, None], scale_factor=(2.0, 1.5), mode="bilinear")[0, 0],
        lambda x: F.avg_pool1d(x.T, 3, 2),
        lambda x: F.max_pool2d(x[None, None], 2),
        lambda x: torch.topk(x, 2, 0)[0],
        lambda x: torch.sort(x, 0)[0],
        lambda x: x.split([1, x.shape[0] - 1])[1],
        lambda x: torch.linalg.vector_norm(x, dim=0),
    ],
)
def test_sizes_that_follow_from_a_dynamic_one(function: Any) -> None:
    torch.manual_seed(0)
    check(Wrap(function), (torch.randn(7, 6),), (torch.randn(5, 6),), (torch.randn(13, 6),), **ROWS)


def test_positions_become_slices() -> None:
    class Positions(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(40, 6)
            self.register_buffer("places", torch.arange(40)[None])

        def forward(self, x: Any) -> Any:
            return x + self.table(self.places[:, : x.shape[0]])[0]

    module = check(Positions(), (torch.randn(7, 6),), (torch.randn(5, 6),), **ROWS)
    assert ops(module)["index.gather"] == 0 and ops(module)["view.slice"] >= 1


def test_positions_that_may_be_outside_stay_a_gather() -> None:
    class Positions(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(20, 6)

        def forward(self, x: Any) -> Any:
            return x + self.table(torch.arange(x.shape[0]))

    module = check(Positions(), (torch.randn(7, 6),), **ROWS)
    assert ops(module)["index.gather"] == 1


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * (0.3 / x.shape[0]) ** 0.5,
        lambda x: x / torch.sym_sqrt(x.shape[0] * 2 + 1) - x.shape[0] / 3,
        lambda x: x * (1 / x.shape[0] + 2 * x.shape[0] ** 0.5 - 0.25) + x.shape[0] ** -0.5,
    ],
)
def test_real_numbers_of_sizes(function: Callable[[Any], Any]) -> None:
    check(Wrap(function), (torch.randn(7, 6),), (torch.randn(5, 6),), (torch.randn(40, 6),), **ROWS)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda x: x.clamp(max=1 / x.shape[0]), "the number 'max' depends on a dynamic size"),
        (lambda x: x + torch.full((6,), x.shape[0] ** 0.5), "the number 'fill_value' depends on a dynamic size"),
        (lambda x: x * torch.sym_max(x.shape[0] / 2, 5.5), "uses Max, which is not supported"),
    ],
)
def test_real_numbers_that_are_refused(function: Callable[[Any], Any], text: str) -> None:
    with pytest.raises(NomulError, match=f"NM202.: .*{text}"):
        imported(Wrap(function), (torch.randn(7, 6),), **ROWS)


# -- size expressions ----------------------------------------------------------------------------------------------
A, B = sympy.Symbol("s0", positive=True, integer=True), sympy.Symbol("s1", positive=True, integer=True)
SYMBOLS = Symbols({A: Dim.of("a"), B: Dim.of("b")}, {"a": (1, 8), "b": (10, 20)})


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (2 * A + 1, "2*a + 1"),
        (A * B - B, "a*b - b"),
        (A**2, "a*a"),
        (sizes.FloorDiv(A + 1, 2), "(a + 1)//2"),
        (sizes.FloorDiv(2 * A, 2), "a"),
        (sizes.Mod(A, 4), "a - 4*((a)//4)"),
        (sizes.PythonMod(A, 4), "a - 4*((a)//4)"),
        (sizes.ModularIndexing(A, 2, 3), "(a)//2 - 3*((a)//6)"),
        (sizes.Max(A, B), "b"),
        (sizes.Min(A, B), "a"),
        (sizes.Max(1, A), "a"),
        (sizes.CeilToInt(sizes.IntTrueDiv(A, 2)), "(a + 1)//2"),
        (sizes.TruncToInt(sizes.ToFloat(A) * 1.5), "a + (a)//2"),
        (sizes.FloorToInt(sizes.IntTrueDiv(A * 3, 2)), "a + (a)//2"),
    ],
)
def test_size_expressions(expression: Any, text: str) -> None:
    dim = SYMBOLS.integer(expression)
    for a, b in ((1, 10), (4, 20), (7, 13)):
        assert dim.evaluate({"a": a, "b": b}) == expression.subs({A: a, B: b})
    assert str(dim) == text


@pytest.mark.parametrize(
    ("expression", "code", "text"),
    [
        (sympy.Symbol("u0", integer=True), "NM203", "depends on data"),
        (sizes.Max(A, 4), "NM202", "not one polynomial"),
        (sizes.FloorDiv(A, B), "NM202", "dynamic size"),
        (sizes.IntTrueDiv(A, 2), "NM202", "not an integer"),
        (sympy.Symbol("s9", integer=True), "NM202", "no input"),
    ],
)
def test_sizes_that_have_no_dim(expression: Any, code: str, text: str) -> None:
    with pytest.raises(Unsupported) as caught:
        SYMBOLS.integer(expression)
    assert caught.value.code == code and text in caught.value.message
