"""Integer weights of depthwise convolutions, whose sums run over the taps of one channel: how kernels read them.

A vector of 64 bytes holds for 16 channels four neighbouring taps of a kernel row in each of its planes:

    lane c: taps 0..3 of channel c | lane c + 1 | ...      planes: fields of 8, 4, 2 or 1 bits of every byte

A *quad* is four taps of a row of the kernel, zeros where the row ends. Quads follow each other row by row, and fill the
planes of a vector before the next one: quad number i is plane i % planes of vector i // planes.
"""

from __future__ import annotations

from dataclasses import dataclass

from nomul.backends.dot_codes import codes_of, encodings_with_codes
from nomul.ir.encodings import Encoding
from nomul.ir.quantise import LEVELS

BLOCK = 16  # channels of a vector
QUAD = 4  # taps
_EXACT = 2**24  # f32 holds all integers below


@dataclass(frozen=True)
class TapShape:
    """width: bits of a field; eight hold the code itself, fewer have `offset` added.  largest: magnitude of a code."""

    channels: int
    kernel: tuple[int, int]
    terms: int
    width: int
    offset: int
    largest: int

    @property
    def blocks(self) -> int:
        return -(-self.channels // BLOCK)

    @property
    def row_quads(self) -> int:
        """Quads of a row of the kernel."""
        return -(-self.kernel[1] // QUAD)

    @property
    def planes(self) -> int:
        return 8 // self.width

    @property
    def vectors(self) -> int:
        """Of a block and term."""
        return -(-self.kernel[0] * self.row_quads // self.planes)

    @property
    def floats_are_exact(self) -> bool:
        """Whether f32 holds all sums of integers."""
        return LEVELS * self.largest * self.kernel[0] * self.kernel[1] < _EXACT


def tap_shape(encoding: Encoding, weights: tuple[int, ...]) -> TapShape | str:
    """For weights [C, 1, KH, KW], or why kernels do not read them."""
    if encoding.name not in encodings_with_codes():
        return "the weights are not integers with a scale for each channel"
    codes = codes_of(encoding)
    if isinstance(codes, str):
        return codes
    if encoding.group_count(weights[2] * weights[3]) != 1:  # type: ignore[attr-defined]  # all that have codes
        return "a kernel has several groups of weights"
    if codes.largest > LEVELS:
        return "the weights are not integers of eight bits"
    kernel = (weights[2], weights[3])
    if codes.is_field and codes.offset is not None and codes.parts[0][0] < 8:
        return TapShape(weights[0], kernel, codes.scales, codes.parts[0][0], codes.offset, codes.largest)
    return TapShape(weights[0], kernel, codes.scales, 8, 0, codes.largest)
