"""The interface of a weight encoding: packed fields, and the numpy functions between them and a dense array."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self, get_type_hints

import numpy as np


@dataclass(frozen=True)
class Encoding:
    """A format for the weights of one tensor. Subclasses are frozen dataclasses; their fields are the parameters.

    name: as in `as NAME<parameter=value>`.
    """

    name: ClassVar[str] = ""

    def pack(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """Nearest representable weights, as packed fields by name. array: f32, any shape."""
        raise NotImplementedError

    def unpack(self, packed: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """The f32 weights that the fields mean, of the given shape. This is the definition of the encoding."""
        raise NotImplementedError

    def field_types(self, shape: tuple[int, ...]) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """dtype and shape of each packed field for weights of this shape. Raises ValueError where it does not fit."""
        raise NotImplementedError

    def bits_per_weight(self, shape: tuple[int, ...]) -> float:
        """Stored bits, scales included, divided by the number of weights."""
        raise NotImplementedError

    @classmethod
    def from_text(cls, parameters: Mapping[str, str]) -> Self:
        """The encoding that prints these parameters. Raises ValueError (a value), TypeError (a name)."""
        kinds = get_type_hints(cls)
        return cls(**{name: _parameter(kinds.get(name, str), text) for name, text in parameters.items()})

    def __str__(self) -> str:
        shown = [f"{f.name}={getattr(self, f.name)}" for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{self.name}<{', '.join(shown)}>" if shown else self.name


def _parameter(kind: Any, text: str) -> int | float | bool | str:
    if kind is bool:
        return {"True": True, "False": False}[text] if text in ("True", "False") else bool(int(text))
    return kind(text) if kind in (int, float) else text
