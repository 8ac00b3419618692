"""`shift`: signed powers of two by tables of bytes. Powers that a byte does not hold are two digits of base 256, each
with a table and a dot product of its own."""

from __future__ import annotations

from functools import cache

import numpy as np

from nomul.backends.dot_codes import Arrays, Codes, Summand, dot_codes
from nomul.ir.encodings.bits import unpack_bits
from nomul.ir.encodings.shift import FORMS, Shift
from nomul.ir.encodings.terms import EncodedArray

_BASE, _HALF = 256, 128


@cache
def _values(pack: str) -> np.ndarray:
    """i32: the integer of each code, in units of the least power of two."""
    form = FORMS[pack]
    numbers = np.arange(1 << form.width)
    top = 1 << (form.width - 1)
    place, sign = numbers & (top - 1), np.where(numbers >= top, -1, 1)
    powers = [np.array([0, *(1 << (exponent - form.least) for exponent in choices)]) for choices in form.exponents]
    sizes = powers[0][place >> 2] + powers[1][place & 3] if len(powers) > 1 else powers[0][place]
    return np.asarray(sign * sizes)


def _digits(pack: str) -> list[np.ndarray]:
    """Tables of bytes, the high digit first: digits plus 128."""
    values = _values(pack)
    if np.abs(values).max() < _HALF:
        return [values + _HALF]
    high = (values + _HALF) // _BASE
    return [high + _HALF, values - high * _BASE + _HALF]


def _arrays(encoding: Shift, weights: EncodedArray) -> Arrays:
    parts = encoding.parts(weights.fields, weights.shape)
    columns = parts["sign"].shape[-1]
    codes = unpack_bits(weights.fields["codes"], encoding.form.width, columns).transpose(1, 0, 2)
    tables = np.stack(_digits(encoding.pack_)).astype(np.uint8)
    return Arrays(codes[None], parts["scale"].astype(encoding.scale_dtype)[None], tables=tables)


@dot_codes("shift", fill=_arrays, has_tables=True)
def powers(encoding: Shift) -> Codes:
    widths = (4,) if encoding.form.width == 4 else (4, 1)
    digits = len(_digits(encoding.pack_))
    summands = [
        Summand(part, table, _BASE ** (digits - 1 - table)) for table in range(digits) for part in range(encoding.codes)
    ]
    largest = encoding.codes * int(np.abs(_values(encoding.pack_)).max())
    offset = _HALF * sum(summand.factor for summand in summands)
    return Codes((widths,) * encoding.codes, tuple(summands), offset, largest, unit=2.0**encoding.form.least)
