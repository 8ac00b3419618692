"""Indices of five bits into tables of 32 sums of activations, for `backends/kernels/lookup.py`.

An index stands for a few neighbouring columns of one plane of one row: four of ternary<pack=3of4>, any three trits, or
five bits of a bitplane. Rows are in tiles of 128. A tile is a run of groups, and a group has for each plane a record

    |scales: 128 rows|word 0: 128 rows x 16 bits|word 1|...|

with three indices to a word, the first in the lowest bits. Bit 15 is free: those of five words are a sixteenth index,
its highest bit in the first word. So 16 indices take five words, and the r < 16 at the end of a group ceil(r / 3).
The words of each 32 rows are in the order of rows 0, 16, 1, 17, ...: even and odd ones, taken apart, are rows in order.
In front of the planes of a group stand the offsets of a bitplane. The last tile is padded.

Up to 32 tiles are a strip, one run of bytes: |group 0 of each tile|group 1 of each tile|...|.
A row of activations reads it from its first byte to its last while the tables of one group stay in the nearest cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomul.ir.encodings import Encoding, three_of_four
from nomul.ir.encodings.bitplane import Bitplane
from nomul.ir.encodings.terms import EncodedArray
from nomul.ir.encodings.ternary import Ternary

ROWS = 32  # of a block
BLOCKS = 4  # of a tile
TILE = ROWS * BLOCKS
_STRIP = 32  # most tiles of a strip
WORDS = 5  # of a unit
INDICES = 16  # of a unit
ENTRIES = 32  # of a table
HALF = ENTRIES // 2
_MIDDLE = 13  # the number of three zero trits among 27
FOURS, TRIPLES, FIVES = 4, 3, 5  # columns of an index, by what the indices are


@dataclass(frozen=True)
class Order:
    """Sizes of the packed order. columns: of an index.  scale_bytes: of one scale.  offset: whether groups have one."""

    rows: int
    depth: int
    groups: int
    planes: int
    columns: int
    scale_bytes: int
    offset: bool

    @property
    def group_columns(self) -> int:
        return self.depth // self.groups

    @property
    def indices(self) -> int:
        """Of a group of one row and plane."""
        return -(-self.group_columns // self.columns)

    @property
    def units(self) -> int:
        """Whole units of a group."""
        return self.indices // INDICES

    @property
    def tail(self) -> int:
        """Indices of a group behind its whole units."""
        return self.indices % INDICES

    @property
    def tail_words(self) -> int:
        return -(-self.tail // 3)

    @property
    def words(self) -> int:
        """Of a group of one row and plane."""
        return self.units * WORDS + self.tail_words

    @property
    def record_bytes(self) -> int:
        return TILE * (2 * self.words + self.scale_bytes)

    @property
    def group_bytes(self) -> int:
        return self.offset_bytes + self.planes * self.record_bytes

    @property
    def offset_bytes(self) -> int:
        """Of a group's offsets in a tile."""
        return TILE * self.scale_bytes if self.offset else 0

    @property
    def tile_bytes(self) -> int:
        return self.groups * self.group_bytes

    @property
    def tiles(self) -> int:
        return -(-self.rows // TILE)

    @property
    def strip(self) -> int:
        """Tiles of a strip, an even number; the last one may have fewer. They are alike, as threads' shares are."""
        strips = -(-self.tiles // _STRIP)
        return -(-self.tiles // (2 * strips)) * 2


def entries(columns: int) -> np.ndarray:
    """What an index means: i8 [32, columns], the weights of its columns; index + 16 means the negative.

    Of five bits: 1 for a bit that is set, else -1, so twice the bits less one."""
    number = np.arange(ENTRIES)
    if columns == FOURS:
        return three_of_four.TRITS
    size = number % HALF
    if columns == FIVES:
        signs = 2 * (size[:, None] >> np.arange(FIVES) & 1) - 1
        return np.where(number[:, None] < HALF, signs, -signs).astype(np.int8)
    trits = (size[:, None] + _MIDDLE) // 3 ** np.arange(TRIPLES) % 3 - 1
    signed = np.where(number[:, None] < HALF, trits, -trits)
    return np.where(size[:, None] <= _MIDDLE, signed, 0).astype(np.int8)


def columns_of(encoding: Encoding | None) -> int | None:
    """Columns of an index where the encoding has planes that indices can hold."""
    if isinstance(encoding, Bitplane) and not encoding.tied:
        return FIVES
    if not isinstance(encoding, Ternary) or encoding.tied:
        return None
    return FOURS if encoding.pack_ == "3of4" else TRIPLES


def order_of(encoding: Encoding, shape: tuple[int, ...]) -> Order:
    """Of weights whose encoding has `columns_of`."""
    columns = columns_of(encoding)
    assert columns is not None and isinstance(encoding, Ternary | Bitplane)
    planes = encoding.planes if isinstance(encoding, Ternary) else encoding.bits
    size, has_offset = encoding.scale_dtype.itemsize, isinstance(encoding, Bitplane)
    return Order(*encoding.sizes(shape), planes, columns, size, has_offset)


def pack_encoded(weights: EncodedArray) -> dict[str, np.ndarray]:
    """`data`, the bytes of all tiles, and `entries` i8 [ceil(columns / 4), 32, 4], zero behind the last column."""
    assert isinstance(weights.encoding, Ternary | Bitplane)
    order = order_of(weights.encoding, weights.shape)
    parts = weights.encoding.parts(weights.fields, weights.shape)
    words = _words(_indices(parts["bits" if order.offset else "trits"], order), order)
    scales = _padded(weights.fields["scale"].transpose(0, 2, 1), order)  # [rows, groups, planes]
    halves = words.reshape(order.tiles * BLOCKS, 2, ROWS // 2, *words.shape[1:]).swapaxes(1, 2).reshape(words.shape)
    records = np.concatenate([_in_tiles(scales[..., None]), _in_tiles(halves)], axis=-1)
    parts_of_groups = [records.reshape(order.tiles, order.groups, -1)]
    if order.offset:
        parts_of_groups.insert(0, _in_tiles(_padded(weights.fields["offset"], order)[..., None]))
    groups = np.concatenate(parts_of_groups, axis=-1)
    strips = [groups[i : i + order.strip].swapaxes(0, 1).ravel() for i in range(0, order.tiles, order.strip)]
    return {"data": np.concatenate(strips), "entries": _entry_bytes(order.columns)}


def _indices(codes: np.ndarray, order: Order) -> np.ndarray:
    """u8 [rows, groups, planes, indices] of codes [planes, rows, depth]."""
    codes = codes.reshape(*codes.shape[:2], order.groups, order.group_columns).transpose(1, 2, 0, 3)
    if order.columns == FOURS:
        return three_of_four.encode(codes)
    missing = order.indices * order.columns - order.group_columns
    padded = np.pad(codes.astype(np.int8), [(0, 0)] * 3 + [(0, missing)])
    digits = padded.reshape(*codes.shape[:3], order.indices, order.columns)
    if order.columns == FIVES:
        bits = digits @ (1 << np.arange(FIVES)).astype(np.int8)
        return np.asarray(np.where(bits < HALF, bits, ENTRIES + HALF - 1 - bits), np.uint8)
    numbers = digits @ (3 ** np.arange(order.columns)).astype(np.int8)
    return np.asarray(abs(numbers) + HALF * (numbers < 0), np.uint8)


def _words(indices: np.ndarray, order: Order) -> np.ndarray:
    """u16 [padded rows, groups, planes, words]."""
    wide = _padded(indices, order).astype(np.uint16)
    whole, tail = np.split(wide, [order.units * INDICES], axis=-1)
    units = whole.reshape(*wide.shape[:3], order.units, INDICES)
    words = _threes(units[..., : WORDS * 3])
    spare = units[..., WORDS * 3 :] >> np.arange(WORDS, dtype=np.uint16)[::-1] & 1
    parts = [(words | spare << 15).reshape(*wide.shape[:3], order.units * WORDS)]
    if order.tail:
        parts.append(_threes(np.pad(tail, [(0, 0)] * 3 + [(0, order.tail_words * 3 - order.tail)])))
    return np.concatenate(parts, axis=-1)


def _threes(indices: np.ndarray) -> np.ndarray:
    """u16 [..., n / 3] of u16 [..., n]."""
    threes = indices.reshape(*indices.shape[:-1], indices.shape[-1] // 3, 3)
    return np.asarray(threes[..., 0] | threes[..., 1] << 5 | threes[..., 2] << 10)


def _padded(array: np.ndarray, order: Order) -> np.ndarray:
    return np.pad(array, [(0, order.tiles * TILE - order.rows), *[(0, 0)] * (array.ndim - 1)])


def _in_tiles(array: np.ndarray) -> np.ndarray:
    """u8 [tiles, ..., bytes] of [rows, ..., n]: for each of the n the elements of 128 rows."""
    split = array.reshape(-1, TILE, *array.shape[1:])
    moved = np.ascontiguousarray(np.moveaxis(split, 1, -1))
    return moved.view(np.uint8).reshape(*moved.shape[:-2], -1)


def _entry_bytes(columns: int) -> np.ndarray:
    dwords = -(-columns // 4)
    padded = np.zeros((ENTRIES, dwords * 4), np.int8)
    padded[:, :columns] = entries(columns)
    return np.ascontiguousarray(padded.reshape(ENTRIES, dwords, 4).transpose(1, 0, 2))
