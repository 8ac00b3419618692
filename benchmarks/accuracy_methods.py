"""How weights are stored: our encodings with their fitters, and what a user would take today at the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_store import Quantise
from accuracy_table import NEAREST

from nomul.passes.fit import find_fitter
from nomul.recipe import read_recipe

GROUP = 128
ENCODINGS = (
    "int8",
    f"int4<group={GROUP}>",
    f"int4<zero=1, group={GROUP}>",
    f"shift<terms=2, group={GROUP}>",
    f"ternary<planes=2, group={GROUP}>",
    f"bitplane<bits=3, group={GROUP}>",
    "nm<n=2, m=4, value=int8>",
    f"bitplane<bits=4, group={GROUP}>",
    f"codebook<grid=nf4, group={GROUP}>",
    f"codebook<grid=e2m1, group={GROUP}>",
    f"codebook<grid=free, group={GROUP}>",
    f"codebook<grid=power, group={GROUP}>",
    f"codebook<grid=twinlog, group={GROUP}>",
    f"shift<group={GROUP}>",
    f"shift<terms=2, group={GROUP}, pack=sp2>",
    f"ternary<planes=3, group={GROUP}>",
    f"ternary<planes=2, group={GROUP}, tied=1>",
    f"ternary<group={GROUP}>",
    f"ternary<group={GROUP}, pack=3of4>",
    f"ternary<planes=2, group={GROUP}, pack=3of4>",
    f"bitplane<bits=2, group={GROUP}>",
    f"bitplane<bits=2, group={GROUP}, tied=1>",
    f"bitplane<bits=3, group={GROUP}, tied=1>",
    f"bitplane<bits=4, group={GROUP}, tied=1>",
    "nm<n=2, m=4>",
    "split",
)
PLANES = f"bitplane<bits=2, group={GROUP}>"  # few enough bits that a transform shows
TRANSFORMED = (
    ("rotate", PLANES),
    ("smooth", PLANES),
    ("column_scale", PLANES),
    ("permute", "nm<n=2, m=4, value=int8>"),
    ("low_rank", "int8"),
    ("dictionary", "nm<n=2, m=8, value=int8>"),
)
TRAINED = (
    f"ternary<group={GROUP}>",
    f"ternary<group={GROUP}, pack=3of4>",
    f"shift<group={GROUP}>",
    "nm<n=2, m=4>",
    f"bitplane<bits=2, group={GROUP}>",
)
LEARNED = (f"int4<group={GROUP}>", f"bitplane<bits=3, group={GROUP}>")
LEARNING, BY_BLOCK = "flexround", "flexround by block"
PLAIN = "f32"
HQQ_BITS = (4, 3, 2)
ORT_BITS = (8, 4)


@dataclass(frozen=True)
class Method:
    """One row: an encoding, and how its bytes are chosen. other: of another project, on matrices; onnx: on a file.

    trained: the model is trained with the encoding.  transform: of the layers before they are encoded."""

    weights: str
    fitter: str
    calibrated: bool = False
    other: Quantise | None = None
    onnx: Callable[[Path, Path], float] | None = None
    trained: bool = False
    transform: str = ""

    @property
    def label(self) -> str:
        """What stands in the table's first column."""
        return f"{self.weights} after {self.transform}" if self.transform else self.weights

    @property
    def rule(self) -> dict[str, str]:
        """Of a recipe, for all layers."""
        by_block = self.fitter == BY_BLOCK
        fitter, scope = (LEARNING, "block") if by_block else (self.fitter, "layer")
        return {"weights": self.weights, "fitter": fitter, "scope": scope}


