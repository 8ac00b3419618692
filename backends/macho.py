"""What a Mach-O library needs beside zig's linker, which exports every global symbol and leaves pages half filled."""

from __future__ import annotations

import struct

from nomul.runtime.macho import DYSYMTAB, PAGE, SEGMENT, SYMTAB, MachO

# nlist_64: n_strx, n_type, n_sect, n_desc, n_value
_ENTRY = struct.Struct("<IBBHQ")
_EXTERNAL, _PRIVATE_EXTERNAL, _IN_SECTION, _TYPE = 0x01, 0x10, 0x0E, 0x0E
_WEAK_DEFINITION = 0x80


def hide_symbols(code: bytes) -> bytes:
    """An object file whose global symbols stay inside the library that it is linked into.

    Weak ones, TVM's conversions of half floats, become local: zig takes such from the system instead."""
    data = bytearray(code)
    for place, entry in _entries(MachO(data)):
        name, kind, section, description, value = entry
        if kind & _TYPE != _IN_SECTION or not kind & _EXTERNAL:
            continue
        if description & _WEAK_DEFINITION:
            entry = (name, kind & ~_EXTERNAL, section, description & ~_WEAK_DEFINITION, value)
        else:
            entry = (name, kind | _PRIVATE_EXTERNAL, section, description, value)
        _ENTRY.pack_into(data, place, *entry)
    return bytes(data)


def finish(library: bytes, symbol: str) -> bytes:
    """The library with whole pages and one exported symbol, `symbol` (with its leading underscore), signed again."""
    data = bytearray(library)
    file = MachO(data)
    offset, size = file.exports_place()
    trie = _trie(symbol.encode(), file.exports()[symbol])
    assert len(trie) <= size
    data[offset : offset + size] = trie.ljust(size, b"\0")
    _make_local(file, data, symbol.encode())
    _fill_pages(file, data)
    for place, digest in file.signature().pages(data):
        data[place : place + 32] = digest
    return bytes(data)


def _trie(symbol: bytes, address: int) -> bytes:
    """The trie of exports with one symbol: a root with one edge to a leaf."""
    edge = b"\0\1" + symbol + b"\0"
    value = b"\0" + _uleb(address)  # flags, then the address
    return edge + _uleb(len(edge) + 1) + _uleb(len(value)) + value + b"\0"


def _uleb(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*encoded, value))


def _make_local(file: MachO, data: bytearray, symbol: bytes) -> None:
    """Moves all defined global symbols but one behind the local ones: the table holds locals, globals, undefined."""
    command = file.one(DYSYMTAB)
    local_count, first, count = file.unpack("<III", command.offset + 12)
    _, _, names, _ = file.unpack("<IIII", file.one(SYMTAB).offset + 8)
    entries = [entry for _, entry in list(_entries(file))[first : first + count]]
    table = file.unpack("<I", file.one(SYMTAB).offset + 8)[0] + _ENTRY.size * first
    kept = [entry for entry in entries if data[names + entry[0] :].startswith(symbol + b"\0")]
    others = [(name, kind & ~_EXTERNAL, *rest) for name, kind, *rest in entries if (name, kind, *rest) not in kept]
    for index, entry in enumerate((*others, *kept)):
        _ENTRY.pack_into(data, table + _ENTRY.size * index, *entry)
    places = (local_count + len(others), first + len(others), count - len(others))
    struct.pack_into("<III", data, command.offset + 12, *places)


def _fill_pages(file: MachO, data: bytearray) -> None:
    """Segments take whole pages of memory, as Apple's linker has it."""
    for command in file.find(SEGMENT):
        (size,) = file.unpack("<Q", command.offset + 32)
        struct.pack_into("<Q", data, command.offset + 32, -(-size // PAGE) * PAGE)


def _entries(file: MachO) -> list[tuple[int, tuple[int, ...]]]:
    """(offset, fields) of all entries of the symbol table."""
    start, count = file.unpack("<II", file.one(SYMTAB).offset + 8)
    return [(place, file.unpack(_ENTRY.format, place)) for place in range(start, start + count * 16, 16)]
