"""Takes the quantisation of activations out of linear layers and convolutions, so that it is done once per tensor."""

from __future__ import annotations

from nomul.ir.builder import Builder
from nomul.ir.dim import Dim
from nomul.ir.graph import Func, Module, Node, Value
from nomul.ir.types import DType
from nomul.passes.base import Pass, Report

_PRODUCTS = {"nn.linear": "nn.quantised_linear", "nn.conv2d": "nn.quantised_conv2d"}


class QuantiseInputs(Pass):
    """A layer with `act` becomes nn.quantise and a product of its integers; layers that read one tensor alike share the
    former (queries, keys and values; gate and up), once common subexpressions are eliminated. Where weights have no
    integer form (dense ones, sixteen-bit floats), the integers are multiplied by their scale first, as `act` means."""

    name = "quantise_inputs"

    def run(self, module: Module, report: Report) -> None:
        for func in module.funcs.values():
            for node in list(func.nodes):
                if node.op in _PRODUCTS and node.attrs["act"] != "f32":
                    _split(func, node)
                    report.fire(node.op)


def _split(func: Func, node: Node) -> None:
    x, w, *rest = node.args
    assert x is not None and w is not None
    build = Builder(func, before=node, loc=node.loc)
    attrs = {name: value for name, value in node.attrs.items() if not name.startswith("act")}
    lead = x.type.rank - 1 if node.op == "nn.linear" else 1
    act, levels = node.attrs["act"], node.attrs["act_levels"]
    quantise = build.node("nn.quantise", x, lead=lead, act=act, act_scale=node.attrs["act_scale"], levels=levels)
    q, scale = quantise.results
    encoding = w.type.encoding
    if x.dtype is DType.F32 and (encoding is None or not encoding.is_integer):
        made = build.op(node.op, _product(build, q, scale), w, *rest, **attrs)
    else:
        made = build.op(_PRODUCTS[node.op], q, scale, w, *rest, **attrs, levels=levels)
    name = node.result.name
    func.replace_all(node.result, made)
    func.erase(node)
    func.rename(made, name)


def _product(build: Builder, q: Value, scale: Value) -> Value:
    """f32 q * scale."""
    ones = (Dim.of(1),) * (q.type.rank - scale.type.rank)
    spread = build.view.reshape(scale, shape=(*scale.shape, *ones))
    return build.ew.mul(build.ew.cast(q, dtype=DType.F32), spread)
