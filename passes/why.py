"""Why rules do not apply to a module as it stands: each is tried at each node, and nothing is changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from nomul.ir.graph import Func, Module, Node
from nomul.passes.base import Miss
from nomul.passes.rule import PatternRule, Rewriter, Rule


@dataclass
class Answer:
    """misses: why not, closest first.  fires: (rule, value) where a rule would apply."""

    misses: list[Miss] = field(default_factory=list)
    fires: list[tuple[str, str]] = field(default_factory=list)


def why_not(module: Module, rules: Iterable[Rule], at: str | None = None) -> Answer:
    """What the rules say of every node. at: name of a value; then of its node only, however far a rule is from it."""
    answer = Answer()
    for rule in rules:
        if at is not None and isinstance(rule, PatternRule):
            rule.least = 0
        for name in module.funcs:
            _try_at_nodes(module, name, rule, at, answer)
    answer.misses.sort(key=lambda miss: -miss.closeness)
    return answer


def _try_at_nodes(module: Module, name: str, rule: Rule, at: str | None, answer: Answer) -> None:
    copy = module.clone()
    func = copy.funcs[name]
    for node in list(func.nodes):
        if at is not None and all(result.name != at for result in node.results):
            continue
        if node.op in rule.ops:
            _try(copy, func, node, rule, answer)
        elif at is not None:
            root = str(node.results[0])
            reason = f"looks at {' or '.join(rule.ops)}, not at {node.op}"
            answer.misses.append(Miss(rule.name, root, node.loc, reason, root, 0.0))


def _try(module: Module, func: Func, node: Node, rule: Rule, answer: Answer) -> None:
    """A rule that applies has built its replacement in front of the node; nobody uses that, and it is dropped."""
    g = Rewriter(module, func, node)
    if rule.attempt(g, node, answer.misses) is not None:
        answer.fires.append((rule.name, str(node.results[0])))
    g.discard()
