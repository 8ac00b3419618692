"""Element-wise ops, reductions and views."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from nomul.frontend.torch.blocks.twin import twin

for _name, _function in {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "pow": torch.pow,
    "max": torch.maximum,
    "min": torch.minimum,
    "neg": torch.neg,
    "abs": torch.abs,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "exp": torch.exp,
    "log": torch.log,
    "log1p": torch.log1p,
    "sin": torch.sin,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "silu": functional.silu,
    "mish": functional.mish,
    "softplus": functional.softplus,
    "hard_swish": functional.hardswish,
    "where": torch.where,
}.items():
    twin(f"ew.{_name}")(lambda *operands, _function=_function: _function(*operands))


@twin("ew.gelu")
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return functional.gelu(x, approximate=approximate)


@twin("ew.elu")
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return functional.elu(x, alpha)


@twin("ew.leaky_relu")
def leaky_relu(x: Tensor, *, slope: float = 0.01) -> Tensor:
    return functional.leaky_relu(x, slope)


@twin("ew.hard_sigmoid")
def hard_sigmoid(x: Tensor, *, alpha: float = 1 / 6, beta: float = 0.5) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


@twin("ew.clip")
def clip(x: Tensor, *, low: float = -torch.inf, high: float = torch.inf) -> Tensor:
    return x.clamp(low, high)


@twin("reduce.sum")
def sum_(x: Tensor, *, axes: tuple[int, ...], keepdims: bool = False) -> Tensor:
    return x.sum(axes, keepdim=keepdims) if axes else x


@twin("reduce.mean")
def mean(x: Tensor, *, axes: tuple[int, ...], keepdims: bool = False) -> Tensor:
    return x.mean(axes, keepdim=keepdims) if axes else x


@twin("reduce.max")
def max_(x: Tensor, *, axes: tuple[int, ...], keepdims: bool = False) -> Tensor:
    return x.amax(axes, keepdim=keepdims) if axes else x


@twin("reduce.min")
def min_(x: Tensor, *, axes: tuple[int, ...], keepdims: bool = False) -> Tensor:
    return x.amin(axes, keepdim=keepdims) if axes else x


@twin("view.reshape")
def reshape(x: Tensor, *, shape: tuple[int, ...]) -> Tensor:
    return x.reshape(shape)


@twin("view.transpose")
def transpose(x: Tensor, *, perm: tuple[int, ...]) -> Tensor:
    return x.permute(perm)


@twin("view.expand")
def expand(x: Tensor, *, shape: tuple[int, ...]) -> Tensor:
    return x.expand(shape)


@twin("view.slice")
def slice_(x: Tensor, *, axis: int, start: int = 0, stop: int, step: int = 1) -> Tensor:
    return x.index_select(axis, torch.arange(start, stop, step))


@twin("view.concat")
def concat(*xs: Tensor, axis: int) -> Tensor:
    return torch.cat(xs, axis)
