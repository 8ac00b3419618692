"""nn.quantised_conv2d with one kernel per channel, in nhwc: tiles as those of `conv2d_depthwise.py`.

On x86 a dot product of bytes takes four taps of a kernel row of 16 channels (`backends/tir/quad_strip.py`), whose
weights are unpacked in registers for a run of pixels. With VNNI activations are the bytes without a sign, plus 128,
which sums take off in advance; without it the weights are. Other machines multiply in floats, which hold all sums.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nomul.backends.dot_codes import encodings_with_codes
from nomul.backends.dot_codes.depthwise import BLOCK, TapShape
from nomul.backends.group import Group
from nomul.backends.kernels.conv2d_depthwise import Depthwise, Window, build, integer_refusal, shape_of
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir import dot
from nomul.backends.tir.body import index, let, local, loop, opaque, store
from nomul.backends.tir.quad_strip import QuadStrip
from nomul.backends.tir.tap_weights import FIELDS, TapWeights
from nomul.backends.tir.vectors import lanes_at, load, spread

Expr = Any


def float_refusal(group: Group) -> str | None:
    """Why a group cannot be computed in floats, or None."""
    reason = integer_refusal(group)
    if reason is not None:
        return reason
    shape = shape_of(group)
    assert isinstance(shape, TapShape)
    return None if shape.floats_are_exact else "floats do not hold the sums of integers"


def depthwise_bytes(group: Group, target: Target) -> Built:
    """Dot products of bytes."""
    return build(group, target, _Bytes, FIELDS, "depthwise_codes")


def depthwise_exact_floats(group: Group, target: Target) -> Built:
    """Integers as floats."""
    return build(group, target, _Floats, FIELDS, "depthwise_codes")


class _Quantised(Depthwise):
    """totals: of all terms, times their scales."""

    def make_weights(self) -> None:
        shape = shape_of(self.frame.group)
        assert isinstance(shape, TapShape)
        self.shape = shape
        self.taps = TapWeights(self.frame, self.weight, shape, self.lanes)
        self.totals = local("totals", "float32", self.run * self.together * self.lanes)
        self.image_scale: Expr = None

    def begin(self, image: Expr, block: Expr) -> None:
        scale = self.geometry.node.args[1]
        assert scale is not None
        self.image_scale = let("image_scale", self.frame.read_flat(scale, image))

    def sum(self, source: Expr, block: Expr, channel: Expr) -> None:
        for term in range(self.shape.terms):
            self.sum_term(source, block, term, channel)
            for vector in range(self.together):
                scale = self.taps.scale(block, term, channel + vector * self.lanes)
                for pixel in range(self.run):
                    place = self.sums(pixel)[vector][1]
                    added = self.term_sum(place) * scale
                    total = load(self.totals, place, self.lanes) + added if term else added
                    store(self.totals, lanes_at(place, self.lanes), total)

    def finished(self, place: int) -> Expr:
        return load(self.totals, place, self.lanes) * spread(self.image_scale, self.lanes)

    def sum_term(self, source: Expr, block: Expr, term: int, channel: Expr) -> None:
        """The sums of integers of one term, into the registers."""
        raise NotImplementedError

    def term_sum(self, place: int) -> Expr:
        """f32 of the sums that have this place in the registers."""
        raise NotImplementedError


class _Floats(_Quantised):
    """Weights are unpacked into scratch, [terms, KH, KW, 16]."""

    def make_weights(self) -> None:
        super().make_weights()
        taps = self.shape.terms * self.shape.kernel[0] * self.shape.kernel[1]
        self.region = self.scratch.region("float32", taps * BLOCK)
        self.weights, self.decode = self.region.buffer, lambda weight: weight

    def begin(self, image: Expr, block: Expr) -> None:
        super().begin(image, block)
        self.taps.unpack(self.region, block, scaled=False)

    def sum_term(self, source: Expr, block: Expr, term: int, channel: Expr) -> None:
        first = term * self.shape.kernel[0] * self.shape.kernel[1] * BLOCK
        self.accumulate(source, index(self.region.start + first), channel)

    def term_sum(self, place: int) -> Expr:
        return load(self.registers, place, self.lanes)


class _Bytes(_Quantised):
    """Sums are 32-bit integers."""

    def make_strip(self) -> None:
        shape = shape_of(self.frame.group)
        assert isinstance(shape, TapShape)
        self._dot = dot.Dot(self.frame.target, wide=True)
        self._quads = QuadStrip(self.frame, self.geometry, shape, self.scratch, self._dot.is_fused, self.run)
        self._integers = local("integers", "int32", self.run * self.lanes)

    def fill(self, image: Expr, window: Window, block: Expr) -> None:
        self._quads.fill(image, *window, block)

    def source(self, row: Expr, pixel: Expr) -> Expr:
        down, across = self.geometry.attrs["strides"]
        return row * (down * self._quads.line) + pixel * (across * BLOCK) + self._quads.start

    def sum_term(self, source: Expr, block: Expr, term: int, channel: Expr) -> None:
        zeros = spread(tirx.IntImm("int32", 0), self.lanes)
        first = self.taps.start(block, term, channel) if self._dot.is_fused else zeros
        for pixel in range(self.run):
            store(self._integers, lanes_at(pixel * self.lanes, self.lanes), first)
        with loop("tap_row", opaque(self.frame.begin, self.shape.kernel[0])) as tap_row:
            line = let("line", source + tap_row * (self.geometry.tap_lines * self._quads.line))
            for quad in range(self.shape.row_quads):
                number = let("number", tap_row * self.shape.row_quads + quad)
                weights = self._weights(self.taps.quad(block, term, number, channel))
                for pixel in range(self.run):
                    inputs = load(self._quads.buffer, line + self._quads.position(pixel, quad), self.lanes)
                    self._add(pixel, weights, let("inputs", inputs))

    def term_sum(self, place: int) -> Expr:
        return tirx.Cast(f"float32x{self.lanes}", load(self._integers, place, self.lanes))

    def _weights(self, quad: Expr) -> dot.Weights:
        """Bytes with a sign."""
        if self._dot.is_fused:
            return dot.Weights(quad)
        zero = spread(tirx.const(0, "int8"), 4 * self.lanes)
        return dot.Weights(let("size", tirx.max(quad, zero - quad)), quad)

    def _add(self, pixel: int, weights: dot.Weights, inputs: Expr) -> None:
        place = lanes_at(pixel * self.lanes, self.lanes)
        total = tirx.BufferLoad(self._integers, [place])
        if self._dot.is_fused:
            unsigned = dot.Weights(tirx.reinterpret(f"int8x{4 * self.lanes}", inputs))
            store(self._integers, place, self._dot.add(total, unsigned, weights.size))
        else:
            store(self._integers, place, self._dot.add(total, weights, inputs))


for _encoding in encodings_with_codes():
    kernel("nn.quantised_conv2d", encoding=_encoding, accepts=float_refusal, rank=25)(depthwise_exact_floats)
    kernel(
        "nn.quantised_conv2d",
        encoding=_encoding,
        needs=("ssse3",),
        uses=dot.USES,
        accepts=integer_refusal,
        rank=30,
    )(depthwise_bytes)
