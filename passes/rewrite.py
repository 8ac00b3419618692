"""The pass that applies one family of rules until none of them fires any more."""

from __future__ import annotations

from nomul.ir.errors import NomulError
from nomul.ir.graph import Func, Module, Node, Value
from nomul.passes.base import Miss, Pass, Report, RuleCrash
from nomul.passes.dead_code import erase_dead
from nomul.passes.rule import Rewriter, Rule, rule_classes

MOST_SWEEPS = 64


class Rewrite(Pass):
    """All rules of `passes/rules/FAMILY/`, in order, at every node; sweeps go on until one changes nothing.

    only: names of rules, joined by `+`; empty: all of the family.
    Raises ImportError for an unknown family, ValueError for an unknown rule, NomulError (NM453) where rules undo each
    other for ever."""

    def __init__(self, family: str, *, only: str = "") -> None:
        self.name = family  # type: ignore[misc]  # of the instance: each family is a pass of its own
        kinds = {kind.name: kind for kind in rule_classes(family)}
        wanted = only.split("+") if only else list(kinds)
        if unknown := [name for name in wanted if name not in kinds]:
            raise ValueError(f"'{unknown[0]}' is none of {', '.join(kinds)}")
        self.rules = [kind() for name, kind in kinds.items() if name in wanted]
        self._by_op: dict[str, list[Rule]] = {}
        for rule in self.rules:
            for op in rule.ops:
                self._by_op.setdefault(op, []).append(rule)

    def run(self, module: Module, report: Report) -> None:
        for func in list(module.funcs.values()):
            self._settle(module, func, report)

    def _settle(self, module: Module, func: Func, report: Report) -> None:
        for _ in range(MOST_SWEEPS):
            misses: list[Miss] = []
            fired = self._sweep(module, func, misses)
            for rule in fired:
                report.fire(rule)
            if not fired:
                report.miss(misses)
                return
        names = ", ".join(dict.fromkeys(fired))
        raise NomulError("NM453", f"rules of '{self.name}' do not settle in {MOST_SWEEPS} sweeps: {names}")

    def _sweep(self, module: Module, func: Func, misses: list[Miss]) -> list[str]:
        fired = []
        for node in list(func.nodes):
            if not _alive(func, node):
                continue
            rules = self._by_op.get(node.op, ())
            g = Rewriter(module, func, node)
            rule = next((rule for rule in rules if _apply(rule, g, func, node, misses)), None)
            if rule is not None:
                fired.append(rule.name)
        return fired


def _apply(rule: Rule, g: Rewriter, func: Func, node: Node, misses: list[Miss]) -> bool:
    """Whether the rule fired; what it built in vain is gone."""
    try:
        new = rule.attempt(g, node, misses)
        if new is None:
            g.discard()
            return False
        _replace(func, node, new, g)
        return True
    except Exception as error:
        raise RuleCrash(rule.name, str(node.results[0]), node.loc, error) from error


def _alive(func: Func, node: Node) -> bool:
    """Still in the function, and needed."""
    first = node.results[0]
    return func.lookup(first.name) is first and (
        any(result.users for result in node.results) or any(value.producer is node for value in func.returns)
    )


def _replace(func: Func, node: Node, new: Value, g: Rewriter) -> None:
    """Put `new` in the place of the node's result, under its name where it is new; erase what died."""
    old = node.result
    if new.type != old.type:
        raise TypeError(f"the replacement is {new.type}, not {old.type}")
    func.replace_all(old, new)
    name = old.name
    erase_dead(func, [node, *reversed(g.created)])
    if new.producer in g.created:
        func.rename(new, name)
    g.finish()
