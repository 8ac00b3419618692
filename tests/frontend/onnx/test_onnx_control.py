"""Control flow decided at import, sequences, functions of the model and of the standard."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_models import check, imported, model, normal, ops

from nomul.frontend import import_onnx
from nomul.ir import interpreter
from nomul.ir.errors import NomulError

BRANCHES = """g (float[N] x{flag_input}) => (float[] y) {{
  {flag}
  y = If (flag) <
    then_branch = then_graph () => (float[] a) {{ a = Relu (x) }},
    else_branch = else_graph () => (float[] b) {{ b = Neg (x) }}
  >
}}"""


@pytest.mark.parametrize(("value", "op"), [(1, "ew.relu"), (0, "ew.neg")])
def test_a_constant_condition_leaves_one_branch(value: int, op: str) -> None:
    flag = f"flag = Constant <value = bool {{{value}}}> ()"
    assert ops(check(model(BRANCHES.format(flag=flag, flag_input="")), normal(5))) == [op]


def test_a_condition_on_sizes_is_decided_by_ranges() -> None:
    flag = "size = Size (x)\n big = Constant <value_int = 5000> ()\n flag = Less (size, big)"
    assert ops(check(model(BRANCHES.format(flag=flag, flag_input="")), normal(5))) == ["ew.relu"]


@pytest.mark.parametrize("value", [True, False])
def test_a_condition_on_data_computes_both_branches(value: bool) -> None:
    check(model(BRANCHES.format(flag="", flag_input=", bool flag")), normal(5), np.array(value))


def test_branches_of_different_shapes_are_refused() -> None:
    text = BRANCHES.format(flag="", flag_input=", bool flag").replace("b = Neg (x)", "b = Concat <axis = 0> (x, x)")
    with pytest.raises(NomulError, match="different shapes"):
        import_onnx(model(text))


LOOP = """g (float[N] x) => (float[] y, float[] rows) {
  turns = Constant <value_int = 3> ()
  y, rows = Loop (turns, , x) <
    body = turn (int64 i, bool on, float[] v) => (bool still, float[] w, float[] row) {
      still = Identity (on)
      f = Cast <to = 1> (i)
      w = Add (v, f)
      row = Mul (w, w)
    }
  >
}"""


def test_a_loop_of_known_length_is_unrolled() -> None:
    module = check(model(LOOP), normal(4))
    assert ops(module).count("ew.mul") == 3


def test_a_loop_of_unknown_length_is_refused() -> None:
    text = LOOP.replace("turns = Constant <value_int = 3> ()", "").replace("float[N] x)", "float[N] x, int64 turns)")
    with pytest.raises(NomulError, match="constant length") as caught:
        import_onnx(model(text))
    assert caught.value.code == "NM202"


def test_sequences_are_taken_apart_at_import() -> None:
    text = """g (float[N, 6] x) => (float[] y) {
      parts = SplitToSequence <axis = 1> (x, two)
      last = Constant <value_int = -1> ()
      a = SequenceAt (parts, last)
      shorter = SequenceErase (parts, last)
      longer = SequenceInsert (shorter, a, zero)
      y = ConcatFromSequence <axis = 1> (longer)
    }"""
    check(model(text, weights={"two": np.array(2), "zero": np.array(0)}), normal(3, 6))


FUNCTION = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
g (float[N, 4] x) => (float[] y) {{ {body} }}
<domain: "local", opset_import: ["" : 17]>
scaled <factor> (a) => (b) {{
  f = Constant <value_float : float = @factor> ()
  b = Mul (a, f)
}}
<domain: "local", opset_import: ["" : 17, "local" : 1]>
twice (a) => (c) {{
  b = local.scaled <factor = 3.0> (a)
  c = local.scaled <factor = 0.5> (b)
}}"""


def test_functions_of_the_model_are_inlined_with_their_attributes() -> None:
    proto = onnx.parser.parse_model(FUNCTION.format(body="y = local.twice (x)"))
    x = normal(2, 4)
    module = imported(proto)
    assert ops(module) == ["ew.mul", "ew.mul"]
    assert module.main.nodes[0].loc == "twice:y/scaled:b/Mul:b"
    np.testing.assert_allclose(interpreter.run(module, x)[0], x * 1.5, rtol=1e-6)


def test_a_function_that_calls_itself_is_refused() -> None:
    proto = onnx.parser.parse_model(FUNCTION.format(body="y = local.twice (x)"))
    proto.functions[0].node[1].op_type, proto.functions[0].node[1].domain = "twice", "local"
    del proto.functions[0].node[1].input[1:]
    with pytest.raises(NomulError, match="without end"):
        import_onnx(proto)


def test_operators_with_a_definition_in_the_standard_are_expanded() -> None:
    text = "g (float[N, 3, H, W] x) => (float[] y) { y = MeanVarianceNormalization <axes = [0, 2, 3]> (x) }"
    check(model(text, opset=13), normal(2, 3, 4, 5))
