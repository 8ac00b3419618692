"""AttributeProto to Python values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from onnx import AttributeProto

from nomul.frontend.common import UNSUPPORTED_FORM
from nomul.frontend.onnx.tensors import read_tensor
from nomul.ir.errors import NomulError

_SINGLE = {AttributeProto.FLOAT: "f", AttributeProto.INT: "i", AttributeProto.GRAPH: "g"}
_LISTS = {AttributeProto.FLOATS: "floats", AttributeProto.INTS: "ints"}


def attribute_value(attribute: AttributeProto, folder: Path | None) -> Any:
    """float, int, str, array, GraphProto or a list of these. Raises NomulError (NM202) for other kinds."""
    kind = attribute.type
    if kind in _SINGLE:
        return getattr(attribute, _SINGLE[kind])
    if kind in _LISTS:
        return list(getattr(attribute, _LISTS[kind]))
    if kind == AttributeProto.STRING:
        return attribute.s.decode("utf-8", "replace")
    if kind == AttributeProto.STRINGS:
        return [text.decode("utf-8", "replace") for text in attribute.strings]
    if kind == AttributeProto.TENSOR:
        return read_tensor(attribute.t, folder)
    raise NomulError(UNSUPPORTED_FORM, f"attribute '{attribute.name}' is of a kind that is not supported")


def resolve_references(
    attributes: Iterable[AttributeProto], given: Mapping[str, AttributeProto]
) -> dict[str, AttributeProto]:
    """Attributes by name; inside a function, one that refers to an attribute of the call takes the call's value."""
    resolved = {}
    for attribute in attributes:
        if not attribute.ref_attr_name:
            resolved[attribute.name] = attribute
        elif attribute.ref_attr_name in given:
            renamed = AttributeProto()
            renamed.CopyFrom(given[attribute.ref_attr_name])
            renamed.name = attribute.name
            resolved[attribute.name] = renamed
    return resolved
