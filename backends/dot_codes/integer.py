"""`int8`, `int4`: fields of eight or four bits, less half of their range or a zero point."""

from __future__ import annotations

import numpy as np

from nomul.backends.dot_codes import Arrays, Codes, Summand, dot_codes
from nomul.ir.encodings.integer import Int4, Int8
from nomul.ir.encodings.terms import EncodedArray


def _arrays(encoding: Int4 | Int8, weights: EncodedArray) -> Arrays:
    parts = encoding.parts(weights.fields, weights.shape)
    half = 1 << (encoding.bits - 1)

    def unsigned(codes: np.ndarray) -> np.ndarray:
        return (codes.astype(np.int16) + half).astype(np.uint8)

    scales = parts["scale"].astype(encoding.scale_dtype)[None]
    zeros = unsigned(parts["zero"]) if encoding.zero else None
    return Arrays(unsigned(parts["codes"])[None, None], scales, zeros)


@dot_codes("int8", "int4", fill=_arrays)
def integers(encoding: Int4 | Int8) -> Codes:
    low, high = encoding.limits
    largest = high - low if encoding.zero else max(-low, high)
    offset = None if encoding.zero else 1 << (encoding.bits - 1)
    return Codes(((encoding.bits,),), (Summand(),), offset, largest)
