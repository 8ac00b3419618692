"""What a user reads when a model cannot be imported: a code, the node, all unsupported operators at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_models import imported, model, normal

from nomul.frontend import import_onnx
from nomul.ir.errors import NomulError


def error(source) -> NomulError:
    with pytest.raises(NomulError) as caught:
        import_onnx(source)
    return caught.value


def test_every_unsupported_operator_is_told_with_count_first_use_and_hint() -> None:
    text = """g (float[N, 4] x) => (float[] y) {
      a = Det (x)
      b = Det (a)
      c, d = LSTM <hidden_size = 2> (b, x, x)
      y = local.Unknown (d)
    }"""
    found = error(model(text))
    assert [problem.code for problem in found.problems] == ["NM201"] * 3
    rendered = str(found)
    assert "operator Det (operator set 17) is not supported: 2 nodes, the first is 'Det:a'" in rendered
    assert "recurrent layers are not supported" in rendered and "local.Unknown" in rendered


def test_unsupported_operators_that_no_output_needs_do_not_matter() -> None:
    imported(model("g (float[N, 4] x) => (float[] y) { dead = Det (x)\n y = Relu (x) }"))


def test_unsupported_operators_inside_functions_are_found() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
    g (float[N] x) => (float[] y) { a = local.f (x)\n y = local.f (a) }
    <domain: "local", opset_import: ["" : 17]> f (a) => (b) { b = Det (a) }"""
    found = error(onnx.parser.parse_model(text))
    assert len(found.problems) == 1 and "Det" in found.message


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("y = Conv (x3, k3)", "NM202", "spatial axes"),
        ("y = NonZero (x)", "NM203", "depends on the data"),
        ("y = Reshape (x, ids)", "NM203", "shape of a reshape depends on the data"),
        ("y = Slice (x, ids, ids)", "NM203", "start of a slice"),
        ("a = Transpose <perm = [0, 0]> (x)\n y = Relu (a)", "NM204", "permutation"),
        ("a = ReduceSum <keepdims = 0> (x, nine)\n y = Relu (a)", "NM204", "axis 9 is outside rank 2"),
        ("y = MatMul (x, x3)", "NM204", "must be equal"),
        ("y = Cast <to = 14> (x)", "NM202", "complex64"),
        ("y = Cast (x)", "NM204", "attribute 'to' is missing"),
        ("y = Relu (gone)", "NM200", "'gone' is used before it is defined"),
        ("y = Relu (x)\n y = Neg (x)", "NM200", "defined twice"),
        ("y = Add (x, ids)", "NM204", "operand 'y'"),
    ],
)
def test_errors_name_the_node(body: str, code: str, message: str) -> None:
    text = f"g (float[2, 3] x, float[1, 1, 2, 2, 2] x3, int64[3] ids) => (float[] y) {{ {body} }}"
    found = error(model(text, weights={"k3": normal(1, 1, 2, 2, 2), "nine": np.array([9])}))
    assert found.code == code and message in found.message
    assert found.loc or code == "NM200"


@pytest.mark.parametrize(
    ("port", "message"),
    [("string[2] x", "string"), ("uint16[2] x", "uint16"), ("float[] x", "no shape"), ("seq(float[2]) x", "no tensor")],
)
def test_inputs_of_other_types(port: str, message: str) -> None:
    found = error(model(f"g ({port}) => (float[] y) {{ y = Identity (x) }}"))
    assert found.code == "NM202" and message in found.message


def test_outputs_of_other_types() -> None:
    found = error(model("g (float[2] x) => (int64[2] y) { y = Relu (x) }"))
    assert found.code == "NM200" and "another element type" in found.message


@pytest.mark.parametrize("opset", [0, 99])
def test_unknown_operator_sets(opset: int) -> None:
    found = error(model("g (float[2] x) => (float[] y) { y = Relu (x) }", opset=opset))
    assert found.code == "NM200" and f"operator set {opset}" in found.message


@pytest.mark.parametrize("opset", [*range(9, onnx.defs.onnx_opset_version() + 1)])
def test_every_operator_set_from_9_is_read(opset: int) -> None:
    module = imported(
        model("g (float[N, 4] x) => (float[] y) { a = Relu (x)\n y = Softmax <axis = 1> (a) }", opset=opset)
    )
    assert len(module.main.nodes) == 2


def test_what_is_no_model(tmp_path: Path) -> None:
    assert error(tmp_path / "none.onnx").code == "NM200"
    assert error(tmp_path).code == "NM200"
    for content in (b"", b"not a model", b"\x00" * 64, b"\x08\x07"):
        path = tmp_path / "bad.onnx"
        path.write_bytes(content)
        assert error(path).code == "NM200" and error(content).code == "NM200"


def test_constants_whose_size_does_not_fit_their_shape() -> None:
    proto = model("g (float[N] x) => (float[] y) { y = Identity (w) }", weights={"w": normal(3)})
    proto.graph.initializer[0].dims[0] = 2**40
    found = error(proto)
    assert found.code == "NM200" and "needs 4398046511104 bytes, but the file holds 12" in found.message


def test_constants_of_typed_fields() -> None:
    proto = model("g (float[N] x) => (float[] y, float16[] h) { y = Add (x, w)\n h = Identity (v) }")
    proto.graph.initializer.append(onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [2], [1.5, 2.5]))
    proto.graph.initializer.append(onnx.helper.make_tensor("v", onnx.TensorProto.FLOAT16, [2], [1.5, 2.5]))
    module = imported(proto)
    np.testing.assert_array_equal(module.weights["w"].array(), np.float32([1.5, 2.5]))
    np.testing.assert_array_equal(module.weights["v"].array(), np.float16([1.5, 2.5]))
