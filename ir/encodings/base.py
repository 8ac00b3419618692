"""The interface of a weight encoding: packed fields, and the numpy functions between them and a dense array."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_args, get_type_hints

import numpy as np

from nomul.ir.encodings.work import Work, dense_work

if TYPE_CHECKING:
    from nomul.ir.encodings.terms import IntegerTerm

FieldTypes = dict[str, tuple[np.dtype, tuple[int, ...]]]


@dataclass(frozen=True)
class Encoding:
    """A format for the weights of one tensor. Subclasses are frozen dataclasses; their fields are the parameters.

    name: as in `as NAME<parameter=value>`; a parameter `pack_` prints as `pack`.
    """

    name: ClassVar[str] = ""

    @property
    def shared(self) -> tuple[str, ...]:
        """The packed fields that belong to all rows at once; any other has the rows of the tensor on its first axis."""
        return ()

    @property
    def is_integer(self) -> bool:
        """Whether weights have `integer_terms`."""
        return False

    def pack(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """Nearest representable weights, as packed fields by name. array: f32, any shape."""
        raise NotImplementedError

    def unpack(self, packed: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """The f32 weights that the fields mean, of the given shape. This is the definition of the encoding."""
        raise NotImplementedError

    def field_types(self, shape: tuple[int, ...]) -> FieldTypes:
        """dtype and shape of each packed field for weights of this shape. Raises ValueError where it does not fit."""
        raise NotImplementedError

    def integer_terms(self, packed: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> tuple[IntegerTerm, ...] | None:
        """The weights as a sum of integer matrices times scales, or None where the format has no such form."""
        return None

    def work(self, shape: tuple[int, ...]) -> Work:
        """The arithmetic of a product with weights of this shape, for one row of inputs."""
        return dense_work(shape)

    def bits_per_weight(self, shape: tuple[int, ...]) -> float:
        """Stored bits, scales and all other fields included, divided by the number of weights."""
        stored = sum(dtype.itemsize * prod(size) for dtype, size in self.field_types(shape).values())
        return 8 * stored / max(prod(shape), 1)

    @classmethod
    def from_text(cls, parameters: Mapping[str, str | Encoding]) -> Self:
        """The encoding that prints these parameters. Raises ValueError (a value), TypeError (a name)."""
        kinds, fields_of = get_type_hints(cls), {f.name.removesuffix("_"): f.name for f in fields(cls)}
        for name in parameters:
            if name not in fields_of:
                raise TypeError(f"there is no parameter '{name}', but {', '.join(fields_of) or 'none'}")
        named = {fields_of[name]: text for name, text in parameters.items()}
        return cls(**{name: _parameter(kinds[name], text) for name, text in named.items()})

    def __str__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        shown = ", ".join(f"{name.removesuffix('_')}={value}" for name, value in given.items())
        return f"{self.name}<{shown}>" if shown else self.name


def _parameter(kind: Any, text: str | Encoding) -> int | float | bool | str | Encoding | None:
    nested = Encoding in (kind, *get_args(kind))
    if text == "f32" and nested and type(None) in get_args(kind):
        return None
    if nested or isinstance(text, Encoding):
        return _nested(text) if nested else _refuse(text)
    if kind is bool:
        return {"True": True, "False": False}[text] if text in ("True", "False") else bool(int(text))
    return kind(text) if kind in (int, float) else text


def _nested(text: str | Encoding) -> Encoding:
    from nomul.ir.encodings import all_encodings

    if isinstance(text, Encoding):
        return text
    if text not in all_encodings():
        raise ValueError(f"'{text[:40]}' is not an encoding")
    return all_encodings()[text]()


def _refuse(encoding: str | Encoding) -> str:
    raise ValueError(f"{encoding} stands where no encoding can be")