def methods() -> Iterator[Method]:
    """All rows in order: the model as it is, and with more training; each encoding to the nearest, by its best fitter,
    by that with calibration, learned by layer and by block, with training; after transforms, beside the same without
    where that is no row yet; then others."""
    yield Method(PLAIN, "")
    yield Method(PLAIN, "more training", trained=True)
    for text in ENCODINGS:
        yield Method(text, NEAREST)
        yield from _best(text)
        if text in LEARNED:
            yield from (Method(text, fitter, calibrated=True) for fitter in (LEARNING, BY_BLOCK))
        if text in TRAINED:
            yield Method(text, "nomul.qat", trained=True)
    for name, text in TRANSFORMED:
        if text not in ENCODINGS:
            yield from _best(text)
        yield from _best(text, name)
    for bits in HQQ_BITS:
        yield Method(f"HQQ, {bits} bits, group {GROUP}", "HQQ", other=_hqq(bits))
    for bits in ORT_BITS:
        yield Method(f"onnxruntime, {bits} bits, block {GROUP}", "onnxruntime", onnx=_blocks(bits))
    yield Method("onnxruntime, int8 weights and activations", "onnxruntime", onnx=_dynamic)


def _best(text: str, transform: str = "") -> Iterator[Method]:
    """By the encoding's best fitter, without and with calibration data."""
    encoding = read_recipe({"*": text}).rules[0].encoding
    assert encoding is not None
    best = find_fitter(None, encoding).name
    yield from (Method(text, best, calibrated, transform=transform) for calibrated in (False, True))


def _hqq(bits: int) -> Quantise:
    def quantise(matrix: np.ndarray) -> tuple[np.ndarray, float]:
        import torch
        from hqq.core.quantize import Quantizer

        group = GROUP if matrix.shape[1] % GROUP == 0 else matrix.shape[1]
        packed, meta = Quantizer.quantize(
            torch.from_numpy(matrix), nbits=bits, group_size=group, axis=1, device="cpu", compute_dtype=torch.float32
        )
        sizes = sum(meta[name].numel() for name in ("scale", "zero"))
        values = Quantizer.dequantize(packed, meta).reshape(matrix.shape)
        return values.numpy(), bits + 16 * sizes / matrix.size

    return quantise


def _blocks(bits: int) -> Callable[[Path, Path], float]:
    """onnxruntime's block-wise quantiser of matrix products; the result is the stored bits for each weight."""

    def quantise(source: Path, target: Path) -> float:
        import onnx
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        given = onnx.load(source)
        heads = _heads(given)
        quantiser = MatMulNBitsQuantizer(given, bits=bits, block_size=GROUP, is_symmetric=False, nodes_to_exclude=heads)
        quantiser.process()
        model = quantiser.model.model
        onnx.save(model, target)
        sizes = {item.name: _bytes(item) for item in model.graph.initializer}
        nodes = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
        stored = sum(sizes[name] for node in nodes for name in node.input[1:4] if name)
        weights = sum(prod(item.i for item in node.attribute if item.name in ("K", "N")) for node in nodes)
        return 8 * stored / weights

    return quantise


def _dynamic(source: Path, target: Path) -> float:
    """onnxruntime's eight-bit weights with activations that are rounded while it runs."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    heads = _heads(onnx.load(source))
    quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True, nodes_to_exclude=heads)
    items = {item.name: item for item in onnx.load(target).graph.initializer}
    weights = {name: item for name, item in items.items() if name.endswith("_quantized")}
    parts = [name.removesuffix("quantized") + part for name in weights for part in ("scale", "zero_point")]
    stored = sum(map(_bytes, weights.values())) + sum(_bytes(items[name]) for name in parts if name in items)
    return 8 * stored / sum(prod(item.dims) for item in weights.values())


def _heads(model: Any) -> list[str]:
    """Products that are outputs of the model: heads, which keep their floats in our rows too."""
    outputs = {output.name for output in model.graph.output}
    return [node.name for node in model.graph.node if node.op_type == "MatMul" and outputs & set(node.output)]


def _bytes(tensor: object) -> int:
    from onnx import numpy_helper

    return int(numpy_helper.to_array(tensor).nbytes)
