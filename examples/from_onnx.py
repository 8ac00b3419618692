"""An ONNX model: compile it for any width, run it on images of several widths, compare with onnxruntime.

`python examples/from_onnx.py` writes a small convolution network itself; with a path it takes your model.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import nomul
from nomul.compare import difference, onnxruntime_of
from nomul.sample import artifact_specs, sample_inputs, spread_dims


def small_network() -> onnx.ModelProto:
    """Convolution, batch norm, activation, pooling over the image, classifier. The width W of the image is open."""
    generator = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(generator.standard_normal(shape, np.float32) / 8, name)

    nodes = [
        helper.make_node("Conv", ["image", "conv"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "depthwise"], ["d"], pads=[1, 1, 1, 1], group=16),
        helper.make_node("HardSwish", ["d"], ["h"]),
        helper.make_node("GlobalAveragePool", ["h"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "classes"], ["g"], transB=1),
        helper.make_node("Softmax", ["g"], ["probabilities"]),
    ]
    weights = [weight("conv", 16, 3, 3, 3), weight("depthwise", 16, 1, 3, 3), weight("classes", 10, 16)]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 32, "W"])
    result = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])
    graph = helper.make_graph(nodes, "small", [image], [result], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.onnx"
        onnx.save(small_network(), path)
        source = Path(sys.argv[1]) if len(sys.argv) > 1 else path
        artifact = nomul.compile(source, dims={} if len(sys.argv) > 1 else {"N": (1, 4), "W": (16, 320)})
        print(artifact)
        reference = onnxruntime_of(source)
        assert reference is not None
        for sizes in spread_dims(artifact.dims, {}, 3):
            values = sample_inputs(artifact_specs(artifact), sizes)
            for port, left, right in zip(artifact.outputs, reference(values), artifact(*values), strict=True):
                print(f"{sizes} {port.name}: relative difference {difference(np.asarray(left), right).relative:.1e}")


if __name__ == "__main__":
    main()
