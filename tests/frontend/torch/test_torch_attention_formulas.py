"""Attention variants as their authors write them become one op each, and compute what torch does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from test_torch_attention_forms import fused, told
from torch_models import same, torch

from nomul.ir.graph import Module

HEADS, SIZE = 4, 8
WIDTH = HEADS * SIZE
Operands = tuple[Any, Any, Any]
Formula = Callable[[Any, Any, Any], Any]  # of q, k, v [B, S, H, D]; gives [B, S, H, D]


class Block(torch.nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self, formula: Formula) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.out, self.formula = torch.nn.Linear(WIDTH, 3 * WIDTH), torch.nn.Linear(WIDTH, WIDTH), formula

    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, HEADS, SIZE).unbind(2)
        return self.out(self.formula(q, k, v).reshape(x.shape))


def elu(x: Any) -> Any:
    return torch.nn.functional.elu(x) + 1


def heads_first(*parts: Any) -> list[Any]:
    return [part.transpose(1, 2) for part in parts]


def fast_transformers(q: Any, k: Any, v: Any) -> Any:
    """Katharopoulos's own code."""
    q, k = elu(q), elu(k)
    sums = torch.einsum("nshd,nshm->nhmd", k, v)
    inverse = 1 / (torch.einsum("nlhd,nhd->nlh", q, k.sum(dim=1)) + 1e-6)
    return torch.einsum("nlhd,nhmd,nlh->nlhm", q, sums, inverse)


def by_matmul(q: Any, k: Any, v: Any) -> Any:
    q, k, v = heads_first(q.relu(), k.relu(), v)
    y = q @ (k.transpose(-2, -1) @ v) / (q @ k.sum(2, keepdim=True).transpose(-2, -1) + 1e-6)
    return y.transpose(1, 2)


def reciprocal(q: Any, k: Any, v: Any) -> Any:
    """The order of linear-attention-transformer."""
    q, k, v = heads_first(q.softmax(-1), k.softmax(-1), v)
    inverse = 1.0 / torch.einsum("...nd,...d->...n", q, k.sum(dim=-2))
    context = torch.einsum("...nd,...ne->...de", k, v)
    return torch.einsum("...de,...nd,...n->...ne", context, q, inverse).transpose(1, 2)


def by_weights(q: Any, k: Any, v: Any) -> Any:
    q, k, v = heads_first(elu(q), elu(k), v)
    weights = q @ k.transpose(-2, -1)
    return ((weights / (weights.sum(-1, keepdim=True) + 1e-6)) @ v).transpose(1, 2)


def causal_by_tril(q: Any, k: Any, v: Any) -> Any:
    q, k, v = heads_first(elu(q), elu(k), v)
    weights = (q @ k.transpose(-2, -1)).tril()
    return ((weights / (weights.sum(-1, keepdim=True) + 1e-6)) @ v).transpose(1, 2)


def causal_by_mask(q: Any, k: Any, v: Any) -> Any:
    """As lolcats writes its quadratic form."""
    q, k, v = heads_first(q.exp(), k.exp(), v)
    weights = torch.einsum("bhmd,bhnd->bhmn", q, k)
    later = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
    weights = weights.masked_fill(later, 0)
    return torch.einsum("bhmn,bhnd->bhmd", weights / weights.sum(-1, keepdim=True), v).transpose(1, 2)


def causal_by_sums(q: Any, k: Any, v: Any) -> Any:
    q, k = elu(q), elu(k)
    sums = torch.einsum("bshd,bshm->bshdm", k, v).cumsum(1)
    divisor = (q * k.cumsum(1)).sum(-1, keepdim=True) + 1e-6
    return torch.einsum("bshd,bshdm->bshm", q, sums) / divisor


LINEAR: dict[Formula, tuple[str, bool]] = {
    fast_transformers: ("elu", False),
    by_matmul: ("relu", False),
    reciprocal: ("softmax", False),
    by_weights: ("elu", False),
    causal_by_tril: ("elu", True),
    causal_by_mask: ("exp", True),
    causal_by_sums: ("elu", True),
}
DYNAMIC: dict[str, Any] = {"dynamic_shapes": ({0: "B", 1: "S"},), "dims": {"B": (1, 4), "S": (1, 64)}}
BATCH: dict[str, Any] = {"dynamic_shapes": ({0: "B"},), "dims": {"B": (1, 4)}}


@pytest.mark.parametrize("formula", LINEAR, ids=lambda formula: formula.__name__)
@pytest.mark.parametrize("options", [{}, DYNAMIC], ids=["static", "dynamic"])
def test_linear_attention(formula: Formula, options: dict[str, Any]) -> None:
    model, inputs = Block(formula).eval(), (torch.randn(2, 11, WIDTH),)
    module = fused(model, inputs, **options)
    assert ops_of(module) == ["nn.linear", "nn.linear_attention", "nn.linear"]
    node = next(node for node in module.main.nodes if node.op == "nn.linear_attention")
    assert (node.attrs["map"], node.attrs["causal"]) == LINEAR[formula]
    same(module, model, inputs, tolerance=1e-4)


