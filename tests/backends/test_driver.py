"""model.c as text: dims are bound, sizes fit 64 bits, names and comments cannot break out of their place."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_artifact import toy_plan

from nomul.backends import c_text
from nomul.backends.driver import emit_driver, known_features
from nomul.backends.driver_sizes import closed_ranges
from nomul.backends.plan import Level, Plan, Port, Step
from nomul.ir.dim import Dim
from nomul.ir.errors import NomulError
from nomul.ir.types import DType

S, T = Dim.of("S"), Dim.of("T")


def plan_of(*shapes: tuple[Dim, ...], dims: dict, **fields: object) -> Plan:
    """A plan with these input shapes and nothing to do."""
    inputs = tuple(Port(f"in{number}", DType.F32, shape) for number, shape in enumerate(shapes))
    empty = Plan("empty", inputs, (), dims, (), (), b"", (Level("plain", (), b""),), "x86_64-linux")
    return replace(empty, **fields)


def test_every_step_stands_in_the_run_function_with_its_comment() -> None:
    text = emit_driver(toy_plan(levels=(Level("plain", (), b""),)))
    first, second = (text.index(f"/* {n}: {step.comment} */") for n, step in enumerate(toy_plan(levels=()).steps[:2]))
    assert first < second
    assert "NM_STEP(0, call_add_rows__dim_B__dim_S, dim_B, 2, INPUT(0), INPUT(1), WEIGHT(0), SLOT(1));" in text
    assert (
        "extern NM_HIDDEN int32_t flip_scale__plain(void *, void *, void *, int64_t, int64_t, int64_t, void *);" in text
    )


def test_a_slot_is_as_large_as_its_largest_value() -> None:
    text = emit_driver(plan_of((S,), dims={"S": (1, 9)}, slots=((S * 4, S * 8, Dim.of(100)), (Dim.of(1), Dim.of(2)))))
    assert "end += nm_round_up(100);" in text  # 8 * S is at most 72
    assert "end += nm_round_up(2);" in text
    text = emit_driver(plan_of((S,), dims={"S": (1, 99)}, slots=((S * 4, S * 8, Dim.of(100)),)))
    assert "end += nm_round_up(nm_max(8 * dim_S, 100));" in text


def test_dims_are_read_off_bare_axes_first_and_then_solved_for() -> None:
    text = emit_driver(plan_of((S * 2 + T, T), dims={"S": (1, 8), "T": (1, 8)}))
    first = text.index("nm_bind_dim(dims, DIM_T, inputs[0].shape[1])")
    second = text.index("nm_bind_dim(dims, DIM_S, (inputs[0].shape[0] - (dims[DIM_T])) / 2)")
    assert first < second


@pytest.mark.parametrize("shape", [(S // 2,), (S * S,), (S + T,), (Dim.of(3),)])
def test_a_dim_that_no_input_tells_is_an_error(shape: tuple[Dim, ...]) -> None:
    with pytest.raises(NomulError, match="no input's shape tells the size of S") as caught:
        emit_driver(plan_of(shape, dims={"S": (1, 8), "T": (1, 8)}, slots=((S * T,),)))
    assert caught.value.code == "NM501"


def test_a_dim_that_nothing_uses_needs_no_input() -> None:
    assert "DIM_T" not in emit_driver(plan_of((S,), dims={"S": (1, 8), "T": (1, 8)}))


def test_an_open_range_is_closed_where_sizes_would_overflow() -> None:
    assert closed_ranges(plan_of((S,), dims={"S": (1, inf)})) == {"S": (1, 2**31 - 1)}
    cubic = plan_of((S,), dims={"S": (1, inf)}, slots=((S * S * S * 4,),))
    low, high = closed_ranges(cubic)["S"]
    assert low == 1 and high > 2**18 and 4 * high**3 < 2**60


def test_a_declared_range_that_overflows_is_an_error() -> None:
    with pytest.raises(NomulError, match=r"overflow 64 bits for S in \[1, 4294967296\]") as caught:
        emit_driver(plan_of((S,), dims={"S": (1, 2**32)}, slots=((S * S,),)))
    assert caught.value.code == "NM502"


def test_limits_of_the_interface() -> None:
    with pytest.raises(NomulError, match="has 17 axes"):
        emit_driver(plan_of((Dim.of(1),) * 17, dims={}))
    with pytest.raises(NomulError, match="33 named dims"):
        emit_driver(plan_of(dims={f"d{n}": (1, 2) for n in range(33)}))


def test_an_unknown_feature_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(NomulError, match="level odd needs sse9, which the runtime cannot look for") as caught:
        emit_driver(plan_of((S,), dims={"S": (1, 2)}, levels=(Level("odd", ("avx2", "sse9"), b""),)))
    assert caught.value.code == "NM504" and "avx512vnni" in str(caught.value.help)


def test_features_are_read_from_the_one_table() -> None:
    assert known_features()["sse4.2"] == "sse4_2"
    assert {"avx2", "fma", "f16c", "avx512vnni", "dotprod", "i8mm"} <= known_features().keys()


def test_names_from_the_model_stay_text() -> None:
    port = Port('x"\\\n*/ ??/ ü', DType.F32, (S,))
    step = Step("k", (), ("S",), Dim.of(1), comment="evil */ #include <x>\n/* more")
    text = emit_driver(plan_of(dims={"S": (1, 2)}, inputs=(port,), steps=(step,)))
    assert r'"x\042\134\012*/ \077\077/ \303\274"' in text
    assert "/* 0: evil * / #include <x> / * more */" in text


def test_dims_that_look_alike_in_c_get_different_names() -> None:
    names = c_text.unique_identifiers(["a.b", "a b", "a_b", "1"], "dim_")
    assert names == {"a.b": "dim_a_b", "a b": "dim_a_b_2", "a_b": "dim_a_b_3", "1": "dim_1"}


def test_two_ways_to_call_one_kernel_are_a_fault_of_the_compiler() -> None:
    steps = (Step("k", (), ("S",), Dim.of(1)), Step("k", (), (), Dim.of(1)))
    with pytest.raises(ValueError, match="different numbers of arguments"):
        emit_driver(plan_of((S,), dims={"S": (1, 2)}, steps=steps))


dims = st.recursive(
    st.sampled_from([S, T, Dim.of(1), Dim.of(3), Dim.of(-2)]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: two[0] + two[1]),
        st.tuples(inner, inner).map(lambda two: two[0] * two[1]),
        st.tuples(inner, st.integers(2, 7)).map(lambda two: two[0] // two[1]),
    ),
    max_leaves=8,
)


class CInteger(int):
    """An int64_t of C: `/` rounds towards zero."""

    def __truediv__(self, other: int) -> CInteger:  # type: ignore[override]
        return CInteger(abs(self) // other * (1 if self >= 0 else -1))


def _closed(name: str) -> Any:
    return lambda *values: CInteger(getattr(int, name)(*values))


for operator in ("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__neg__"):
    setattr(CInteger, operator, _closed(operator))


@given(dims, st.integers(1, 50), st.integers(0, 50))
def test_an_expression_in_c_has_the_value_of_the_dim(dim: Dim, s: int, t: int) -> None:
    text = c_text.expression(dim, {"S": "s", "T": "t"}, {"S": (1, 50), "T": (0, 50)})
    scope = {"s": CInteger(s), "t": CInteger(t), "nm_floor_div": lambda a, b: CInteger(a // b)}
    assert eval(text, scope) == dim.evaluate({"S": s, "T": t})
