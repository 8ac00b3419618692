"""Softmax attention to the critical blocks of keys, linear attention to the rest (Zhang et al., "SLA", 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from nomul.ir.attention import repeated as repeated_array
from nomul.ir.dim import Dim, ceil_div
from nomul.ir.graph import Value
from nomul.ir.ops.attention import attention
from nomul.ir.ops.attention_sparse import sparse_linear_attention
from nomul.passes.exchange.base import AttentionLayer, Form, Operands
from nomul.passes.rule import Rewriter
from nomul.passes.rules.expand.terms import repeated

RIDGE = 1e-3  # of the mean square of the linear part
PARTS = 1000  # shares are thousandths


@dataclass(frozen=True)
class SparseLinear(Form):
    """Softmax over the share `critical` of the blocks of keys, none of the share `negligible`, linear for the others.

    The linear part is multiplied by a matrix that least squares find on calibration data (without that: zeros)."""

    name: ClassVar[str] = "sla"
    takes: ClassVar[frozenset[str]] = frozenset({"past", "cross"})
    critical: float = 0.05
    negligible: float = 0.1
    block: int = 64

    def __post_init__(self) -> None:
        if not 0 < self.critical <= 1 or not 0 <= self.negligible <= 1 - self.critical:
            raise ValueError(f"critical = {self.critical:g} and negligible = {self.negligible:g} are no shares of 1")
        if self.block < 1:
            raise ValueError(f"block is a number above 0, not {self.block}")

    @property
    def learns(self) -> bool:
        return True

    def build(self, g: Rewriter, layer: AttentionLayer, samples: Sequence[Operands]) -> Value:
        q, k, v = layer.operands
        k, v = (repeated(g, x, q.shape[2]) for x in (k, v))
        scale, tokens = layer.node.attrs["scale"], k.shape[1]
        matrix = self._projection(samples, scale, int(v.shape[3]))
        projection = g.weight(f"{layer.name}.projection", matrix)
        return g.nn.sparse_linear_attention(q, k, v, projection, **self._rules(tokens), scale=scale)

    def _rules(self, tokens: Dim) -> dict[str, Any]:
        """Attributes of the op: ceil(critical * T / block) blocks, and floor(negligible * T / block)."""
        near, far = (_parts(share) for share in (self.critical, self.negligible))
        return {
            "critical": ceil_div(tokens * near, PARTS * self.block),
            "negligible": (tokens * far) // (PARTS * self.block),
            "block": self.block,
        }

    def _projection(self, samples: Sequence[Operands], scale: float, size: int) -> np.ndarray:
        """[E, E] that makes the linear part like what softmax attention to the critical blocks alone lacks."""
        squares, products = np.zeros((size, size)), np.zeros((size, size))
        for operands in samples:
            q, k, v = (array for array in operands[:3] if array is not None)
            whole = attention.function(q, k, v, scale=scale)
            k, v = (repeated_array(x, q.shape[2]) for x in (k, v))
            rules = {name: int(value) for name, value in self._rules(Dim.of(k.shape[1])).items()}
            zero, unit = np.zeros((size, size), v.dtype), np.eye(size, dtype=v.dtype)
            sparse, both = (
                sparse_linear_attention.function(q, k, v, matrix, **rules, scale=scale) for matrix in (zero, unit)
            )
            linear, rest = ((x - sparse).reshape(-1, size).astype(np.float64) for x in (both, whole))
            squares += linear.T @ linear
            products += rest.T @ linear
        ridge = RIDGE * np.trace(squares) / size
        if not samples or not ridge > 0:
            return np.zeros((size, size), np.float32)
        return np.linalg.solve(squares + ridge * np.eye(size), products.T).T.astype(np.float32)


def _parts(share: float) -> int:
    return max(1, round(Fraction(share) * PARTS)) if share else 0
