"""`ternary`: trits plus one in two bits; tied planes as one number in four or five bits. Five to a byte (base3) takes
two bits here too: that makes 0.4 bits more to read, but no division."""

from __future__ import annotations

import numpy as np

from nomul.backends.dot_codes import Arrays, Codes, Summand, dot_codes
from nomul.ir.encodings.terms import EncodedArray
from nomul.ir.encodings.ternary import Ternary


def _arrays(encoding: Ternary, weights: EncodedArray) -> Arrays:
    terms = encoding.integer_terms(weights.fields, weights.shape)
    largest = 3**encoding.planes // 2 if encoding.tied else 1
    numbers = np.stack([(term.codes + largest).astype(np.uint8)[None] for term in terms])
    return Arrays(numbers, np.stack([term.scale for term in terms]).astype(encoding.scale_dtype))


@dot_codes("ternary", fill=_arrays)
def trits(encoding: Ternary) -> Codes | str:
    if encoding.pack_ == "3of4":
        return "four trits in five bits are looked up, not multiplied"
    if encoding.tied:
        widths = {2: (4,), 3: (4, 1)}[encoding.planes]
        largest = 3**encoding.planes // 2
        return Codes((widths,), (Summand(),), largest, largest)
    return Codes(((2,),), (Summand(),), 1, 1, terms=encoding.planes)
