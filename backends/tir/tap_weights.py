"""Packed integer weights of depthwise convolutions as a kernel reads them (`backends/dot_codes/depthwise.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tvm import tirx

from nomul.backends.dot_codes.depthwise import BLOCK, QUAD, TapShape
from nomul.backends.frame import KernelFrame
from nomul.backends.tir.body import buffer_at, index, let, loop
from nomul.backends.tir.scratch import Region
from nomul.backends.tir.vectors import load, spread, store_vector
from nomul.ir.graph import Value

Expr = Any
FIELDS = ["int32", "float32", "int32"]  # of `backends/layouts/depthwise_codes.py`


class TapWeights:
    """lanes: channels of a vector."""

    def __init__(self, frame: KernelFrame, w: Value, shape: TapShape, lanes: int) -> None:
        self._shape, self._lanes = shape, lanes
        named = zip(("codes", "scale", "start"), FIELDS, frame.pointers[w], strict=True)
        self._codes, self._scale, self._start = (buffer_at(name, kind, pointer) for name, kind, pointer in named)

    def quad(self, block: Expr, term: int, number: Expr, channel: Expr) -> Expr:
        """int8 [lanes, 4]: quad `number` of a block from this channel of it on."""
        shape, width = self._shape, self._shape.width
        first = (block * shape.terms + term) * (shape.vectors * BLOCK) + channel
        if width == 8:
            return self._bytes(let("quad", load(self._codes, first + number * BLOCK, self._lanes)))
        vector = let(
            "vector", load(self._codes, first + tirx.truncdiv(number, index(shape.planes)) * BLOCK, self._lanes)
        )
        plane = let("plane", tirx.Cast("int32", tirx.truncmod(number, index(shape.planes)) * width))
        mask = tirx.IntImm("int32", (2**width - 1) * 0x01010101)
        field = tirx.bitwise_and(tirx.shift_right(vector, spread(plane, self._lanes)), spread(mask, self._lanes))
        number_bytes = self._bytes(let("field", field))
        offset = spread(tirx.const(shape.offset, "int8"), self._lanes * QUAD)
        return let("quad", number_bytes - offset) if shape.offset else number_bytes

    def scale(self, block: Expr, term: int, channel: Expr) -> Expr:
        return let("weight_scale", load(self._scale, self._channels(block, term) + channel, self._lanes))

    def start(self, block: Expr, term: int, channel: Expr) -> Expr:
        """What a sum begins with where 128 was added to every activation."""
        return let("start", load(self._start, self._channels(block, term) + channel, self._lanes))

    def unpack(self, region: Region, block: Expr, scaled: bool) -> None:
        """All taps of a block as f32 [terms, KH * KW, 16]; scaled: the sum of all terms times their scales instead."""
        (height, width), quads = self._shape.kernel, self._shape.row_quads
        with loop("vector", BLOCK // self._lanes) as vector:
            channel = let("channel", vector * self._lanes)
            with loop("row", height) as row:
                for quad in range(quads):
                    taps = min(QUAD, width - quad * QUAD)
                    for tap, value in self._taps(block, row * quads + quad, channel, taps, scaled):
                        place = tap + (row * width + quad * QUAD) * BLOCK + channel
                        store_vector(region.buffer, place + region.start, value)

    def _taps(self, block: Expr, number: Expr, channel: Expr, taps: int, scaled: bool) -> Iterator[tuple[int, Expr]]:
        """(place behind the quad's first one, f32 lanes)."""
        (height, width), terms = self._shape.kernel, range(self._shape.terms)
        vectors = [let("lanes", self._lanes_of(self.quad(block, term, let("n", number), channel))) for term in terms]
        scales = [self.scale(block, term, channel) for term in terms] if scaled else []
        for tap in range(taps):
            values = [self._signed_byte(vector, tap) for vector in vectors]
            if scaled:
                total = values[0] * scales[0]
                for value, scale in zip(values[1:], scales[1:], strict=True):
                    total = total + value * scale
                yield tap * BLOCK, total
                continue
            for term, value in enumerate(values):
                yield (term * height * width + tap) * BLOCK, value

    def _signed_byte(self, vector: Expr, tap: int) -> Expr:
        """f32 of one byte of every lane."""
        left, right = (spread(tirx.IntImm("int32", by), self._lanes) for by in (24 - 8 * tap, 24))
        shifted = tirx.shift_left(vector, left) if tap < QUAD - 1 else vector
        return tirx.Cast(self._type("float32"), tirx.shift_right(shifted, right))

    def _channels(self, block: Expr, term: int) -> Expr:
        return (block * self._shape.terms + term) * BLOCK

    def _bytes(self, vector: Expr) -> Expr:
        return tirx.reinterpret(f"int8x{self._lanes * QUAD}", vector)

    def _lanes_of(self, quad: Expr) -> Expr:
        return tirx.reinterpret(self._type("int32"), quad)

    def _type(self, kind: str) -> str:
        return f"{kind}x{self._lanes}"
