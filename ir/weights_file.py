"""Weights of a module in one safetensors file beside its text: the field `data` under the weight's name, any other
field under `NAME::FIELD`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nomul.ir.errors import NomulError, Problem
from nomul.ir.graph import Module, Weight
from nomul.ir.verifier import data_fault

SOURCE = "nomul.source"


def save_weights(module: Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the data of all weights under their names; the file appears whole or not at all. Equal modules and at most
    one entry of metadata give equal bytes.

    Raises NomulError: NM341 for a weight without data or two that need one name, NM340 where it cannot be written."""
    arrays: dict[str, np.ndarray] = {}
    for weight in module.weights.values():
        if not weight.fields:
            raise NomulError("NM341", f"weight @{weight.name} has no data to save")
        for field, array in weight.fields.items():
            key = field_key(weight.name, field)
            if key in arrays:
                raise NomulError("NM341", f"two weights need the name '{key}' in the file", help="rename one")
            arrays[key] = array if array.flags.c_contiguous else array.copy(order="C")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(arrays, part, dict(metadata) if metadata else None)
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        raise NomulError("NM340", f"cannot write the weights file {path}: {_reason(error)}") from None
    finally:
        part.unlink(missing_ok=True)


def load_weights(module: Module, path: Path) -> dict[str, str]:
    """Fill in the data of all weights of the module; other tensors in the file are left alone. Returns the metadata.

    Raises NomulError: NM340 for a file that cannot be read, NM341 for each weight that is missing or does not fit."""
    try:
        with safe_open(path, framework="np") as file:
            names = set(file.keys())
            found = {weight: _fields(weight, file, names) for weight in module.weights.values()}
            metadata: dict[str, str] = file.metadata() or {}
    except (OSError, ValueError, TypeError, AttributeError, SafetensorError) as error:
        raise NomulError("NM340", f"cannot read the weights file {path}: {_reason(error)}") from None
    problems = [problem for weight, fields in found.items() if (problem := _problem(weight, fields, path))]
    if problems:
        raise NomulError.many(problems)
    for weight, fields in found.items():
        weight.fields, weight.key = fields, ""
    return metadata


def source_metadata(module: Module, known: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """The facts of the source model, as metadata of a weights file. known: what the file has of other modules.

    A pass may add to the facts: those of a module `after` it stand under a name of their own where they differ."""
    if not module.source:
        return {}
    text, first = json.dumps(module.source), known.get(SOURCE)
    return {SOURCE: text} if first is None else {_source_key(module): text} if text != first else {}


def read_source(metadata: Mapping[str, str], module: Module) -> dict[str, Any]:
    """The reverse of `source_metadata`; empty where there is nothing of that kind."""
    try:
        facts = json.loads(metadata.get(_source_key(module)) or metadata.get(SOURCE, "{}"))
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _source_key(module: Module) -> str:
    return f"{SOURCE} after {module.after or module.level}"


def field_key(key: str, field: str) -> str:
    """The name in the file of one field of the weight that has this key."""
    return key if field == "data" else f"{key}::{field}"


def _key(weight: Weight, field: str) -> str:
    return field_key(weight.key or weight.name, field)


def _fields(weight: Weight, file: safe_open, names: set[str]) -> dict[str, np.ndarray]:
    encoding, shape = weight.type.encoding, tuple(int(size) for size in weight.shape)
    wanted = encoding.field_types(shape) if encoding else {"data": None}
    return {field: file.get_tensor(_key(weight, field)) for field in wanted if _key(weight, field) in names}


def _problem(weight: Weight, fields: dict[str, np.ndarray], path: Path) -> Problem | None:
    if not fields:
        what = f"weight @{weight.name}" + (f" ('{weight.key}')" if weight.key else "")
        return Problem("NM341", f"{what} is not in {path.name}")
    message = data_fault(Weight(weight.name, weight.type, fields))
    return Problem("NM341", f"weight @{weight.name} : {weight.type} {message} in {path.name}") if message else None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
