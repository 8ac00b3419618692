"""Element-wise functions of one number: exponentials, trigonometry and the activations of neural networks."""

from __future__ import annotations

from typing import Literal

import numpy as np

from nomul.ir import numerics
from nomul.ir.op import Kind, op

EW = Kind.ELEMENTWISE


@op("ew.exp", EW)
def exp(x: "f[*]") -> "f[*]":
    """e to the power x."""
    return np.exp(x)


@op("ew.log", EW)
def log(x: "f[*]") -> "f[*]":
    """Natural logarithm."""
    return np.log(x)


@op("ew.log1p", EW)
def log1p(x: "f[*]") -> "f[*]":
    """log(1 + x), exact near zero."""
    return np.log1p(x)


@op("ew.sin", EW)
def sin(x: "f[*]") -> "f[*]":
    """Sine of radians."""
    return np.sin(x)


@op("ew.cos", EW)
def cos(x: "f[*]") -> "f[*]":
    """Cosine of radians."""
    return np.cos(x)


@op("ew.tanh", EW)
def tanh(x: "f[*]") -> "f[*]":
    """Hyperbolic tangent."""
    return np.tanh(x)


@op("ew.erf", EW)
def erf(x: "f[*]") -> "f[*]":
    """The error function."""
    return numerics.erf(x)


@op("ew.sigmoid", EW)
def sigmoid(x: "f[*]") -> "f[*]":
    """1 / (1 + exp(-x))."""
    return numerics.sigmoid(x)


@op("ew.relu", EW)
def relu(x: "n[*]") -> "n[*]":
    """max(x, 0)."""
    return np.maximum(x, x.dtype.type(0))


@op("ew.leaky_relu", EW)
def leaky_relu(x: "f[*]", *, slope: float = 0.01) -> "f[*]":
    """x where positive, else slope * x."""
    return np.where(x >= 0, x, x * x.dtype.type(slope))


@op("ew.elu", EW)
def elu(x: "f[*]", *, alpha: float = 1.0) -> "f[*]":
    """x where positive, else alpha * (exp(x) - 1)."""
    return np.where(x > 0, x, x.dtype.type(alpha) * np.expm1(np.minimum(x, 0)))


@op("ew.gelu", EW)
def gelu(x: "f[*]", *, approximate: Literal["none", "tanh"] = "none") -> "f[*]":
    """x * Phi(x) by erf, or by tanh with approximate="tanh" (Hendrycks and Gimpel 2016)."""
    if approximate == "tanh":
        inner = x.dtype.type(np.sqrt(2 / np.pi)) * (x + x.dtype.type(0.044715) * x * x * x)
        return x.dtype.type(0.5) * x * (1 + np.tanh(inner))
    return x.dtype.type(0.5) * x * (1 + numerics.erf(x * x.dtype.type(np.sqrt(0.5))))


@op("ew.silu", EW)
def silu(x: "f[*]") -> "f[*]":
    """x * sigmoid(x)."""
    return x * numerics.sigmoid(x)


@op("ew.mish", EW)
def mish(x: "f[*]") -> "f[*]":
    """x * tanh(softplus(x))."""
    return x * np.tanh(numerics.softplus(x))


@op("ew.softplus", EW)
def softplus(x: "f[*]") -> "f[*]":
    """log(1 + exp(x))."""
    return numerics.softplus(x)


@op("ew.hard_sigmoid", EW)
def hard_sigmoid(x: "f[*]", *, alpha: float = 1 / 6, beta: float = 0.5) -> "f[*]":
    """clip(alpha * x + beta, 0, 1)."""
    y = x.dtype.type(alpha) * x + x.dtype.type(beta)
    return np.minimum(np.maximum(y, x.dtype.type(0)), x.dtype.type(1))


@op("ew.hard_swish", EW)
def hard_swish(x: "f[*]") -> "f[*]":
    """x * clip(x / 6 + 1/2, 0, 1)."""
    gate = x * x.dtype.type(1 / 6) + x.dtype.type(0.5)
    return x * np.minimum(np.maximum(gate, x.dtype.type(0)), x.dtype.type(1))