class Hedgehog(torch.nn.Module):  # type: ignore[misc, name-defined]
    """As lolcats has it: learned maps of queries and keys, and the quadratic form with a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = torch.nn.ParameterList([torch.randn(HEADS, SIZE, 6) for _ in range(2)])

    def features(self, x: Any, weights: Any) -> Any:
        y = torch.einsum("hdf,bhld->bhlf", weights, x)
        return torch.cat([y.softmax(-1), (-y).softmax(-1)], -1).clamp(min=1e-12)

    def forward(self, q: Any, k: Any, v: Any) -> Any:
        q, k, v = heads_first(q, k, v)
        q, k = (self.features(x, weights) for x, weights in zip((q, k), self.maps, strict=True))
        weights = torch.einsum("bhmd,bhnd->bhmn", q, k).tril()
        return torch.einsum("bhmn,bhnd->bhmd", weights / weights.sum(-1, keepdim=True), v).transpose(1, 2)


def hamming(q: Any, k: Any, v: Any) -> Any:
    """ShiftAddViT's: half of the values and sums of those whose codes have bits in common."""

    def codes(x: Any) -> Any:
        x = x / x.norm(dim=-1, keepdim=True)
        return (x > x.mean()).to(x.dtype)

    q, k, v = heads_first(q, k, v)
    y = 0.5 * v + 1 / torch.pi * (codes(q) @ (codes(k).transpose(-2, -1) @ v))
    return (y / y.norm(dim=-1, keepdim=True)).transpose(1, 2)


def gated(q: Any, k: Any, v: Any) -> Any:
    """The linear branch of Liger, as the parallel form of gated linear attention."""
    q, k, v = heads_first(q, k, v)
    sums = (torch.nn.functional.logsigmoid(k) / 16).cumsum(2)
    q, k = q.softmax(-1) * sums.exp(), k.softmax(-1) * (-sums).exp()
    return ((q @ k.transpose(-2, -1)).tril() @ v).transpose(1, 2)


def ops_of(module: Module) -> list[str]:
    return [node.op for node in module.main.nodes if node.op.partition(".")[0] != "view"]


@pytest.mark.parametrize("options", [{}, DYNAMIC], ids=["static", "dynamic"])
def test_hedgehog(options: dict[str, Any]) -> None:
    model, inputs = Block(Hedgehog()).eval(), (torch.randn(2, 11, WIDTH),)
    module = fused(model, inputs, **options)
    ops = ops_of(module)
    assert ops == ["nn.linear", "nn.hedgehog_map", "nn.hedgehog_map", "nn.linear_attention", "nn.linear"]
    same(module, model, inputs, tolerance=1e-4)


@pytest.mark.parametrize("options", [{}, DYNAMIC], ids=["static", "dynamic"])
def test_hamming(options: dict[str, Any]) -> None:
    model, inputs = Block(hamming).eval(), (torch.randn(2, 11, WIDTH),)
    module = fused(model, inputs, **options)
    ops = ops_of(module)
    assert ops == ["nn.linear", "nn.hamming_codes", "nn.hamming_codes", "nn.hamming_attention", "nn.linear"]
    same(module, model, inputs, tolerance=1e-4)


def inline(q: Any, k: Any, v: Any) -> Any:
    """InLine's: the formula as its authors multiply it."""
    q, k, v = heads_first(q, k, v)
    scale, tokens = q.shape[3] ** -0.5, q.shape[2]
    kv = (k.transpose(-2, -1) * (scale / tokens) ** 0.5) @ (v * (scale / tokens) ** 0.5)
    rest = 1 - q @ k.mean(dim=2, keepdim=True).transpose(-2, -1) * scale
    return (q @ kv + rest * v.mean(dim=2, keepdim=True)).transpose(1, 2)


def inline_by_weights(q: Any, k: Any, v: Any) -> Any:
    """As the paper defines its weights."""
    q, k, v = heads_first(q.relu(), k.relu(), v)
    weights = q @ k.transpose(-2, -1) / q.shape[2]
    return ((weights - weights.mean(-1, keepdim=True) + 1 / q.shape[2]) @ v).transpose(1, 2)


def inline_by_sums(q: Any, k: Any, v: Any) -> Any:
    """With brackets opened, and sums by einsum."""
    tokens = q.shape[1]
    keys, values = k.sum(1) / tokens, v.sum(1) / tokens
    far = torch.einsum("bshd,bthd,bthe->bshe", q, k, v) / tokens
    return far - torch.einsum("bshd,bhd,bhe->bshe", q, keys, values) + values[:, None]


