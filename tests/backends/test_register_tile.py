"""Covers of blocks of rows: every row once, none read that may not be, and the quicker of exact and rounded tiles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomul.backends.target import find_target
from nomul.backends.tir.register_tile import MOST_SLACK, PANEL, RegisterTile

TARGETS = (*find_target("x86_64-linux"), *find_target("rpi5"))
COUNTS = st.lists(st.integers(1, 24), min_size=1, max_size=6, unique=True)


def tiles(cover: object, count: int) -> list[int]:
    return cover._tiles(count)  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.level)
@given(counts=COUNTS, columns=st.one_of(st.none(), st.integers(1, 100)))
def test_exact_covers_read_no_other_rows(target: object, counts: list[int], columns: int | None) -> None:
    cover = RegisterTile.of(target, columns).cover(counts, padded=False)  # type: ignore[arg-type]
    for count in counts:
        assert sum(tiles(cover, count)) == count


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.level)
@given(counts=COUNTS, columns=st.one_of(st.none(), st.integers(1, 100)))
def test_rounded_covers_stay_in_the_slack(target: object, counts: list[int], columns: int | None) -> None:
    cover = RegisterTile.of(target, columns).cover(counts, padded=True)  # type: ignore[arg-type]
    for count in counts:
        assert count <= sum(tiles(cover, count)) < count + MOST_SLACK


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.level)
@given(columns=st.integers(1, PANEL))
def test_a_single_panel_is_covered(target: object, columns: int) -> None:
    tile = RegisterTile.of(target, columns)  # type: ignore[arg-type]
    for height in range(1, tile.rows + 1):
        vectors = tile.vectors(height)
        assert not tile.covers or columns <= sum(vectors) <= PANEL
        assert PANEL % sum(vectors) == 0 or tile.covers


def test_seven_rows_are_one_tile_of_avx512_and_two_of_avx2() -> None:
    targets = [find_target(name)[0] for name in ("x86-64-v4", "x86-64-v3")]
    v4, v3 = (RegisterTile.of(target, 64).cover([7], padded=True) for target in targets)
    assert tiles(v4, 7) == [7]
    assert tiles(v3, 7) == [4, 4]


@pytest.mark.parametrize("decoded", [False, True])
@given(columns=st.one_of(st.none(), st.integers(1, 100)))
def test_neon_tiles_need_no_more_registers_than_there_are(decoded: bool, columns: int | None) -> None:
    """Sums, a vector of four elements for each row, one vector of the panel, and two to decode it."""
    tile = RegisterTile.of(TARGETS[-1], columns, decoded=decoded)
    for height in range(1, tile.rows + 1):
        sums = height * len(tile.vectors(height)) * tile.unroll(height)
        assert sums + height + 1 + 2 * decoded <= TARGETS[-1].registers
    assert (tile.widths, tile.rows) == ((4,) * 4, 6) or decoded or (columns and columns <= PANEL)
