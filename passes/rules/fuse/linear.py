"""Products with weights become linear layers; biases, scales and weights transposed at compile time go into them."""

from __future__ import annotations

from nomul.ir.graph import Constant, Node, Value, Weight
from nomul.ir.shapes import ONE
from nomul.ir.types import DType
from nomul.ir.views import view_chain
from nomul.passes.graph_tools import is_dense, is_known, produced_by
from nomul.passes.rule import NodeRule, NoMatch, Rewriter
from nomul.passes.view_tools import rebuild_views

_WIDE = (DType.F32, DType.F64)  # scaling sixteen-bit weights would round them again


class MatmulByWeight(NodeRule):
    """x @ W -> linear(x, W transposed)."""

    ops = ("nn.matmul",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        x, w = node.args
        if not isinstance(w, Weight) or x is None or not is_dense(w):
            return None
        if any(size != ONE for size in w.shape[:-2]) or x.type.rank < w.type.rank:
            raise NoMatch(f"the weight {w.type} is a batch of matrices", w)
        matrix = g.view.reshape(w, shape=w.shape[-2:], name=w.name) if w.type.rank > 2 else w
        return g.nn.linear(x, g.view.transpose(matrix, perm=(1, 0), name=w.name))


class BiasIntoLinear(NodeRule):
    """linear(x, w) + b -> linear(x, w, b), where b is known and has the size of the last axis."""

    ops = ("ew.add",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        for made, bias in (node.args, node.args[::-1]):
            linear = produced_by(made, "nn.linear")
            if linear is None or not isinstance(bias, Weight):
                continue
            if len(linear.result.users) > 1:
                raise NoMatch("the product without bias is used elsewhere", made)
            if bias.shape == linear.result.shape[-1:]:
                x, w, *old = linear.args
                return g.nn.linear(x, w, g.ew.add(old[0], bias, name=bias.name) if old else bias, **linear.attrs)
        return None


class ScaleIntoLinear(NodeRule):
    """linear(x, w, b) * c -> linear(x, w * c, b * c) for a literal or one number for each output."""

    ops = ("ew.mul",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        linear, c = produced_by(node.args[0], "nn.linear"), node.args[1]
        if linear is None or not is_known(c) or c is None or c.dtype not in _WIDE:
            return None
        if c.shape not in ((), linear.result.shape[-1:]):
            return None
        x, w, *bias = linear.args
        if len(linear.result.users) > 1:
            raise NoMatch("the unscaled product is used elsewhere", linear)
        if not is_dense(w) or not all(map(is_known, bias)):
            raise NoMatch("the weights are not known, or encoded already", w)
        column = c if isinstance(c, Constant) else g.view.reshape(c, shape=(*c.shape, 1))
        scaled = g.ew.mul(w, column, name=w.name)
        scaled_bias = (g.ew.mul(b, c, name=b.name) for b in bias if b is not None)
        return g.nn.linear(x, scaled, *scaled_bias, **linear.attrs)


class ScaleBeforeMatmul(NodeRule):
    """(a * c) @ b and a @ (b * c) -> (a @ b) * c for a literal c, behind views too: attention finds one scale."""

    ops = ("nn.matmul",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        for position, operand in enumerate(node.args):
            assert operand is not None
            chain = view_chain(operand)
            source = chain[-1].args[0] if chain else operand
            product = produced_by(source, "ew.mul")
            if product is not None and isinstance(product.args[1], Constant):
                unscaled = rebuild_views(g, chain, product.args[0])
                args = [*node.args[:position], unscaled, *node.args[position + 1 :]]
                return g.ew.mul(g.nn.matmul(*args), product.args[1])
        return None
