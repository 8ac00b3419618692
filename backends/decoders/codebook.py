"""`codebook`: codes that look integers up in a table, which is stored or, for a fixed grid, a constant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tvm import tirx

from nomul.backends.decoders import Side, Term, decoder
from nomul.backends.decoders.packed import Packed
from nomul.ir.encodings import Encoding
from nomul.ir.encodings.palettes import LIMIT, palette

Expr = Any


def _tables(encoding: Encoding) -> Mapping[str, np.ndarray]:
    fixed: Any = encoding
    return {} if fixed.shared else {"palette": palette(fixed.grid, fixed.entries).astype(np.int8)}


@decoder("codebook", tables=_tables)
def sides(packed: Packed) -> tuple[Side, ...]:
    encoding: Any = packed.encoding
    groups = encoding.group_count(packed.columns)

    def level(n: Expr, k: Expr) -> Expr:
        code = packed.bits("codes", n, k, encoding.width, packed.columns)
        return packed.integer("palette", tirx.Cast("int64", code))

    return (Side(packed.columns, groups, (Term(LIMIT, level, packed.scale("scale", groups)),)),)
