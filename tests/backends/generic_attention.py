"""Attention cases of test_generic.py: op, types of the operands, attributes, makers of operands, tolerance."""

from __future__ import annotations

from typing import Any

import numpy as np


def _hidden(sizes: dict[str, int], rng: np.random.Generator) -> np.ndarray:
    return np.where(rng.random((sizes["A"], 1, 1, sizes["D"])) < 0.5, -np.inf, 0)


def _positive_totals(sizes: dict[str, int], rng: np.random.Generator) -> np.ndarray:
    """Parts of attention: sums, the largest score, the total of the weights."""
    parts = rng.standard_normal((sizes["A"], sizes["B"], sizes["C"], 4, 7))
    parts[..., 6] = np.abs(parts[..., 6]) + 1
    return parts


def _rates(sizes: dict[str, int], rng: np.random.Generator) -> np.ndarray:
    """Small enough that the delta rule corrects random keys without growing."""
    return rng.uniform(0, 0.1, (sizes["A"], sizes["D"], 2))


def _decay(sizes: dict[str, int], rng: np.random.Generator) -> np.ndarray:
    return -rng.uniform(0, 1, (sizes["A"], sizes["D"], 2, 6))


_FLOATS = ("f32[A, C, 4, 6]", "f32[A, D, 2, 6]", "f32[A, D, 2, 5]")
_SYMBOLIC = ("f32[A, C, 4, B]", "f32[A, D, 2, B]", "f32[A, D, 2, C]")
_CODES = ("i8[A, C, 4, 6]", "f32[A, C, 4]", "i8[A, D, 2, 6]", "f32[A, D, 2]", "f32[A, D, 2, 5]")
_LINEAR = ("f32[A, D, 4, 6]", "f32[A, D, 2, 6]", "f32[A, D, 2, 5]")
_MAPS = ("elu", "relu", "exp", "softmax")

ATTENTION: list[tuple[Any, ...]] = [
    ("nn.attention", _FLOATS, {"scale": 0.4}),
    ("nn.attention", _FLOATS, {"scale": 0.4, "causal": True}),
    ("nn.attention", (*_FLOATS, "f32[A, 1, 1, D]"), {"scale": 0.4}, {3: _hidden}),
    ("nn.attention", (*_FLOATS, "bool[A, 1, C, D]"), {"scale": -0.4}),
    ("nn.quantised_attention", _CODES, {"scale": 0.001, "softcap": 2.0, "causal": True}),
    ("nn.quantised_attention", (*_CODES, "f32[A, 1, 1, D]"), {"scale": 0.001}, {5: _hidden}),
    ("nn.attention_parts", _FLOATS, {"scale": 0.4, "chunk": 2}),
    ("nn.attention_parts", _SYMBOLIC, {"scale": 0.4, "chunk": 2}),
    ("nn.attention_merge", ("f32[A, B, C, 4, 7]",), {}, {0: _positive_totals}, 1e-4),
    ("nn.delta_attention", (*_LINEAR, "f32[A, D, 2]"), {}, {3: _rates}, 1e-3),
    ("nn.delta_attention", (*_LINEAR, "f32[A, D, 2]", "f32[A, D, 2, 6]"), {}, {3: _rates, 4: _decay}, 1e-3),
    *(("nn.linear_attention", _LINEAR, {"map": m, "causal": m != "exp", "eps": 1e-3}, {}, 1e-4) for m in _MAPS),
]
