"""Layer norm and RMS norm from means, squares and roots; their scale and shift become operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nomul.ir.dim import product
from nomul.ir.graph import Constant, Node, Value
from nomul.ir.shapes import inverse
from nomul.passes.graph_tools import number, produced_by
from nomul.passes.matcher import Match, Pattern
from nomul.passes.rule import NodeRule, NoMatch, PatternRule, Rewriter


class LayerNorm(PatternRule):
    """(x - mean) / sqrt(mean((x - mean)^2) + eps) over one axis or the last axes -> layer_norm (Ba et al., 2016)."""

    @staticmethod
    def pattern(g: Any, x: Pattern, eps: Constant) -> Pattern:
        centred = g.ew.sub(x, g.reduce.mean(x, axes=g.attr("axes"), keepdims=True))
        variance = g.reduce.mean(g.ew.mul(centred, centred), axes=g.attr("variance_axes"), keepdims=True)
        deviation = g.ew.add(variance, eps)
        return g.any_of(g.ew.mul(centred, g.ew.rsqrt(deviation)), g.ew.div(centred, g.ew.sqrt(deviation)))

    def check(self, m: Match) -> None:
        if m.axes != m.variance_axes:
            raise NoMatch(f"mean over axes {list(m.axes)}, variance over {list(m.variance_axes)}", m.x)
        check_axes(m)

    def rewrite(self, g: Rewriter, m: Match) -> Value:
        return over_last_axis(g, m.x, m.axes, lambda x: g.nn.layer_norm(x, eps=number(m.eps)))


class RmsNorm(PatternRule):
    """x / sqrt(mean(x^2) + eps) -> rms_norm (Zhang and Sennrich, 2019)."""

    @staticmethod
    def pattern(g: Any, x: Pattern, eps: Constant) -> Pattern:
        mean = g.reduce.mean(g.ew.mul(x, x), axes=g.attr("axes"), keepdims=True)
        deviation = g.ew.add(mean, eps)
        return g.any_of(g.ew.mul(x, g.ew.rsqrt(deviation)), g.ew.div(x, g.ew.sqrt(deviation)))

    def check(self, m: Match) -> None:
        check_axes(m)

    def rewrite(self, g: Rewriter, m: Match) -> Value:
        return over_last_axis(g, m.x, m.axes, lambda x: g.nn.rms_norm(x, eps=number(m.eps)))


def check_axes(m: Match) -> None:
    """Raises NoMatch unless the axes are one axis or the last ones."""
    rank = m.x.type.rank
    if len(m.axes) > 1 and m.axes != tuple(range(rank - len(m.axes), rank)):
        raise NoMatch(f"axes {list(m.axes)} of rank {rank} are neither one axis nor the last ones", m.x)


def over_last_axis(g: Rewriter, x: Value, axes: tuple[int, ...], make: Callable[[Value], Value]) -> Value:
    """make(x) where the normalised axes are one, the last: x is transposed or reshaped for it and back again."""
    rank = x.type.rank
    if len(axes) > 1:
        merged = (*x.shape[: rank - len(axes)], product(x.shape[rank - len(axes) :]))
        return g.view.reshape(make(g.view.reshape(x, shape=merged)), shape=x.shape)
    if axes[0] == rank - 1:
        return make(x)
    perm = (*(axis for axis in range(rank) if axis != axes[0]), axes[0])
    return g.view.transpose(make(g.view.transpose(x, perm=perm)), perm=inverse(perm))


def check_alone(normed: Value, node: Node) -> None:
    """Raises NoMatch where something else than `node` needs a norm's result too: it would be computed twice."""
    others = [user for user, _ in normed.users if user is not node]
    if others or len(normed.users) > 1:
        reader = others[0] if others else node
        raise NoMatch(f"the norm's result is used by {reader.op} {reader.results[0]} too", normed)


class ScaleIntoNorm(NodeRule):
    """norm(x) * gamma -> norm with gamma, where gamma has the size of the last axis."""

    ops = ("ew.mul",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        for normed, gamma in (node.args, node.args[::-1]):
            norm = produced_by(normed, "nn.layer_norm", "nn.rms_norm")
            if norm is None or len(norm.args) > 1 or gamma is None:
                continue
            if gamma.shape == norm.result.shape[-1:]:
                check_alone(norm.result, node)
                return g.op(norm.op, norm.args[0], gamma, **norm.attrs)
        return None


class ShiftIntoNorm(NodeRule):
    """layer_norm(x, gamma) + beta -> layer_norm with beta, where beta has the size of the last axis."""

    ops = ("ew.add",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        for normed, beta in (node.args, node.args[::-1]):
            norm = produced_by(normed, "nn.layer_norm")
            if norm is None or len(norm.args) > 2 or beta is None:
                continue
            if beta.shape == norm.result.shape[-1:]:
                check_alone(norm.result, node)
                gamma = norm.args[1] if len(norm.args) > 1 else None
                return g.nn.layer_norm(norm.args[0], gamma, beta, **norm.attrs)
        return None


class BatchNormAsAffine(NodeRule):
    """batch_norm with trained statistics -> x * scale + shift per channel, which go into a convolution before it."""

    ops = ("nn.batch_norm",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        x, gamma, beta, mean, variance = node.args
        assert x is not None
        scale = g.ew.mul(gamma, g.ew.rsqrt(g.ew.add(variance, node.attrs["eps"])))
        shift = g.ew.sub(beta, g.ew.mul(mean, scale))
        shape = (x.shape[1], *(1,) * (x.type.rank - 2))
        scale, shift = (g.view.reshape(value, shape=shape) for value in (scale, shift))
        return g.ew.add(g.ew.mul(x, scale), shift)
