"""onnxruntime: floats, eight-bit products with inputs quantised while it runs, and MatMulNBits of 2, 4 and 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from linear_case import Loaded, Shape, System, Work

OPSET = 17
BITS, BLOCKS = (8, 4, 2), (128, 32)
INT8_INPUTS = 4  # accuracy_level: inputs are rounded to eight bits, by block; the fastest


@dataclass(frozen=True)
class Form:
    """One layer in ONNX. arrays: initializers by name.  node: nodes from the input and the result's name."""

    arrays: dict[str, np.ndarray]
    dense: np.ndarray
    nodes: Callable[[str, str, dict[str, str]], list[Any]]

    @property
    def bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())


def systems() -> Iterator[System]:
    """fp32, dynamic int8, and MatMulNBits by bits and block."""
    yield System("onnxruntime", "f32", lambda work: _load(work, _floats(work.shape)), 1e-4)
    yield System("onnxruntime", "dynamic int8", lambda work: _load(work, _dynamic(work.shape)), 0.04)
    for bits in BITS:
        for block in BLOCKS:
            yield System(
                "onnxruntime",
                f"{bits} bits block {block}",
                lambda work, bits=bits, block=block: _load(work, _blocks(work.shape, bits, block)),  # type: ignore[misc]
                0.03,
            )


def _load(work: Work, form: Form) -> Loaded:
    copies = work.copies(form.bytes)
    session = _session(work, form, copies)
    names = [f"x{index}" for index in range(copies)]

    def run(values: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        results: Sequence[np.ndarray] = session.run(None, dict(zip(names, values, strict=True)))
        return results

    return Loaded(form.bytes, copies, form.dense, run)


def _session(work: Work, form: Form, copies: int) -> Any:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    nodes, initializers = [], []
    for index in range(copies):
        names = {name: f"{name}{index}" for name in form.arrays}
        initializers += [numpy_helper.from_array(_own(form.arrays[name], index), full) for name, full in names.items()]
        nodes += form.nodes(f"x{index}", f"y{index}", names)
    inputs, outputs = (
        [helper.make_tensor_value_info(f"{letter}{i}", TensorProto.FLOAT, ["M", size]) for i in range(copies)]
        for letter, size in (("x", work.shape.k), ("y", work.shape.n))
    )
    graph = helper.make_graph(nodes, "linear", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = work.threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _own(array: np.ndarray, number: int) -> np.ndarray:
    """A copy that differs in its first element: onnxruntime keeps equal weights once. Number 0 is as it was."""
    copy = array.copy()
    copy.flat[0] += array.dtype.type(number)
    return copy


def _floats(shape: Shape) -> Form:
    from onnx import helper

    def nodes(x: str, y: str, names: dict[str, str]) -> list[Any]:
        return [helper.make_node("MatMul", [x, names["w"]], [y])]

    return Form({"w": np.ascontiguousarray(shape.whole(shape.matrix).T)}, shape.matrix, nodes)


def _dynamic(shape: Shape) -> Form:
    """The nodes that onnxruntime.quantization.quantize_dynamic makes (per channel, signed weights)."""
    from onnx import helper

    scale = np.abs(shape.matrix).max(axis=1) / 127
    codes = np.rint(shape.matrix / scale[:, None]).astype(np.int8)
    whole = shape.whole(codes)
    arrays = {
        "w": np.ascontiguousarray(whole.T),
        "zero": np.zeros(shape.n, np.int8),
        "scale": shape.whole(scale),
    }

    def nodes(x: str, y: str, names: dict[str, str]) -> list[Any]:
        q, step, zero, total, cast, scales = (f"{x}_{part}" for part in ("q", "step", "zero", "sum", "cast", "scales"))
        return [
            helper.make_node("DynamicQuantizeLinear", [x], [q, step, zero]),
            helper.make_node("MatMulInteger", [q, names["w"], zero, names["zero"]], [total]),
            helper.make_node("Cast", [total], [cast], to=1),
            helper.make_node("Mul", [step, names["scale"]], [scales]),
            helper.make_node("Mul", [cast, scales], [y]),
        ]

    return Form(arrays, codes * scale[:, None], nodes)


def _blocks(shape: Shape, bits: int, block: int) -> Form:
    """Symmetric codes, a float scale for each block; onnxruntime's own quantiser stores them so."""
    from onnx import helper

    middle = 1 << bits - 1
    blocks = shape.matrix.reshape(len(shape.matrix), -1, block)
    scale = np.abs(blocks).max(axis=2) / middle
    codes = np.clip(np.rint(blocks / scale[..., None]) + middle, 0, 2 * middle - 1).astype(np.uint8)
    dense = ((codes.astype(np.float32) - middle) * scale[..., None]).reshape(shape.matrix.shape)
    parts = [codes[..., place :: 8 // bits] << bits * place for place in range(8 // bits)]
    packed = np.bitwise_or.reduce(parts).astype(np.uint8)
    attributes = {"K": shape.k, "N": shape.n, "bits": bits, "block_size": block, "accuracy_level": INT8_INPUTS}

    def nodes(x: str, y: str, names: dict[str, str]) -> list[Any]:
        inputs = [x, names["codes"], names["scales"]]
        return [helper.make_node("MatMulNBits", inputs, [y], domain="com.microsoft", **attributes)]

    return Form({"codes": shape.whole(packed), "scales": shape.whole(scale)}, dense, nodes)
