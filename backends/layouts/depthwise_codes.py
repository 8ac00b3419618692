"""Integer weights of a depthwise convolution in blocks of 16 channels (`backends/dot_codes/depthwise.py` draws them).

Fields: codes u8 [blocks, terms, vectors, 16 channels, 4 taps]; scale f32 and start i32 [blocks, terms, 16], where a sum
begins at `start` if 128 was added to the activations. Channels behind the last one are zeros."""

from __future__ import annotations

import numpy as np

from nomul.backends.dot_codes.depthwise import BLOCK, QUAD, TapShape, tap_shape
from nomul.ir.encodings.terms import EncodedArray


def pack_encoded(weights: EncodedArray) -> dict[str, np.ndarray]:
    """The packed fields of weights [C, 1, KH, KW] that have such a shape."""
    shape = tap_shape(weights.encoding, weights.shape)
    terms = weights.terms
    assert isinstance(shape, TapShape) and terms is not None
    codes = np.stack([term.codes.reshape(len(term.codes), -1) for term in terms]).astype(np.int32)
    return {
        "codes": _by_blocks(shape, codes),
        "scale": _by_channels(shape, np.stack([term.scale[:, 0] for term in terms])),
        "start": _by_channels(shape, -128 * codes.sum(axis=-1, dtype=np.int32)),
    }


def _by_blocks(shape: TapShape, codes: np.ndarray) -> np.ndarray:
    """u8 [blocks, terms, vectors, 16, 4] of codes [terms, C, KH * KW]."""
    (height, width), quads = shape.kernel, shape.row_quads
    taps = np.zeros((shape.terms, shape.blocks * BLOCK, height, quads * QUAD), np.int32)
    taps[:, : shape.channels, :, :width] = codes.reshape(shape.terms, shape.channels, height, width)
    fields = np.zeros((shape.terms, shape.blocks * BLOCK, shape.vectors * shape.planes, QUAD), np.int32)
    fields[:, :, : height * quads] = taps.reshape(*taps.shape[:2], height * quads, QUAD)
    numbers = ((fields + shape.offset) & (2**shape.width - 1)).astype(np.uint8)
    split = numbers.reshape(shape.terms, shape.blocks, BLOCK, shape.vectors, shape.planes, QUAD)
    packed = np.zeros((shape.terms, shape.blocks, BLOCK, shape.vectors, QUAD), np.uint8)
    for plane in range(shape.planes):
        packed |= split[..., plane, :] << np.uint8(plane * shape.width)
    return np.ascontiguousarray(packed.transpose(1, 0, 3, 2, 4))


def _by_channels(shape: TapShape, values: np.ndarray) -> np.ndarray:
    """[blocks, terms, 16] of values [terms, C]."""
    padded = np.zeros((shape.terms, shape.blocks * BLOCK), values.dtype)
    padded[:, : shape.channels] = values
    return np.ascontiguousarray(padded.reshape(shape.terms, shape.blocks, BLOCK).transpose(1, 0, 2))
