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
    """All sections of a little-endian ELF file."""
    assert file[:4] == b"\x7fELF" and file[5] == 1
    wide = file[4] == 2  # 64 bits
    (start,) = struct.unpack_from("<Q" if wide else "<I", file, 40 if wide else 32)
    entry_size, count, names_index = struct.unpack_from("<HHH", file, 58 if wide else 46)
    layout = "<IIQQQQIIQQ" if wide else "<10I"
    headers = [struct.unpack_from(layout, file, start + entry_size * i) for i in range(count)]
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
    layout, size = ("<IBBH", 24) if file[4] == 2 else ("<IIIBBH", 16)
    for offset in range(size, len(table), size):
        name, *_, section_index = struct.unpack_from(layout, table, offset)
        found.append(Symbol(names[name : names.index(b"\0", name)].decode(), section_index != 0))
    return found
