"""The bytes of a weights image, embedded or in a file: a 64-byte header (`nm_weights_header`) and the weights."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import cached_property

MAGIC = b"nomulwts"
VERSION = 1
_HEADER = struct.Struct("<8sIIQ32s8x")


@dataclass(frozen=True)
class WeightsImage:
    """payload: the packed weights; each field starts at a multiple of 64 bytes."""

    payload: bytes

    @cached_property
    def digest(self) -> bytes:
        return hashlib.sha256(self.payload).digest()

    @cached_property
    def header(self) -> bytes:
        return _HEADER.pack(MAGIC, VERSION, _HEADER.size, len(self.payload), self.digest)

    @property
    def size(self) -> int:
        """Bytes of header and payload."""
        return _HEADER.size + len(self.payload)
