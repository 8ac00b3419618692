"""`codebook`: codes of four or five bits, and the table as bytes: its integers plus 128."""

from __future__ import annotations

import numpy as np

from nomul.backends.dot_codes import Arrays, Codes, Summand, dot_codes
from nomul.ir.encodings.codebook import Codebook
from nomul.ir.encodings.palettes import LIMIT
from nomul.ir.encodings.terms import EncodedArray


def _arrays(encoding: Codebook, weights: EncodedArray) -> Arrays:
    parts = encoding.parts(weights.fields, weights.shape)
    table = (parts["palette"].astype(np.int16) + 128).astype(np.uint8)
    return Arrays(parts["codes"][None, None], parts["scale"].astype(encoding.scale_dtype)[None], tables=table[None])


@dot_codes("codebook", fill=_arrays, has_tables=True)
def palette(encoding: Codebook) -> Codes:
    widths = (4,) if encoding.entries == 16 else (4, 1)
    return Codes((widths,), (Summand(table=0),), 128, LIMIT)
