"""`bitplane`: a term for each plane of bits, and one of ones for the offsets."""

from __future__ import annotations

import numpy as np

from nomul.backends.dot_codes import Arrays, Codes, Summand, dot_codes
from nomul.ir.encodings.bitplane import Bitplane
from nomul.ir.encodings.terms import EncodedArray


def _arrays(encoding: Bitplane, weights: EncodedArray) -> Arrays:
    parts = encoding.parts(weights.fields, weights.shape)
    scales = np.concatenate([parts["scale"], parts["offset"][None]])
    return Arrays(parts["bits"][:, None], scales.astype(encoding.scale_dtype))


@dot_codes("bitplane", fill=_arrays)
def planes(encoding: Bitplane) -> Codes:
    return Codes(((1,),), (Summand(),), 0, 1, terms=encoding.bits, ones=True)