@pytest.mark.parametrize("options", [{}, DYNAMIC], ids=["static", "dynamic"])
def test_gated(options: dict[str, Any]) -> None:
    model, inputs = Block(gated).eval(), (torch.randn(2, 11, WIDTH),)
    module = fused(model, inputs, **options)
    (node,) = [node for node in module.main.nodes if node.op == "nn.linear_attention"]
    assert node.args[3] is not None and node.attrs["map"] == "softmax"
    assert not {"nn.matmul", "reduce.cumsum", "nn.softmax", "ew.exp"} & set(ops_of(module))
    same(module, model, inputs, tolerance=1e-4)


@pytest.mark.parametrize("formula", [inline, inline_by_weights, inline_by_sums], ids=lambda formula: formula.__name__)
@pytest.mark.parametrize("options", [{}, BATCH], ids=["static", "batch"])
def test_inline(formula: Formula, options: dict[str, Any]) -> None:
    model, inputs = Block(formula).eval(), (torch.randn(2, 11, WIDTH),)
    module = fused(model, inputs, **options)
    (node,) = [node for node in module.main.nodes if node.op == "nn.inline_attention"]
    assert node.attrs["scale"] == pytest.approx(SIZE**-0.5 if formula is inline else 1)
    rest = ["ew.relu"] * 2 if formula is inline_by_weights else []
    assert sorted(ops_of(module)) == sorted(["nn.linear", "nn.inline_attention", "nn.linear", *rest])
    same(module, model, inputs, tolerance=1e-4)


@pytest.mark.parametrize("formula", [inline, inline_by_weights, inline_by_sums], ids=lambda formula: formula.__name__)
def test_inline_of_any_number_of_tokens(formula: Formula) -> None:
    model, inputs = Block(formula).eval(), (torch.randn(2, 11, WIDTH),)
    module = fused(model, inputs, **DYNAMIC)
    assert [op for op in ops_of(module) if op != "ew.relu"] == ["nn.linear", "nn.inline_attention", "nn.linear"]
    same(module, model, (torch.randn(1, 7, WIDTH),), tolerance=1e-4)


class InlineBlock(torch.nn.Module):  # type: ignore[misc, name-defined]
    """As its authors' Swin has it, with the neighbours in the image by kernels that the mean token gives."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.scale = torch.nn.Linear(WIDTH, 3 * WIDTH), scale
        first, second = (torch.nn.Conv1d(WIDTH, width, 1, groups=HEADS) for width in (WIDTH, 9 * WIDTH))
        self.residual = torch.nn.Sequential(first, torch.nn.GELU(), second)

    def forward(self, x: Any) -> Any:
        b, n, c = x.shape
        side = int(n**0.5)
        q, k, v = self.qkv(x).reshape(b, n, 3, c).permute(2, 0, 1, 3)
        q, k, v = (part.reshape(b, n, HEADS, SIZE) for part in (q, k, v))
        kernels = self.residual(x.mean(dim=1).unsqueeze(dim=-1)).reshape(b * c, 1, 3, 3)
        y = inline(q, k, v).reshape(b, n, c)
        image = (self.scale * v).reshape(b, side, side, c).permute(0, 3, 1, 2).reshape(1, b * c, side, side)
        near = torch.nn.functional.conv2d(image, kernels, None, padding=(1, 1), groups=b * c)
        return y + near.reshape(b, c, n).permute(0, 2, 1)


def test_inline_with_neighbours() -> None:
    model, inputs = InlineBlock().eval(), (torch.randn(2, 25, WIDTH),)
    module = fused(model, inputs)
    (node,) = [node for node in module.main.nodes if node.op == "nn.inline_attention"]
    assert node.attrs["width"] == 5 and node.args[3] is not None
    assert ops_of(module).count("nn.conv2d") == 2, "those of the kernels' own layers"
    assert "ew.add" not in ops_of(module)
    same(module, model, inputs, tolerance=1e-4)


def test_neighbours_of_other_values_stay_a_convolution() -> None:
    model, inputs = InlineBlock(scale=2.0).eval(), (torch.randn(2, 25, WIDTH),)
    module = told(model, inputs, "inline_neighbours", "not those of the values")
    assert ops_of(module).count("nn.conv2d") == 3


def other_divisor(q: Any, k: Any, v: Any) -> Any:
    q, k, v = heads_first(elu(q), elu(k), v)
    return (q @ (k.transpose(-2, -1) @ v) / (q @ v.sum(2, keepdim=True).transpose(-2, -1))).transpose(1, 2)


def test_another_divisor_is_told() -> None:
    model, inputs = Block(other_divisor).eval(), (torch.randn(2, 11, WIDTH),)
    module = told(model, inputs, "linear_attention_formula", "what divides is not the sum")
    assert not [node for node in module.main.nodes if node.op == "nn.linear_attention"]
