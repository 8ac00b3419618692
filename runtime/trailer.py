"""What an artifact says of itself (facts: compressed JSON), and a checksum over the whole file, checked before loading.

Both are the last bytes of an ELF library:

    library | facts | length of the facts (8 bytes, little-endian) | magic (8) | SHA-256 of all that stands before (32)

System loaders look at the front of a file only, so the trailer disturbs nothing. Nothing may follow the signature of a
Mach-O library: there the facts are a section, and the hashes of the signature are the checksum.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nomul.runtime import macho
from nomul.runtime.errors import RuntimeFault

MAGIC = b"nomul.2\n"
FACTS_SECTION = ("__TEXT", "__nomul")  # of a Mach-O library
_FOOTER = struct.Struct("<Q8s32s")
_LARGEST_FACTS = 2**28  # bytes of JSON: a damaged file must not fill the memory
_CHECKED = 16  # bytes of the footer that the checksum covers


def library_at(path: Path) -> Path:
    """The library itself where `path` is a bundle, otherwise `path`."""
    inside = (path / name for name in ("model.so", "model.dylib"))
    return next((library for library in inside if library.is_file()), path)


def pack_facts(facts: Mapping[str, Any]) -> bytes:
    """The bytes that stand in an artifact; equal facts give equal bytes."""
    return zlib.compress(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode(), 9)


def append_trailer(library: Path, facts: Mapping[str, Any]) -> None:
    """Makes an artifact of a library. Equal inputs give equal bytes. Raises OSError."""
    packed = pack_facts(facts)
    head = packed + _FOOTER.pack(len(packed), MAGIC, b"")[:_CHECKED]
    with library.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256")
        digest.update(head)
        file.seek(0, os.SEEK_END)
        file.write(head + digest.digest())


def read_facts(path: Path, verify: bool = True) -> dict[str, Any]:
    """The JSON of the artifact at `path`, after the checksum of the whole file was found right.

    Raises RuntimeFault NM601 (cannot be read), NM602 (no artifact of ours, or not all of it), NM603 (damaged)."""
    try:
        with path.open("rb") as file:
            if path.stat().st_size < _FOOTER.size:
                raise _not_an_artifact(path)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _macho_facts(path, data, verify) if data[:4] == macho.MAGIC else _facts(path, data, verify)
    except OSError as error:
        raise RuntimeFault("NM601", f"cannot read {path}: {error.strerror or error}") from error


def _facts(path: Path, data: mmap.mmap, verify: bool) -> dict[str, Any]:
    size = len(data)
    length, magic, digest = _FOOTER.unpack(data[size - _FOOTER.size :])
    if magic != MAGIC or length > size - _FOOTER.size:
        raise _not_an_artifact(path)
    if verify:
        with memoryview(data) as view, view[: size - len(digest)] as checked:
            found = hashlib.sha256(checked).digest()
        if found != digest:
            raise _damaged(path)
    return _parse(path, data[size - _FOOTER.size - length : size - _FOOTER.size])


def _macho_facts(path: Path, data: mmap.mmap, verify: bool) -> dict[str, Any]:
    try:
        file = macho.MachO(data)
        places = [part for part in file.sections() if (part.segment, part.name) == FACTS_SECTION]
        if len(places) != 1:
            raise _not_an_artifact(path)
        if verify and not file.is_intact():
            raise _damaged(path)
    except ValueError as error:
        raise _not_an_artifact(path) from error
    return _parse(path, data[places[0].offset : places[0].offset + places[0].size])


def _parse(path: Path, packed: bytes) -> dict[str, Any]:
    unpack = zlib.decompressobj()
    try:
        facts = json.loads(unpack.decompress(packed, _LARGEST_FACTS))
    except (ValueError, zlib.error) as error:
        raise _not_an_artifact(path) from error
    if not isinstance(facts, dict):
        raise _not_an_artifact(path)
    return facts


def _damaged(path: Path) -> RuntimeFault:
    return RuntimeFault("NM603", f"{path} is damaged: its checksum is wrong", "copy or compile it again")


def _not_an_artifact(path: Path) -> RuntimeFault:
    help = "a stripped or truncated library has lost its last bytes; compile it again"
    return RuntimeFault("NM602", f"{path} is no nomul artifact, or not all of it", help)
