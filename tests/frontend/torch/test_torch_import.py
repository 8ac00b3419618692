"""What an import keeps of a torch model: names, layers, ties, element types; and what it says where it cannot."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from torch_models import check, imported, ops, same, torch

from nomul.ir.errors import NomulError

nn, F = torch.nn, torch.nn.functional


class Wrap(nn.Module):
    """A function as a model."""

    def __init__(self, function: Any, **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any) -> Any:
        return self.function(self, *args)


def refused(model: Any, inputs: Any, **options: Any) -> NomulError:
    with pytest.raises(NomulError) as caught:
        imported(model, inputs, **options)
    return caught.value


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.mix = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])

    def forward(self, x: Any) -> Any:
        return self.mix[1](F.gelu(self.mix[0](self.norm(x))))


def test_weights_keep_their_names_and_nodes_their_layer() -> None:
    module = check(nn.Sequential(Block(), Block()), (torch.randn(3, 8),))
    assert "1.mix.0.weight" in module.weights
    assert [node.loc for node in module.main.nodes][:4] == [
        "0.norm:layer_norm",
        "0.mix.0:linear",
        "0:gelu",
        "0.mix.1:linear",
    ]


def test_weights_are_not_copied() -> None:
    layer = nn.Linear(8, 8)
    module = imported(layer, (torch.randn(2, 8),))
    assert np.shares_memory(module.weights["weight"].array(), layer.weight.detach().numpy())


def test_tied_weights_are_one() -> None:
    table, head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
    head.weight = table.weight
    module = check(nn.Sequential(table, head), (torch.tensor([1, 2, 3]),))
    assert len(module.weights) == 1


@pytest.mark.parametrize(("dtype", "numpy"), [(torch.bfloat16, ml_dtypes.bfloat16), (torch.float16, np.float16)])
def test_half_precision(dtype: Any, numpy: Any) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).to(dtype)
    module = check(model, (torch.randn(2, 8).to(dtype),), tolerance=2e-2)
    assert module.weights["0.weight"].array().dtype == numpy


Pair = namedtuple("Pair", ["left", "right"])


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda m, x: x + 1, ["output"]),
        (lambda m, x: (x + 1, x + 2), ["output_0", "output_1"]),
        (lambda m, x: {"a": x + 1, "b": {"c": x + 2}}, ["a", "b.c"]),
        (lambda m, x: Pair(x + 1, [x + 2]), ["left", "right.0"]),
        (lambda m, x: {"a": x + 1, "none": None}, ["a"]),
    ],
)
def test_outputs_are_named_by_their_place(function: Any, names: list[str]) -> None:
    module = check(Wrap(function), (torch.randn(2),))
    assert [value.name for value in module.main.returns] == names


def test_an_input_or_a_constant_may_be_an_output() -> None:
    module = check(Wrap(lambda m, x: {"x": x, "again": x, "ones": torch.ones(3)}), (torch.randn(2),))
    assert len({value.name for value in module.main.returns}) == 3


def test_nested_inputs_get_names() -> None:
    module = imported(Wrap(lambda m, x: x["a"] + x["b"][0]), ({"a": torch.ones(2), "b": [torch.ones(2)]},))
    assert len(module.main.params) == 2


def test_a_module_in_training_mode_is_exported_for_inference() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4)).train()
    module = imported(model, (torch.randn(3, 4),))
    assert model.training and model[2].training
    same(module, model.eval(), (torch.randn(3, 4),))


def test_in_place_writes_become_values() -> None:
    def fill(m: Any, x: Any) -> Any:
        y = x.clone()
        y[:, 1:3] = 7
        y[0].mul_(2)
        y[y > 5] = -1.0
        return y

    check(Wrap(fill), (torch.randn(3, 5),))


def test_gradient_switches_inside_are_inlined() -> None:
    def forward(m: Any, x: Any) -> Any:
        with torch.no_grad():
            y = x * 2
        return y + m.layer(x)

    program = torch.export.export(Wrap(forward, layer=nn.Linear(3, 3)), (torch.randn(2, 3),))
    assert len(imported(program).main.nodes) == 3


def test_transposed_weights_become_linear_layers() -> None:
    weight = nn.Parameter(torch.randn(4, 6))
    module = check(
        Wrap(lambda m, x: x @ m.weight + x @ m.weight.t().contiguous().t(), weight=weight), (torch.ones(2, 4),)
    )
    assert ops(module)["nn.linear"] == 2
    assert set(module.weights) == {"weight.T"}


def test_all_unsupported_operators_are_listed_at_once() -> None:
    def forward(m: Any, x: Any) -> Any:
        return torch.special.i0(x) + torch.special.i0(x + 1) + torch.lgamma(m.layer(x))

    error = refused(Wrap(forward, layer=nn.Linear(3, 3)), (torch.rand(2, 3),))
    assert [problem.code for problem in error.problems] == ["NM201", "NM201"]
    assert "aten.i0.default, used 2 times" in error.problems[0].message
    assert all(f"{Path(__file__).name}:" in (problem.loc or "") for problem in error.problems)


def test_all_unsupported_forms_are_listed_at_once() -> None:
    def forward(m: Any, x: Any) -> Any:
        y = F.conv3d(x[None, None], torch.ones(1, 1, 1, 1, 1))
        return y, x.reshape(-1).int().bitwise_and(3)

    error = refused(Wrap(forward), (torch.rand(2, 3, 4),))
    assert [problem.code for problem in error.problems] == ["NM202", "NM202"]


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x[x > 0],
        lambda m, x: torch.nonzero(x),
        lambda m, x: x + 1 if x.sum() > 0 else x,
        lambda m, x: x[: int(x.sum())],
    ],
)
def test_what_depends_on_data_is_refused_with_its_line(function: Any) -> None:
    error = refused(Wrap(function), (torch.rand(4),))
    assert error.code == "NM203"
    assert Path(__file__).name in (error.problems[0].loc or ""), error


def test_a_buffer_that_is_written_is_refused() -> None:
    def forward(m: Any, x: Any) -> Any:
        m.count.add_(1)
        return x + m.count

    model = Wrap(forward)
    model.register_buffer("count", torch.zeros(1))
    error = refused(model, (torch.rand(2),))
    assert "writes to 'count'" in error.message and "eval()" in (error.help or "")


def test_complex_inputs_are_refused() -> None:
    assert "complex" in str(refused(Wrap(lambda m, x: torch.view_as_real(x * 2)), (torch.rand(2) * 1j,)))


@pytest.mark.parametrize(
    ("model", "inputs", "text"),
    [
        (42, None, "not int"),
        (nn.Linear(2, 2), None, "example inputs"),
        (nn.Linear(2, 2), (torch.rand(3, 5),), "cannot trace"),
        (nn.Linear(2, 2), (torch.rand(2), torch.rand(2)), "do not fit"),
    ],
)
def test_other_mistakes_have_messages(model: Any, inputs: Any, text: str) -> None:
    assert text in str(refused(model, inputs))
