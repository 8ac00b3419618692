"""Calls between functions of a module: making them, and moving a set of nodes into a private function."""

from __future__ import annotations

from collections.abc import Sequence

from nomul.ir.graph import Constant, Func, Module, Node, Value, Weight
from nomul.ir.op import get_op


def insert_call(
    func: Func,
    callee: Func,
    args: Sequence[Value | None],
    before: Node | None = None,
    loc: str | None = None,
    names: Sequence[str] = (),
) -> Node:
    """Insert `call @callee args`; result types are the callee's. Symbolic sizes mean the same in every function."""
    types = [value.type for value in callee.returns]
    labels = list(names) or [value.name for value in callee.returns]
    spec = get_op("call")
    return func.insert(Node(spec, tuple(args), spec.complete({"func": callee.name}), types, labels, loc), before)


def outline(module: Module, func: Func, nodes: Sequence[Node], hint: str) -> Node:
    """Move `nodes` of `func` into a new private function and call it where the last of them stood.

    Weights and values from outside become parameters in order of first use; literals stay inside. Results are the
    values that are used outside. The caller has made sure that no node in between depends on a result and is needed by
    another."""
    inside = set(nodes)
    ordered = [node for node in func.nodes if node in inside]
    outside = _outside_operands(ordered, inside)
    results = [value for node in ordered for value in node.results if _escapes(func, value, inside)]
    labels = _unique([value.name for value in outside])
    mapping: dict[Value, Value] = {v: Value(label, v.type) for v, label in zip(outside, labels, strict=True)}
    private = module.add_func(Func(module.fresh_func(hint), mapping.values()))
    for node in ordered:
        args = tuple(_inside(arg, mapping) for arg in node.args)
        twin = private.insert(
            Node(
                node.spec,
                args,
                dict(node.attrs),
                [r.type for r in node.results],
                [r.name for r in node.results],
                node.loc,
            )
        )
        mapping.update(zip(node.results, twin.results, strict=True))
    private.returns = [mapping[value] for value in results]
    after = func.nodes[func.nodes.index(ordered[-1]) + 1 :]
    call = insert_call(
        func, private, outside, after[0] if after else None, ordered[-1].loc, [f"{v.name}" for v in results]
    )
    for old, new in zip(results, call.results, strict=True):
        func.replace_all(old, new)
    for node in reversed(ordered):
        func.erase(node)
    for old, new in zip(results, call.results, strict=True):
        func.rename(new, old.name)
    return call


def _unique(names: Sequence[str]) -> list[str]:
    """The names with a number behind each repetition (a weight and a value may share a name)."""
    seen: dict[str, int] = {}
    labels = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        labels.append(name if seen[name] == 1 else f"{name}.p{seen[name]}")
    return labels


def _outside_operands(ordered: Sequence[Node], inside: set[Node]) -> list[Value]:
    found: dict[Value, None] = {}
    for node in ordered:
        for arg in node.args:
            if (
                arg is not None
                and not isinstance(arg, Constant)
                and (isinstance(arg, Weight) or arg.producer not in inside)
            ):
                found[arg] = None
    return list(found)


def _escapes(func: Func, value: Value, inside: set[Node]) -> bool:
    return any(user not in inside for user, _ in value.users) or any(value is returned for returned in func.returns)


def _inside(arg: Value | None, mapping: dict[Value, Value]) -> Value | None:
    if isinstance(arg, Constant):
        return Constant(arg.value, arg.dtype)
    return None if arg is None else mapping[arg]


def inline_call(module: Module, func: Func, call: Node) -> None:
    """Replace a call by the nodes of its function; the results keep the names that they have in `func`."""
    callee = module.funcs[call.attrs["func"]]
    mapping: dict[Value, Value | None] = dict(zip(callee.params, call.args, strict=True))
    inlined: set[Value] = set()
    for node in callee.nodes:
        args = tuple(_substituted(arg, mapping) for arg in node.args)
        types, names = [r.type for r in node.results], [r.name for r in node.results]
        twin = func.insert(Node(node.spec, args, dict(node.attrs), types, names, node.loc or call.loc), call)
        mapping.update(zip(node.results, twin.results, strict=True))
        inlined.update(twin.results)
    names = [result.name for result in call.results]
    for result, value in zip(call.results, callee.returns, strict=True):
        new = _substituted(value, mapping)
        assert new is not None
        func.replace_all(result, new)
    func.erase(call)
    for name, value in zip(names, callee.returns, strict=True):
        twin_value = mapping.get(value)
        if twin_value in inlined and func.lookup(name) is None:
            func.rename(twin_value, name)


def _substituted(arg: Value | None, mapping: dict[Value, Value | None]) -> Value | None:
    """A value of the callee as its caller sees it; weights are the module's."""
    if arg is None:
        return None
    return Constant(arg.value, arg.dtype) if isinstance(arg, Constant) else mapping.get(arg, arg)
