"""The rows of the weights table: stored bytes, range, share of zeros, and the error that an encoding brought."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from nomul.ir.graph import Module, Weight
from nomul.ir.text import type_text
from nomul.ir.weights_file import load_weights

Version = tuple[str, str]  # of a weight: key in the weights file, and type


class WeightTable:
    """Rows of weights, each version of a weight once. file: holds the data; None: only names and types are known.
    losses: errors by name that the compile noted, for weights whose data before the encoding is not there.

    Rows: [name, type, encoding, bytes, elements, lowest, highest, zero share, error]; None where unknown. error: the
    norm of what the encoding changed, relative to the norm of the weight of that name and shape before."""

    def __init__(self, file: Path | None, losses: Mapping[str, float] = MappingProxyType({})) -> None:
        self.rows: list[list[Any]] = []
        self._file, self._losses = file, losses
        self._known: dict[Version, int] = {}

    def add(self, module: Module, before: Module | None) -> list[int]:
        """The numbers of the rows of a module's weights. before: the module in front of its pass."""
        old = before.weights if before else {}
        return [self._row(weight, old.get(name)) for name, weight in module.weights.items()]

    def _row(self, weight: Weight, before: Weight | None) -> int:
        version = (weight.key or weight.name, type_text(weight.type))
        if version not in self._known:
            self._known[version] = len(self.rows)
            self.rows.append(self._facts(weight, before))
        return self._known[version]

    def _facts(self, weight: Weight, before: Weight | None) -> list[Any]:
        array = self._array(weight)
        error = self._losses.get(weight.name) if weight.type.encoding else None
        if array is not None and weight.type.encoding and before is not None and not before.type.encoding:
            error = self._error(array, before)
        shape = tuple(int(size) for size in weight.shape)
        encoding = str(weight.type.encoding) if weight.type.encoding else ""
        plain = type_text(weight.type.with_shape(weight.shape))
        facts = [weight.name, plain, encoding, stored_bytes(weight), prod(shape)]
        return [*facts, *(_range(array) if array is not None else [None] * 3), error]

    def _error(self, array: np.ndarray, before: Weight) -> float | None:
        dense = self._array(before)
        if dense is None or dense.shape != array.shape:
            return None
        norm = float(np.linalg.norm(dense))
        return float(np.linalg.norm(dense - array)) / norm if norm else None

    def _array(self, weight: Weight) -> np.ndarray | None:
        """The decoded data, read for this call alone: not all weights need to fit into memory."""
        if self._file is None:
            return None
        probe = Module()
        twin = probe.add_weight(Weight(weight.name, weight.type, key=weight.key))
        load_weights(probe, self._file)
        return np.asarray(twin.array())


def noted_losses(facts: Mapping[str, Any]) -> dict[str, float]:
    """Relative errors by weight name, from what an artifact says of its encoded layers."""
    return {fact["name"]: 10 ** (-fact["weights"]["sqnr_db"] / 20) for fact in facts.get("encoded", [])}


def stored_bytes(weight: Weight) -> int:
    """Bytes of all packed fields, from the type alone."""
    shape = tuple(int(size) for size in weight.shape)
    if weight.type.encoding is None:
        return prod(shape) * weight.dtype.bytes
    fields = weight.type.encoding.field_types(shape)
    return sum(prod(shape) * np.dtype(dtype).itemsize for dtype, shape in fields.values())


def _range(array: np.ndarray) -> list[float | None]:
    """Lowest and highest finite value, and the share of zeros."""
    if not array.size:
        return [None, None, None]
    wide = array.astype(np.float32, copy=False) if array.dtype.kind not in "iub" else array
    low, high = float(wide.min()), float(wide.max())
    if not np.isfinite([low, high]).all():
        finite = wide[np.isfinite(wide)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return [low, high, 1.0 - np.count_nonzero(array) / array.size]
