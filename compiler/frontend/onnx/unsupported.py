"""Finds every operator of a model that cannot be imported, before the import starts, so that all are told at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx

from nomul.frontend.common import UNSUPPORTED_OP
from nomul.frontend.onnx.functions import Functions, is_importable
from nomul.frontend.onnx.model import domain_name, domain_versions
from nomul.ir.errors import NomulError, Problem

_RECURRENT = "recurrent layers are not supported; export the model with attention or convolutions, or unroll it"
_DATA = "its result's shape depends on the data; cut the model before it and run the rest outside"
_RANDOM = "results would differ from run to run; export the model in evaluation mode"
_HINTS = {
    **dict.fromkeys(("LSTM", "GRU", "RNN", "Scan"), _RECURRENT),
    **dict.fromkeys(("NonMaxSuppression", "Unique", "StringSplit", "ImageDecoder"), _DATA),
    **dict.fromkeys(("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial"), _RANDOM),
}


@dataclass
class _Missing:
    first: str
    opset: int
    count: int = 0


def check_operators(nodes: Sequence[onnx.NodeProto], opsets: dict[str, int], functions: Functions) -> None:
    """Raises NomulError (NM201) with one problem for each unsupported operator: count, first use, hint."""
    missing: dict[tuple[str, str], _Missing] = {}
    _scan(nodes, opsets, functions, missing, set())
    if missing:
        raise NomulError.many([_problem(domain, name, found) for (domain, name), found in missing.items()])


def node_loc(node: onnx.NodeProto) -> str:
    """The source layer of a node: its name, or its operator and first output."""
    return node.name or f"{node.op_type}:{next(iter(node.output), '')}"


def _scan(
    nodes: Iterable[onnx.NodeProto],
    opsets: dict[str, int],
    functions: Functions,
    missing: dict[tuple[str, str], _Missing],
    seen: set[tuple[str, str]],
) -> None:
    for node in nodes:
        key = (domain_name(node.domain), node.op_type)
        opset = opsets.get(key[0], 1)
        if key in functions:
            if key not in seen:
                seen.add(key)
                body = functions[key]
                _scan(body.node, domain_versions(body.opset_import), functions, missing, seen)
        elif key in missing or not is_importable(*key, opset, functions):
            missing.setdefault(key, _Missing(node_loc(node), opset)).count += 1


def _problem(domain: str, name: str, found: _Missing) -> Problem:
    full = f"{domain}.{name}" if domain else name
    nodes = "1 node" if found.count == 1 else f"{found.count} nodes"
    message = f"operator {full} (operator set {found.opset}) is not supported: {nodes}, the first is '{found.first}'"
    return Problem(UNSUPPORTED_OP, message, found.first, _HINTS.get(name))
