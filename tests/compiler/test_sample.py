"""Random inputs respect what the model does with them."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from nomul.ir.errors import NomulError
from nomul.ir.parser import parse_module
from nomul.sample import (
    MOST_VALUE_ELEMENTS,
    InputSpec,
    input_specs,
    many_rows,
    module_fits,
    pick_dims,
    sample_inputs,
    spread_dims,
)

EMBED = """\
nomul.ir 1
dim B in [1, 8]
dim S in [1, 512]
weight @table : f32[30, 4]
func @main(%ids: i64[B, S], %mask: i64[B, S], %x: f32[S], %flag: bool[B]) -> (f32[B, S, 4], f32[B, S]) {
  %e = index.gather @table, %ids : f32[B, S, 4]
  %m = ew.cast %mask {dtype="f32"} : f32[B, S]
  %y = ew.mul %m, %x : f32[B, S]
  return %e, %y
}
"""


def test_an_index_stays_in_its_table_and_a_mask_is_0_or_1() -> None:
    specs = input_specs(parse_module(EMBED))
    assert [(spec.name, spec.low, spec.high) for spec in specs[:2]] == [("ids", 0, 29), ("mask", 0, 1)]
    ids, mask, x, flag = sample_inputs(specs, {"B": 8, "S": 64})
    assert ids.shape == mask.shape == (8, 64) and ids.dtype == np.int64
    assert ids.min() >= 0 and 20 < ids.max() <= 29
    assert set(np.unique(mask)) == {0, 1} and mask[:, 0].all()
    assert x.dtype == np.float32 and flag.dtype == np.bool_


def test_equal_seeds_give_equal_arrays() -> None:
    specs = input_specs(parse_module(EMBED))
    sizes = {"B": 2, "S": 5}
    for left, right in zip(sample_inputs(specs, sizes, 3), sample_inputs(specs, sizes, 3), strict=True):
        np.testing.assert_array_equal(left, right)
    assert not np.array_equal(sample_inputs(specs, sizes, 3)[2], sample_inputs(specs, sizes, 4)[2])


def test_default_sizes() -> None:
    ranges = {"batch": (1, 64), "S": (1, 512), "W": (32, 64), "T": (200, 300)}
    assert pick_dims(ranges, {}) == {"batch": 1, "S": 128, "W": 64, "T": 200}
    assert pick_dims(ranges, {"S": 512})["S"] == 512


@pytest.mark.parametrize(("given", "code"), [({"S": 0}, "NM010"), ({"S": 513}, "NM010"), ({"Z": 1}, "NM206")])
def test_refused_sizes(given: dict[str, int], code: str) -> None:
    with pytest.raises(NomulError, match=code):
        pick_dims({"S": (1, 512)}, given)


def test_spread_covers_default_and_smallest_without_repeats() -> None:
    cases = spread_dims({"S": (1, 512), "B": (1, 1)}, {}, 4)
    assert cases[:2] == [{"S": 128, "B": 1}, {"S": 1, "B": 1}]
    assert len(cases) == len({tuple(case.items()) for case in cases})
    assert all(1 <= case["S"] <= 256 and case["B"] == 1 for case in cases)
    assert spread_dims({"S": (1, 512)}, {"S": 7}, 4) == [{"S": 7}]


IMAGES = """\
nomul.ir 1
dim B in [1, 4096]
dim H in [1, 4096]
func @main(%x: f32[B, 3, 32*H, 64]) -> (f32[B, 3, 32*H, 64*H]) {
  %y = nn.resize2d %x {size=[32*H, 64*H]} : f32[B, 3, 32*H, 64*H]
  return %y
}
"""


def test_sizes_that_nobody_named_stay_modest() -> None:
    module = parse_module(IMAGES)
    fits = module_fits(module)
    dims = pick_dims(module.dims, {"B": 2}, fits)
    assert dims["B"] == 2 and 2 * 3 * 32 * 64 * dims["H"] ** 2 <= MOST_VALUE_ELEMENTS
    assert not fits({"B": 2, "H": 2 * dims["H"]})
    for case in spread_dims({"B": (1, 4096), "W": (1, 4096)}, {}, 6, fits=lambda dims: dims["B"] * dims["W"] <= 999):
        assert case["B"] * case["W"] <= 999
    assert pick_dims(module.dims, {"B": 4096, "H": 99}, fits) == {"B": 4096, "H": 99}
    assert pick_dims({"S": (5, 512)}, {}, lambda dims: False) == {"S": 5}


def test_a_spec_without_table_is_a_mask() -> None:
    assert (InputSpec.low, InputSpec.high) == (0, 1)


def test_sizes_of_many_rows() -> None:
    ranges = {"batch": (1, 64), "S": (3, 512), "W": (32, 64)}
    assert many_rows(ranges, {}, lambda dims: True) == {"batch": 64, "S": 3, "W": 32}
    assert many_rows(ranges | {"batch": (1, inf)}, {"S": 9}, lambda dims: True) == {"batch": 67, "S": 9, "W": 32}
    assert many_rows(ranges, {}, lambda dims: dims["batch"] < 10) == {"batch": 8, "S": 3, "W": 32}
    assert many_rows(ranges, {"batch": 2}, lambda dims: True) is many_rows({"S": (1, 9)}, {}, lambda dims: True) is None
