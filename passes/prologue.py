"""Which nodes before a group's nodes run inside its kernel: views that only change how an operand is read, and trees of
element-wise nodes. A view with several users is copied into each of them."""

from __future__ import annotations

from collections.abc import Iterable

from nomul.ir.dim import product
from nomul.ir.graph import Func, Node, Value
from nomul.ir.shapes import reshaped_strides
from nomul.ir.views import chain_view, view_chain
from nomul.passes.graph_tools import is_elementwise, is_view

_CHEAP_FAMILIES = ("arithmetic", "logic")
_COSTLY_ARITHMETIC = {"ew.div", "ew.floor_div", "ew.mod", "ew.fmod", "ew.pow", "ew.sqrt", "ew.rsqrt", "ew.reciprocal"}


def is_costly(node: Node) -> bool:
    """Whether computing an element takes so long that it should be computed once."""
    family = node.spec.function.__module__.rsplit(".", 1)[-1]
    return family not in _CHEAP_FAMILIES or node.op in _COSTLY_ARITHMETIC


_NEIGHBOURS = {  # operands whose elements along the last axis a kernel wants one behind the other
    "nn.attention": (1,),
    "nn.attention_parts": (1, 2),
    "nn.linear_attention": (0, 1, 2, 3),
    "nn.hamming_attention": (0, 1, 2),
}


def absorb_views(func: Func, node: Node, position: int, group: set[Node], taken: set[Node]) -> None:
    """Take the affine views above one operand into the group; reshapes of a whole tensor stay outside."""
    operand = node.args[position]
    assert operand is not None
    chain = inner_views(operand)
    while chain and not affine(node, position, chain):
        chain = inner_views_of(chain[:-1])
    _take_chain(func, node, position, chain, group, taken)


def affine(node: Node, position: int, chain: list[Node]) -> bool:
    """Whether strides describe the chain. Attention also needs neighbours, a linear layer the elements of a row one
    behind the other, and its rows evenly apart."""
    view = chain_view(chain)
    if view is None:
        return False
    strides = view.strides
    if node.op == "nn.linear":
        shape = chain[0].result.shape
        rows = (product(shape[:-1]), shape[-1])
        return strides[-1] == 1 and reshaped_strides(shape, strides, rows) is not None
    return position not in _NEIGHBOURS.get(node.op, ()) or strides[-1] == 1


def inner_views(value: Value) -> list[Node]:
    """The views above a value, nearest first, without the reshapes next to the source: those are free outside."""
    return inner_views_of(view_chain(value))


def inner_views_of(chain: list[Node]) -> list[Node]:
    while chain and chain[-1].op == "view.reshape":
        chain = chain[:-1]
    return chain


def _readable(chain: list[Node]) -> list[Node]:
    """The part of a chain that a kernel can follow: no slice of an axis that a reshape merged from scattered ones."""
    while chain and any(view.op == "view.slice" for view in chain) and chain_view(chain) is None:
        chain = inner_views_of(chain[:-1])
    return chain


def _take_chain(func: Func, node: Node, position: int, chain: list[Node], group: set[Node], taken: set[Node]) -> None:
    for view in chain:
        view = own_copy(func, view, node, position)
        group.add(view)
        taken.add(view)
        node, position = view, 0


def own_copy(func: Func, view: Node, user: Node, position: int) -> Node:
    """The view itself where `user` alone needs it, else a copy of it for this operand."""
    result = view.result
    if len(result.users) == 1 and not any(result is value for value in func.returns):
        return view
    twin = Node(view.spec, view.args, dict(view.attrs), [result.type], [result.name], view.loc)
    func.insert(twin, user)
    args = list(user.args)
    args[position] = twin.result
    func.set_args(user, tuple(args))
    return twin


def absorb_tree(
    func: Func,
    root: Node,
    group: set[Node],
    taken: set[Node],
    positions: Iterable[int] | None = None,
    repeated: bool = False,
    views: bool = True,
) -> None:
    """Take element-wise nodes and views above `root` (above the given operands only) that nothing else needs.

    repeated: `root` reads its operands' elements more than once, so that only cheap nodes are taken.  views: take them
    too (kernels with an epilogue compute in it, but read no views)."""
    todo = [(root, position, repeated) for position in (positions if positions is not None else range(len(root.args)))]
    while todo:
        user, position, repeated = todo.pop()
        operand = user.args[position]
        producer = operand.producer if operand is not None else None
        if operand is None or producer is None or producer in taken:
            continue
        repeated = repeated or _repeats(user, operand)
        if is_view(producer):
            chain = _readable(inner_views(operand)) if views else []
            repeated = repeated or any(view.op == "view.expand" for view in chain)
            _take_chain(func, user, position, chain, group, taken)
            top = _above(user, position, len(chain))
            above = top.args[0].producer if chain and top.args[0] is not None else None
            todo += [(top, 0, repeated)] if is_elementwise(above) else []
        elif is_elementwise(producer) and _belongs(func, producer, group, repeated):
            group.add(producer)
            taken.add(producer)
            todo += [(producer, index, repeated) for index in range(len(producer.args))]


def _repeats(user: Node, operand: Value) -> bool:
    """Whether `user` reads elements of its operand more than once, by broadcasting it."""
    return is_elementwise(user) and operand.shape != user.result.shape


def _above(user: Node, position: int, depth: int) -> Node:
    """The node `depth` operands above `user`, starting at `position`."""
    for _ in range(depth):
        operand = user.args[position]
        assert operand is not None and operand.producer is not None
        user, position = operand.producer, 0
    return user


def _belongs(func: Func, producer: Node, group: set[Node], repeated: bool) -> bool:
    """All users are in the group already, and it is not a costly computation whose elements are read repeatedly."""
    value = producer.result
    if any(value is returned for returned in func.returns) or any(node not in group for node, _ in value.users):
        return False
    return not repeated or not is_costly(producer)
