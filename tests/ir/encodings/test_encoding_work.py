"""What arithmetic encodings ask for, counted by hand for a matrix of 4 rows and 48 columns."""

from __future__ import annotations

import pytest

from nomul.ir.encodings.work import Work, dense_work
from nomul.ir.syntax import parse_encoding
from tests.ir.encodings.test_low_bit import EXAMPLES

N, K = 4, 48
COUNTED = {
    "f16": Work(multiplies=N * K, additions=N * K),
    "int4<group=16>": Work(multiplies=N * K, additions=N * K, scalings=N * 3),
    "ternary<planes=2, group=16>": Work(additions=2 * N * K, scalings=2 * N * 3),
    "ternary<pack=3of4>": Work(additions=N * 36, scalings=N),
    "ternary<planes=2, tied=1>": Work(additions=2 * N * K + 2 * N, shifts=N, scalings=N),
    "bitplane<bits=3, group=16>": Work(additions=3 * N * 12 + 11 * 12 + K, lookups=3 * N * 12, scalings=4 * N * 3),
    "bitplane<bits=3, group=16, tied=1>": Work(
        multiplies=4 * N * 3, additions=3 * N * 12 + 11 * 12 + K + 3 * N * 3, lookups=3 * N * 12, scalings=N * 3
    ),
    "codebook": Work(multiplies=N * K, additions=N * K, lookups=N * K, scalings=N),
    "shift<terms=2>": Work(additions=2 * N * K, shifts=2 * N * K, scalings=N),
    "nm<value=int4>": Work(multiplies=N * 24, additions=N * 24, lookups=N * 12, scalings=N),
    "nm": Work(multiplies=N * 24, additions=N * 24, lookups=N * 12),
    "split<salient=0.25, value=int8, rest=ternary>": Work(N * 12, N * 12 + N * 36, scalings=2 * N),
    "split<salient=0.25, value=int8, rest=ternary, columns=1>": Work(N * 12 + 36, N * 12 + N * 36, scalings=2 * N),
}


@pytest.mark.parametrize("text", COUNTED)
def test_counts(text: str) -> None:
    assert parse_encoding(text).work((N, K)) == COUNTED[text]
    assert parse_encoding(text).work((N, 3, 4, 4)) == COUNTED[text]


@pytest.mark.parametrize("text", EXAMPLES)
def test_no_encoding_asks_for_more_multiplications_than_dense_weights(text: str) -> None:
    work = parse_encoding(text).work((64, 192))
    assert 0 <= work.multiplies <= dense_work((64, 192)).multiplies + 192
    assert work.additions > 0
