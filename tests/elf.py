"""Reads the little of an ELF file that tests ask about: section sizes and dynamic symbols. Needs no binutils."""

from __future__ import annotations

import struct
from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    name: str
    type: int
    flags: int
    data: bytes


@dataclass(frozen=True)
class Symbol:
    name: str
    defined: bool


def sections(file: bytes) -> list[Section]:
    """All sections of a 64-bit little-endian ELF file."""
    assert file[:6] == b"\x7fELF\x02\x01"
    (start,) = struct.unpack_from("<Q", file, 40)
    entry_size, count, names_index = struct.unpack_from("<HHH", file, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", file, start + entry_size * i) for i in range(count)]
    names_offset = headers[names_index][4]
    found = []
    for name, kind, flags, _, offset, size, *_ in headers:
        end = file.index(b"\0", names_offset + name)
        data = b"" if kind == 8 else file[offset : offset + size]  # 8: SHT_NOBITS
        found.append(Section(file[names_offset + name : end].decode(), kind, flags, data))
    return found


def code_bytes(file: bytes) -> int:
    """The size of all executable sections."""
    return sum(len(section.data) for section in sections(file) if section.flags & 4)


def dynamic_symbols(file: bytes) -> list[Symbol]:
    """The symbols that a shared library takes from others or gives to them."""
    by_name = {section.name: section.data for section in sections(file)}
    names, table = by_name[".dynstr"], by_name[".dynsym"]
    found = []
    for offset in range(24, len(table), 24):
        name, _, _, section_index = struct.unpack_from("<IBBH", table, offset)
        found.append(Symbol(names[name : names.index(b"\0", name)].decode(), section_index != 0))
    return found
