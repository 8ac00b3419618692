"""Eight-bit activations and their products with encoded weights: the arithmetic that kernels match bit for bit.

A row x of activations becomes integers q = round(x * (levels / absmax)), halves to even, with the scale
absmax / levels; for fixed scales q = round(x * (1 / scale)), limited to [-levels, levels]. levels is 127, or less where
sums of a few q are to fit eight bits (42: of three, 25: of five). All of it in f32, each operation rounded once; a row
whose absmax is below 1e-30 becomes zeros with scale 0, and one with a NaN or an infinity gives NaN everywhere.

Encoded weights are terms, integer matrices with a scale for each group of columns (`ir/encodings/terms.py`). The sum of
q * code over one group of one term is an integer and exact: this is the part that every kernel must agree on. Then

    y = 0;  for each term:  for each group, in order:  y = y + f32(sum) * weight_scale;      at last  y = y * scale

in f32; only these roundings may differ between kernels (a fused multiply-add, several groups at once).
Weights without such a form (f32, sixteen-bit floats) are multiplied by q * scale in f32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np

from nomul.ir.encodings.terms import EncodedArray, IntegerTerm
from nomul.ir.signature import TypeFault
from nomul.ir.types import Tensor

LEVELS = 127
LEAST = np.float32(1e-30)  # the least absmax of a row that is not taken for zero; 127 / absmax stays finite
_EXACT = {np.float32: 2**24, np.float64: 2**53}  # integers below are exact, so sums of such products are in any order


def verify_act(types: Sequence[Tensor | None], attrs: Mapping[str, Any]) -> None:
    """Raises TypeFault: a fixed scale must be there for `i8-static`, and only there; levels only where q is."""
    static, scale = attrs["act"] == "i8-static", attrs["act_scale"]
    verify_levels(types, {"levels": attrs["levels"] if "levels" in attrs else attrs["act_levels"]})
    if attrs["act"] == "f32" and attrs["act_levels"] != LEVELS:
        raise TypeFault(f"act_levels={attrs['act_levels']} means nothing with act='f32'")
    if static and not (isfinite(scale) and scale >= LEAST):
        raise TypeFault(f"act='i8-static' needs a positive act_scale, not {scale}")
    if not static and scale:
        raise TypeFault(f"act_scale={scale} means nothing with act='{attrs['act']}'")


def verify_levels(types: Sequence[Tensor | None], attrs: Mapping[str, Any]) -> None:
    """Raises TypeFault: levels are 1 to 127."""
    if not 1 <= attrs["levels"] <= LEVELS:
        raise TypeFault(f"levels are 1 to {LEVELS}, not {attrs['levels']}")


def quantise(rows: np.ndarray, act: str, act_scale: float, levels: int = LEVELS) -> tuple[np.ndarray, np.ndarray]:
    """q i8 [M, K] and scale f32 [M] of float rows [M, K]. act: i8 (a scale for each row) or i8-static."""
    x = rows.astype(np.float32, copy=False)
    with np.errstate(all="ignore"):
        most = np.abs(x).max(axis=1, initial=0)
        if act == "i8-static":
            scale = np.full(len(x), act_scale, np.float32)
            inverse = np.float32(1) / scale
        else:
            zero = most < LEAST
            scale = np.where(zero, np.float32(0), most / np.float32(levels))
            inverse = np.where(zero, np.float32(0), np.float32(levels) / most)
        steps = np.rint(x * inverse[:, None]).clip(-levels, levels)
    finite = np.isfinite(most)
    q = np.where(finite[:, None], steps, 0).astype(np.int8)
    return q, np.where(finite, scale, np.float32(np.nan)).astype(np.float32)


def product(q: np.ndarray, scale: np.ndarray, w: EncodedArray | np.ndarray, rows: slice = slice(None)) -> np.ndarray:
    """f32 [M, N]: quantised activations q [M, K], scale [M] times weights, of which `rows` are taken, as [N, K]."""
    terms = w.terms if isinstance(w, EncodedArray) else None
    if terms is None:
        dense = w.dense if isinstance(w, EncodedArray) else w
        matrix = dense.reshape(len(dense), -1)[rows].astype(np.float32, copy=False)
        return (q * scale[:, None]) @ matrix.T
    total = np.zeros((len(q), len(range(*rows.indices(w.shape[0])))), np.float32)
    for term in terms:
        _add_term(total, q, term, rows)
    return total * scale[:, None]


def _add_term(total: np.ndarray, q: np.ndarray, term: IntegerTerm, rows: slice) -> None:
    codes, scale = term.codes[rows], term.scale[rows]
    size = codes.shape[1] // scale.shape[1]
    largest = LEVELS * int(np.abs(codes.astype(np.int32)).max(initial=0)) * size
    kind = next(kind for kind, limit in _EXACT.items() if largest < limit)
    left = (q if term.columns is None else q[:, term.columns]).astype(kind)
    right = codes.T.astype(kind)
    for group in range(scale.shape[1]):
        columns = slice(group * size, (group + 1) * size)
        sums = left[:, columns] @ right[columns]
        total += sums.astype(np.float32) * scale[:, group]


def dense_weights(w: EncodedArray | np.ndarray) -> np.ndarray:
    """The weights that an op multiplies in floats."""
    return w.dense if isinstance(w, EncodedArray) else w
