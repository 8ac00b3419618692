"""Reads Mach-O libraries for 64-bit ARM: load commands, sections, exports, and the page hashes of the code signature.

After Apple's <mach-o/loader.h>, <mach-o/nlist.h> and <kern/cs_blobs.h>. Bytes that make no sense raise ValueError.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAGIC = b"\xcf\xfa\xed\xfe"
ARM64 = 0x0100000C
DYLIB = 6
PAGE = 0x4000  # of memory
SYMTAB, DYSYMTAB, LOAD_DYLIB, ID_DYLIB, SEGMENT, CODE_SIGNATURE, BUILD_VERSION = 0x2, 0xB, 0xC, 0xD, 0x19, 0x1D, 0x32
DYLD_INFO, EXPORTS_TRIE = 0x80000022, 0x80000033
OTHER_DYLIBS = (0x80000018, 0x8000001F, 0x20, 0x80000023)  # weak, re-exported, lazy, upward
_SUPER_BLOB, _CODE_DIRECTORY = 0xFADE0CC0, 0xFADE0C02
_SHA256 = 2

Bytes = Any  # bytes, bytearray, memoryview or mmap: what struct and slices take


@dataclass(frozen=True)
class Command:
    """A load command: `kind` (a constant above) and where it stands."""

    kind: int
    offset: int
    size: int


@dataclass(frozen=True)
class Section:
    segment: str
    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Signature:
    """The code directory. The hash of page i, [i * page_size, ...) up to `limit`, stands at `hashes + 32 * i`."""

    identifier: str
    is_adhoc: bool
    page_size: int
    limit: int
    hashes: int

    def pages(self, data: Bytes) -> Iterator[tuple[int, bytes]]:
        """(where the hash of a page stands, what it must be) for all pages."""
        for number, start in enumerate(range(0, self.limit, self.page_size)):
            page = data[start : min(start + self.page_size, self.limit)]
            yield self.hashes + 32 * number, hashlib.sha256(page).digest()


class MachO:
    """A Mach-O file or object in memory. Raises ValueError where it is none for 64-bit ARM, or cut short."""

    def __init__(self, data: Bytes) -> None:
        self.data = data
        magic, cpu, _, self.file_type, count, size = self.unpack("<4sIIIII", 0)
        if magic != MAGIC or cpu != ARM64:
            raise ValueError("no Mach-O file for 64-bit ARM")
        self.commands: list[Command] = []
        offset, end = 32, 32 + size
        for _ in range(count):
            kind, length = self.unpack("<II", offset)
            if length < 8 or offset + length > end:
                raise ValueError("a load command reaches beyond its table")
            self.commands.append(Command(kind, offset, length))
            offset += length

    def unpack(self, layout: str, offset: int) -> tuple[Any, ...]:
        """Fields of `layout` at `offset`. Raises ValueError beyond the end."""
        try:
            return struct.unpack_from(layout, self.data, offset)
        except struct.error as error:
            raise ValueError(f"the file ends before byte {offset + struct.calcsize(layout)}") from error

    def find(self, *kinds: int) -> list[Command]:
        return [command for command in self.commands if command.kind in kinds]

    def one(self, *kinds: int) -> Command:
        """The only load command of these kinds. Raises ValueError for none or several."""
        found = self.find(*kinds)
        if len(found) != 1:
            raise ValueError(f"{len(found)} load commands of kind {kinds[0]:#x}")
        return found[0]

    def sections(self) -> list[Section]:
        found = []
        for command in self.find(SEGMENT):
            (count,) = self.unpack("<I", command.offset + 64)
            if 72 + 80 * count > command.size:
                raise ValueError("a segment has more sections than room for them")
            for index in range(count):
                fields = self.unpack("<16s16sQQI", command.offset + 72 + 80 * index)
                name, segment = (text.rstrip(b"\0").decode("ascii", "replace") for text in fields[:2])
                found.append(Section(segment, name, fields[4], fields[3]))
        return found

    # -- what a library needs and gives ------------------------------------------------------------------------
    def text(self, command: Command, at: int) -> str:
        """The string whose offset in the command is its field at `at`."""
        (start,) = self.unpack("<I", command.offset + at)
        raw = bytes(self.data[command.offset + start : command.offset + command.size])
        return raw.partition(b"\0")[0].decode()

    def install_name(self) -> str:
        return self.text(self.one(ID_DYLIB), 8)

    def libraries(self) -> list[str]:
        """Install names of the libraries that must be there."""
        return [self.text(command, 8) for command in self.find(LOAD_DYLIB, *OTHER_DYLIBS)]

    def minimum_system(self) -> tuple[int, tuple[int, int, int]]:
        """The platform (1: macOS) and the least version of it."""
        platform, least = self.unpack("<II", self.one(BUILD_VERSION).offset + 8)
        return platform, (least >> 16, least >> 8 & 0xFF, least & 0xFF)

    def exports_place(self) -> tuple[int, int]:
        """Offset and size of the trie of exported symbols."""
        command = self.one(DYLD_INFO, EXPORTS_TRIE)
        offset, size = self.unpack("<II", command.offset + (40 if command.kind == DYLD_INFO else 8))
        return offset, size

    def exports(self) -> dict[str, int]:
        """Exported symbols and their addresses, which count from the start of the library."""
        offset, size = self.exports_place()
        trie = bytes(self.data[offset : offset + size])
        found: dict[str, int] = {}
        todo, seen = [(0, b"")], set[int]()
        while todo:
            place, prefix = todo.pop()
            if place in seen:
                raise ValueError("the trie of exports has a cycle")
            seen.add(place)
            length, place = read_uleb(trie, place)
            if length:
                _, address_place = read_uleb(trie, place)
                found[prefix.decode()] = read_uleb(trie, address_place)[0]
            todo += _children(trie, place + length, prefix)
        return found

    # -- the signature -----------------------------------------------------------------------------------------
    def signature(self) -> Signature:
        """The code directory with SHA-256 hashes. Raises ValueError where there is none."""
        start, _ = self.unpack("<II", self.one(CODE_SIGNATURE).offset + 8)
        magic, _, count = self.unpack(">III", start)
        if magic != _SUPER_BLOB:
            raise ValueError("the code signature has another format")
        for index in range(min(count, 16)):
            _, offset = self.unpack(">II", start + 12 + 8 * index)
            if self.unpack(">I", start + offset) == (_CODE_DIRECTORY,):
                return self._directory(start + offset)
        raise ValueError("the code signature has no code directory")

    def _directory(self, start: int) -> Signature:
        _, flags, hashes, name, _, slots, limit = self.unpack(">IIIIIII", start + 8)
        size, kind, _, page_bits = self.unpack(">BBBB", start + 36)
        if (size, kind) != (32, _SHA256) or not 12 <= page_bits <= 16:
            raise ValueError("the code signature has no SHA-256 hashes of pages")
        end = self.one(CODE_SIGNATURE).offset + 8
        if slots != -(-limit >> page_bits) or limit != self.unpack("<I", end)[0] or limit > len(self.data):
            raise ValueError("the code signature does not cover the file up to itself")
        identifier = bytes(self.data[start + name : start + name + 256]).partition(b"\0")[0]
        return Signature(identifier.decode("ascii", "replace"), bool(flags & 2), 1 << page_bits, limit, start + hashes)

    def is_intact(self) -> bool:
        """Whether every byte in front of the signature is the one that was signed."""
        return all(bytes(self.data[at : at + 32]) == digest for at, digest in self.signature().pages(self.data))


def _children(trie: bytes, place: int, prefix: bytes) -> list[tuple[int, bytes]]:
    found = []
    count, place = (trie[place], place + 1) if place < len(trie) else (0, place)
    for _ in range(count):
        end = trie.index(b"\0", place)
        child, after = read_uleb(trie, end + 1)
        found.append((child, prefix + trie[place:end]))
        place = after
    return found


def read_uleb(data: bytes, place: int) -> tuple[int, int]:
    """The unsigned LEB128 number at `place`, and where it ends. Raises ValueError where it does not."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            break
        byte, place = data[place], place + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("a LEB128 number has no end")
