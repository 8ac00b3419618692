"""Large products of floats with seven multiplications of blocks instead of eight (Strassen 1969).

The scheme, with coefficients -1, 0 and 1 alone, is the 2x2x2 one of ternary flip graphs (dronperminov's collection)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nomul.ir.builder import Builder
from nomul.ir.graph import Module, Value, Weight
from nomul.passes.base import Report
from nomul.passes.choice import PLAIN
from nomul.passes.transforms.base import Request, Transform


class FastProduct(Transform):
    """A large product of floats by seven products of blocks.

    Rows, columns and outputs are halved. The sums of blocks of the weights are made when compiling, so that seven
    quarters of the weights are stored; those of the input and of the products are eight, and four, additions of a
    quarter of the outputs, or inputs. Weights stay f32, and the number of rows must be even at all sizes.

    least: inputs and outputs of layers that are worth it."""

    name = "fast_product"
    options = {"least": 512}

    def refusal(self, request: Request) -> str | None:
        if request.node.op != "nn.linear" or request.input.type.rank < 2:
            return "it is no product of matrices"
        if request.encoding is not None or request.rule.act != PLAIN:
            return "its weights are encoded"
        rows, columns = request.matrix.shape
        if min(rows, columns) < request.options["least"] or rows % 2 or columns % 2:
            return f"[{rows}, {columns}] is not even and from {request.options['least']:g} on"
        if (request.input.shape[-2] % 2).value != 0:
            return f"{request.input.shape[-2]} rows are not always even"
        return None

    def apply(self, module: Module, requests: Sequence[Request], report: Report) -> dict[str, str]:
        for request in requests:
            _replace(module, request)
            report.fire("seven products")
        return {}


def _replace(module: Module, request: Request) -> None:
    node, name = request.node, request.node.result.name
    build = Builder(module.main, before=node, loc=node.loc)
    made = _product(module, build, request)
    if len(node.args) > 2:
        made = build.ew.add(made, node.args[2])
    module.main.replace_all(node.result, made)
    module.main.erase(node)
    module.main.rename(made, name)
    module.remove_weight(request.weight)


def _product(module: Module, build: Builder, request: Request) -> Value:
    """x W^T, without a bias."""
    x, matrix = request.input, request.weight.array()
    b11, b21, b12, b22 = (part for rows in np.split(matrix, 2) for part in np.split(rows, 2, axis=1))
    row_axis, last = x.type.rank - 2, x.type.rank - 1
    (a11, a12), (a21, a22) = (_halves(build, rows, last) for rows in _halves(build, x, row_axis))

    def times(a: Value, b: np.ndarray, number: int) -> Value:
        weight = module.add_weight(Weight.dense(f"{request.weight.name}.{number}", np.ascontiguousarray(b)))
        return build.nn.linear(a, weight)

    add, sub = build.ew.add, build.ew.sub
    rest = sub(a21, a22)
    sum1 = add(a11, rest)
    m1, m2 = times(rest, b12, 1), times(sum1, b12 + b21 + b22, 2)
    m3, m4 = times(sub(sum1, a12), b21 + b22, 3), times(a12, b21, 4)
    m5, m6 = times(add(a11, a21), b11 + b12 + b21 + b22, 5), times(a11, b11, 6)
    m7 = times(a22, b12 + b22, 7)
    upper = add(m4, m6), sub(sub(m2, m1), add(m3, m4))
    lower = sub(sub(m5, m2), add(m6, m7)), add(m1, m7)
    rows = [build.view.concat(*parts, axis=last) for parts in (upper, lower)]
    return build.view.concat(*rows, axis=row_axis)


def _halves(build: Builder, x: Value, axis: int) -> tuple[Value, Value]:
    size = x.shape[axis]
    half = size // 2
    return build.view.slice(x, axis=axis, stop=half), build.view.slice(x, axis=axis, start=half, stop=size)
