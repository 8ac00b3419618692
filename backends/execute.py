"""Turns a grouped module into level "exec": each call becomes a kernel run, each reshape a view of the same bytes."""

from __future__ import annotations

from nomul.backends.select import Selection
from nomul.ir.graph import Constant, Func, Module, Node, Value, Weight
from nomul.ir.op import get_op
from nomul.ir.structure import outline


def own_outputs(module: Module) -> None:
    """Give each return of @main a run result of its own: inputs, weights, literals and repeated values are copied."""
    func, taken = module.main, set[Value]()
    for position, value in enumerate(list(func.returns)):
        root = view_root(value)
        if isinstance(root, Weight | Constant) or root.producer is None or root in taken:
            value = _copy(module, func, value)
            func.returns[position] = value
            root = value
        taken.add(root)


def _copy(module: Module, func: Func, value: Value) -> Value:
    """A group of its own that only copies."""
    spec = get_op("view.reshape")
    attrs = spec.complete({"shape": value.shape})
    name = value.name or "constant"
    node = func.insert(Node(spec, (value,), attrs, [value.type.with_shape(value.shape)], [name], None))
    func.returns.append(node.result)
    call = outline(module, func, [node], "copy")
    func.returns.pop()
    return call.result


def view_root(value: Value) -> Value:
    """The value whose bytes a chain of reshapes shows."""
    while value.producer is not None and value.producer.op in ("view.reshape", "exec.view"):
        operand = value.producer.args[0]
        assert operand is not None
        value = operand
    return value


def to_exec(module: Module, selection: Selection) -> Module:
    """A copy at level "exec", with kernels named and slots still unset. Every node of @main is a call or a reshape."""
    module = module.clone()
    func = module.main
    for node in list(func.nodes):
        if node.op == "call":
            choice = selection.choices[node.attrs["func"]]
            attrs = {"func": node.attrs["func"], "kernel": choice.label, "inplace": choice.built[0].inplace}
            _exchange(func, node, "exec.run", attrs)
        elif node.op == "view.reshape":
            _exchange(func, node, "exec.view", {})
        else:
            raise AssertionError(f"{node!r} is in no group")
    module.level, module.after = "exec", ""
    return module


def to_calls(module: Module) -> Module:
    """The reverse of `to_exec`: a copy whose kernels and slots are to be chosen anew."""
    module = module.clone()
    for node in list(module.main.nodes):
        if node.op == "exec.run":
            _exchange(module.main, node, "call", {"func": node.attrs["func"]})
        else:
            _exchange(module.main, node, "view.reshape", {"shape": node.result.shape})
    module.level = "tensor"
    return module


def _exchange(func: Func, node: Node, op: str, attrs: dict[str, object]) -> None:
    spec = get_op(op)
    names = [result.name for result in node.results]
    twin = Node(spec, node.args, spec.complete(dict(attrs)), [r.type for r in node.results], names, node.loc)
    func.insert(twin, node)
    for old, new in zip(node.results, twin.results, strict=True):
        func.replace_all(old, new)
    func.erase(node)
    for name, new in zip(names, twin.results, strict=True):
        func.rename(new, name)
