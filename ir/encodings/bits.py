"""Fields of a few bits in bytes: little-endian, the first in the lowest bits, each row padded to whole bytes."""

from __future__ import annotations

import numpy as np

MOST_WIDTH = 16


def packed_size(count: int, width: int) -> int:
    """Bytes of one row of `count` fields."""
    return (count * width + 7) // 8


def pack_bits(codes: np.ndarray, width: int) -> np.ndarray:
    """u8 [..., packed_size(K, width)] of unsigned codes [..., K] below 2**width. width: 1 to 16."""
    if width == 8:
        return codes.astype(np.uint8)
    if 8 % width:
        kind = _kind(width)
        bits = (codes.astype(kind)[..., None] >> np.arange(width, dtype=kind)) & 1
        return np.packbits(
            bits.astype(np.uint8).reshape(*codes.shape[:-1], codes.shape[-1] * width), axis=-1, bitorder="little"
        )
    each = 8 // width
    missing = -codes.shape[-1] % each
    padded = np.pad(codes.astype(np.uint8), [(0, 0)] * (codes.ndim - 1) + [(0, missing)])
    placed = padded.reshape(*codes.shape[:-1], padded.shape[-1] // each, each) << np.arange(0, 8, width, dtype=np.uint8)
    return np.bitwise_or.reduce(placed, axis=-1)


def unpack_bits(packed: np.ndarray, width: int, count: int) -> np.ndarray:
    """The codes [..., count] (u8, or u16 for more than 8 bits) of `pack_bits`."""
    if width == 8:
        return packed[..., :count].copy()
    if 8 % width:
        bits = np.unpackbits(packed, axis=-1, count=count * width, bitorder="little")
        places = (1 << np.arange(width)).astype(_kind(width))
        return np.asarray(bits.reshape(*packed.shape[:-1], count, width) @ places)
    shifted = packed[..., None] >> np.arange(0, 8, width, dtype=np.uint8)
    codes = (shifted & np.uint8(2**width - 1)).reshape(*packed.shape[:-1], packed.shape[-1] * (8 // width))
    return codes[..., :count].copy()


def _kind(width: int) -> np.dtype:
    return np.dtype(np.uint8 if width <= 8 else np.uint16)
