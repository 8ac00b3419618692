"""A safetensors file that grows: a dump adds weights when a pass makes new ones, and the file is whole after each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from weakref import ref

import numpy as np

from nomul.ir.errors import NomulError
from nomul.ir.graph import Module, Weight
from nomul.ir.weights_file import field_key, source_metadata

ROOM = 1 << 16  # first bytes of the file for the list of tensors; doubled when it is full
_DTYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32", "int32": "I32",
    "uint64": "U64", "int64": "I64", "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
}  # fmt: skip


class WeightsStore:
    """Holds every version of every weight once. A version's key is the weight's name, with `~2`, `~3`, ... behind it
    where an earlier version, or another weight, has that key.

    Raises NomulError (NM340) where the file cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._header: dict[str, object] = {}
        self._sources: dict[str, str] = {}
        self._room, self._size = ROOM, 0
        self._keys: dict[int, tuple[ref[np.ndarray], str]] = {}  # by id of a version's first array, while it lives
        self._taken = {"__metadata__"}

    def add(self, module: Module) -> dict[str, str]:
        """Store what is new. Returns the keys, by name, of weights whose key is not their name."""
        keys = {}
        new: dict[str, np.ndarray] = {}
        for weight in module.weights.values():
            if weight.fields:
                key = self._known(weight) or self._new(weight, new)
                if key != weight.name:
                    keys[weight.name] = key
        self._sources |= source_metadata(module, self._sources)
        if new or self._header.get("__metadata__") != self._sources or not self.path.exists():
            self._append(new)
        return keys

    def _known(self, weight: Weight) -> str | None:
        first = next(iter(weight.fields.values()))
        found = self._keys.get(id(first))
        return found[1] if found and found[0]() is first else None

    def _new(self, weight: Weight, new: dict[str, np.ndarray]) -> str:
        key, number = weight.name, 1
        while self._taken & (entries := {field_key(key, field) for field in weight.fields} | {key}):
            number += 1
            key = f"{weight.name}~{number}"
        self._taken |= entries
        first = next(iter(weight.fields.values()))
        self._keys[id(first)] = (ref(first), key)
        new |= {field_key(key, field): array for field, array in weight.fields.items()}
        return key

    # -- the file ----------------------------------------------------------------------------------------------
    def _append(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Data first, then the list that names it: an interrupt in between leaves the file as it was for readers."""
        try:
            if not self.path.exists():
                self.path.write_bytes(self._head(self._header))
            header = self._header | {"__metadata__": dict(self._sources)} | self._entries(arrays)
            while len(json.dumps(header)) > self._room:
                self._make_room()
            with self.path.open("r+b") as file:
                file.seek(8 + self._room + self._size)
                for array in arrays.values():
                    file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
                file.seek(0)
                file.write(self._head(header))
        except OSError as error:
            raise NomulError("NM340", f"cannot write the weights file {self.path}: {error.strerror}") from None
        self._header = header
        self._size += sum(array.nbytes for array in arrays.values())

    def _entries(self, arrays: Mapping[str, np.ndarray]) -> dict[str, object]:
        entries: dict[str, object] = {}
        offset = self._size
        for key, array in arrays.items():
            offsets = [offset, offset + array.nbytes]
            entries[key] = {"dtype": _DTYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
            offset += array.nbytes
        return entries

    def _head(self, header: Mapping[str, object]) -> bytes:
        return self._room.to_bytes(8, "little") + json.dumps(header).encode().ljust(self._room)

    def _make_room(self) -> None:
        old = 8 + self._room
        self._room *= 2
        part = self.path.with_suffix(".part")
        with self.path.open("rb") as source, part.open("wb") as target:
            target.write(self._head(self._header))
            source.seek(old)
            shutil.copyfileobj(source, target, 1 << 20)
        part.replace(self.path)
