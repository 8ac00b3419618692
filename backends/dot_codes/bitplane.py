"""`bitplane`: a term for each plane of bits, and one of ones for the offsets; tied planes: palettes of the sums that
pairs of planes have, the base and 128 in the first one."""

from __future__ import annotations

import numpy as np

from nomul.backends.dot_codes import Arrays, Codes, Summand, dot_codes
from nomul.ir.encodings.bitplane import Bitplane
from nomul.ir.encodings.low_bit import Parts
from nomul.ir.encodings.terms import EncodedArray
from nomul.ir.encodings.tied_planes import LIMIT, levels

_WIDTHS = {1: (1,), 2: (2,), 3: (2, 1), 4: (2, 2)}
_ENTRIES = 4


def _arrays(encoding: Bitplane, weights: EncodedArray) -> Arrays:
    parts = encoding.parts(weights.fields, weights.shape)
    if encoding.tied:
        return _tied(encoding, parts)
    scales = np.concatenate([parts["scale"], parts["offset"][None]])
    return Arrays(parts["bits"][:, None], scales.astype(encoding.scale_dtype))


def _tied(encoding: Bitplane, parts: Parts) -> Arrays:
    numbers = np.zeros(parts["bits"].shape[1:], np.uint8)
    for plane, bits in enumerate(parts["bits"]):
        numbers |= bits << np.uint8(plane)
    palettes, first = [], 0
    for width in _WIDTHS[encoding.bits]:
        base = np.zeros_like(parts["base"]) if first else parts["base"].astype(np.int16) + LIMIT + 1
        entries = levels({"ratio": parts["ratio"][first : first + width], "base": base})
        if first and width == 1:
            entries = entries[..., 1:]
        palettes.append(np.pad(entries, [(0, 0), (0, 0), (0, _ENTRIES - entries.shape[-1])], "edge").astype(np.uint8))
        first += width
    scales = parts["scale"].astype(encoding.scale_dtype)[None]
    return Arrays(numbers[None, None], scales, palettes=np.stack(palettes))


@dot_codes("bitplane", fill=_arrays)
def planes(encoding: Bitplane) -> Codes:
    if encoding.tied:
        return Codes((_WIDTHS[encoding.bits],), (Summand(),), LIMIT + 1, LIMIT, palettes=True)
    return Codes(((1,),), (Summand(),), 0, 1, terms=encoding.bits, ones=True)
