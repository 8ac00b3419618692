"""Exponentials, trigonometry and activations: thin rules over `backends/mathlib.py`."""

from __future__ import annotations

from tvm import tirx

from nomul.backends import mathlib
from nomul.backends.emit import Expr, rule
from nomul.backends.expressions import at_least, at_most, bind, constant, fma
from nomul.ir.graph import Node

for _op, _function in {
    "exp": mathlib.exp,
    "log": mathlib.log,
    "log1p": mathlib.log1p,
    "sin": mathlib.sin,
    "cos": mathlib.cos,
    "tanh": mathlib.tanh,
    "erf": mathlib.erf,
    "sigmoid": mathlib.sigmoid,
    "silu": mathlib.silu,
    "mish": mathlib.mish,
    "softplus": mathlib.softplus,
}.items():
    rule(f"ew.{_op}")(lambda node, x, function=_function: function(x))


@rule("ew.relu")
def relu(node: Node, x: Expr) -> Expr:
    return tirx.Select(x < constant(x, 0), constant(x, 0), x)


@rule("ew.leaky_relu")
def leaky_relu(node: Node, x: Expr) -> Expr:
    return tirx.Select(x >= constant(x, 0.0), x, x * constant(x, node.attrs["slope"]))


@rule("ew.elu")
def elu(node: Node, x: Expr) -> Expr:
    below = constant(x, node.attrs["alpha"]) * mathlib.expm1(bind(at_most(x, 0.0)))
    return tirx.Select(x > constant(x, 0.0), x, below)


@rule("ew.gelu")
def gelu(node: Node, x: Expr) -> Expr:
    return mathlib.gelu_tanh(x) if node.attrs["approximate"] == "tanh" else mathlib.gelu(x)


def _hard_sigmoid(x: Expr, alpha: float, beta: float) -> Expr:
    return bind(at_most(bind(at_least(fma(x, constant(x, alpha), constant(x, beta)), 0.0)), 1.0))


@rule("ew.hard_sigmoid")
def hard_sigmoid(node: Node, x: Expr) -> Expr:
    return _hard_sigmoid(x, node.attrs["alpha"], node.attrs["beta"])


@rule("ew.hard_swish")
def hard_swish(node: Node, x: Expr) -> Expr:
    return x * _hard_sigmoid(x, 1 / 6, 0.5)
