"""Puts images into the order [N, H, W, C], in which convolutions read and write whole vectors of channels."""

from __future__ import annotations

from nomul.ir.builder import Builder
from nomul.ir.graph import Func, Module, Node
from nomul.passes.base import Pass, Report

IMAGE_OPS = ("nn.conv2d", "nn.conv_transpose2d", "nn.max_pool2d", "nn.avg_pool2d", "nn.resize2d")
TO_LAST = (0, 2, 3, 1)
TO_FIRST = (0, 3, 1, 2)


class ChannelsLast(Pass):
    """Every convolution, pooling and resize in nchw becomes transpose, the op in nhwc, transpose back; the rules of
    family "layout" cancel the transposes between them."""

    name = "channels_last"

    def run(self, module: Module, report: Report) -> None:
        for func in module.funcs.values():
            for node in list(func.nodes):
                if node.op in IMAGE_OPS and node.attrs["layout"] == "nchw":
                    _turn(func, node)
                    report.fire(node.op)


def _turn(func: Func, node: Node) -> None:
    build = Builder(func, before=node, loc=node.loc)
    x, *rest = node.args
    image = build.view.transpose(x, perm=TO_LAST)
    made = build.op(node.op, image, *rest, **(node.attrs | {"layout": "nhwc"}))
    back = build.view.transpose(made, perm=TO_FIRST)
    name = node.result.name
    func.replace_all(node.result, back)
    func.erase(node)
    func.rename(made, name)
