"""Names of values in imported models, and where a model says it comes from."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nomul.frontend import import_onnx
from nomul.frontend.onnx.names import PathNames

LAYERS = [f"/model/model.0/encoder/layer/layer.{n}/attention/self/query/Add_output_0" for n in range(8)]
NAMES = [*LAYERS, "/model/model.0/embeddings/Gather_output_0", "/model/model.1/Div_output_0", "logits"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (LAYERS[3], "layer.3.attention.self.query.Add"),
        (NAMES[-3], "embeddings.Gather"),
        (NAMES[-2], "model.1.Div"),
        ("logits", "logits"),
        ("/model/model.0/encoder/Split_output_1", "Split.1"),
        ("/model/model.0/encoder/LayerNorm_output_0.scale", "LayerNorm.scale"),
        ("StatefulPartitionedCall/net/Relu:0", "StatefulPartitionedCall.net.Relu"),
        ("onnx::MatMul_12", "onnx__MatMul_12"),
        ("/Add_output_0", "Add"),
        ("/", "_"),
    ],
)
def test_paths_lose_what_most_of_them_share(source: str, expected: str) -> None:
    assert PathNames(NAMES)(source) == expected


def test_without_paths_names_stay() -> None:
    assert PathNames(["a", "b"])("a.b:0") == "a.b_0"
    assert PathNames([])("/net/Add_output_0") == "net.Add"


def model(producer: str) -> onnx.ModelProto:
    """Two nodes whose short names are equal, one of them called like an input."""
    nodes = [
        helper.make_node("Exp", ["x"], ["/net/Exp_output_0"], name="/net/Exp"),
        helper.make_node("Exp", ["/net/Exp_output_0"], ["/net/Exp"], name="/net/Exp_1"),
        helper.make_node("Add", ["/net/Exp", "w"], ["/net/x"], name="/net/Add"),
        helper.make_node("Neg", ["/net/x"], ["/net/y"], name="/net/Neg"),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "/net/y")]
    weight = numpy_helper.from_array(np.ones(2, np.float32), "w")
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [weight])
    proto = helper.make_model(graph, producer_name=producer, opset_imports=[helper.make_opsetid("", 17)])
    proto.producer_version = "2.3.0"
    return proto


def test_names_stay_unique_and_places_complete() -> None:
    main = import_onnx(model("pytorch")).main
    names = [value.name for value in main.values()]
    assert len(set(names)) == len(names) == 5
    assert names[:2] == ["x", "Exp"] and main.returns[0].name == "_net_y"
    assert [node.loc for node in main.nodes] == ["/net/Exp", "/net/Exp_1", "/net/Add", "/net/Neg"]


def test_the_producer_is_kept() -> None:
    assert import_onnx(model("pytorch")).origin == "ONNX operator set 17, pytorch 2.3.0"
    assert import_onnx(model("pytorch")).clone().origin == "ONNX operator set 17, pytorch 2.3.0"
    assert import_onnx(model("a\n\x07" + "b" * 999)).origin == "ONNX operator set 17, a" + "b" * 79
