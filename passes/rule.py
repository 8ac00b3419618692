"""Rewrite rules: a pattern, a check that fails with a reason, and a rewrite; or, for simple ones, a function of a node.

A rule is a class in `passes/rules/FAMILY/`; the pass of that family finds it by itself.
"""

from __future__ import annotations

import inspect
import re
from functools import cache
from typing import Any, ClassVar

from nomul.ir.builder import Builder
from nomul.ir.graph import Func, Module, Node, Value, Weight
from nomul.ir.registry import modules_of
from nomul.passes.base import Miss
from nomul.passes.folding import as_known, fold, take_name, weight_name
from nomul.passes.matcher import Compiled, Match, Matcher, Pattern, compile_pattern


class NoMatch(Exception):
    """A rule does not apply. culprit: the value or node that does not fit (None: the root)."""

    def __init__(self, reason: str, culprit: Value | Node | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.culprit = culprit


class Rewriter(Builder):
    """Builds in front of the node that a rule replaces; what depends on weights and literals only is computed."""

    def __init__(self, module: Module, func: Func, root: Node) -> None:
        super().__init__(func, before=root, loc=root.loc)
        self.module = module
        self.created: list[Node] = []
        self._weights: dict[Weight, str] = {}

    def node(self, op: str, *args: Any, name: str = "", **attrs: Any) -> Node:
        node = super().node(op, *args, name=name, **attrs)
        self.created.append(node)
        return node

    def op(self, op: str, *args: Any, name: str = "", **attrs: Any) -> Value:
        """Like Builder.op; the result is a weight or a literal where all operands are."""
        node = self.node(op, *args, name=name, **attrs)
        wanted = name or weight_name(node)
        known = fold(self.module, self.func, node, wanted)
        if known is None:
            return node.result
        self.created.remove(node)
        return self._kept(known, wanted)

    def weight(self, name: str, array: Any) -> Value:
        """A new weight (a literal for a number without axes)."""
        return self._kept(as_known(self.module, array, name), name)

    def _kept(self, known: Value, wanted: str) -> Value:
        if isinstance(known, Weight):
            self._weights[known] = wanted
        return known

    def finish(self) -> None:
        """The rewrite is done: new weights take the names of those that they replaced, unused ones go."""
        self._drop_weights()
        for weight, wanted in self._weights.items():
            if self._is_registered(weight):
                take_name(self.module, weight, wanted)
        self._weights.clear()

    def discard(self) -> None:
        """Erase the nodes made so far that nobody uses: the rewrite was given up."""
        for node in reversed(self.created):
            if not any(result.users for result in node.results):
                self.func.erase(node)
        self.created.clear()
        self._drop_weights()
        self._weights.clear()

    def _drop_weights(self) -> None:
        for weight in self._weights:
            returned = any(weight is value for value in self.func.returns)
            if self._is_registered(weight) and not weight.users and not returned:
                self.module.remove_weight(weight)

    def _is_registered(self, weight: Weight) -> bool:
        return self.module.weights.get(weight.name) is weight


class Rule:
    """ops: the ops that may stand at the root.  name: in reports; the class name in snake case by default."""

    name: ClassVar[str] = ""
    ops: tuple[str, ...] = ()

    def __init_subclass__(cls) -> None:
        if not cls.__dict__.get("name"):
            cls.name = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def attempt(self, g: Rewriter, node: Node, misses: list[Miss]) -> Value | None:
        """The value that replaces the node's only result, built with `g`; None where the rule does not apply."""
        raise NotImplementedError

    def _miss(self, node: Node, reason: str, culprit: Value | Node | None, closeness: float) -> Miss:
        root = str(node.results[0])
        guilty = culprit.results[0] if isinstance(culprit, Node) else culprit
        return Miss(self.name, root, node.loc, reason, root if guilty is None else str(guilty), closeness)


class NodeRule(Rule):
    """A rule without a pattern: `apply` looks at the node itself."""

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        """The replacement, or None where the rule has nothing to say. Raise NoMatch for a near miss worth reporting."""
        raise NotImplementedError

    def attempt(self, g: Rewriter, node: Node, misses: list[Miss]) -> Value | None:
        try:
            return self.apply(g, node)
        except NoMatch as miss:
            misses.append(self._miss(node, miss.reason, miss.culprit, 0.9))
            return None


class PatternRule(Rule):
    """A rule of three methods: `pattern(g, x, ...)`, `check(m)`, `rewrite(g, m)`.

    least: so many nodes of the pattern must fit before a failure to match is worth telling."""

    @staticmethod
    def pattern(g: Any, *variables: Any) -> Pattern:
        """The graph to look for, written with the pattern builder `g`."""
        raise NotImplementedError

    def check(self, m: Match) -> None:
        """Raise NoMatch with a reason where the match must not be rewritten."""

    def rewrite(self, g: Rewriter, m: Match) -> Value:
        """The replacement of the root's result, of the same type."""
        raise NotImplementedError

    def __init__(self) -> None:
        self._compiled: Compiled = compile_pattern(self.pattern)
        self.ops = self._compiled.root_ops
        self.least = max(2, self._compiled.size // 4)

    def attempt(self, g: Rewriter, node: Node, misses: list[Miss]) -> Value | None:
        matcher = Matcher(self._compiled)
        refused: Miss | None = None
        for match in matcher.matches(node):
            try:
                self.check(match)
                return self.rewrite(g, match)
            except NoMatch as miss:
                g.discard()
                refused = refused or self._miss(node, miss.reason, miss.culprit, 1.0)
        if refused is None and matcher.failure.matched >= self.least:
            closeness = matcher.failure.matched / self._compiled.size
            failure = matcher.failure
            root = str(node.results[0])
            refused = Miss(self.name, root, node.loc, failure.reason, failure.culprit, min(closeness, 0.99))
        if refused is not None:
            misses.append(refused)
        return None


@cache
def rule_classes(family: str) -> tuple[type[Rule], ...]:
    """All rules of `passes/rules/FAMILY/`, in order of file name and definition. Raises ImportError: no such family."""
    found: list[type[Rule]] = []
    for module in modules_of(f"nomul.passes.rules.{family}"):
        found += [kind for kind in vars(module).values() if _is_rule(kind, module.__name__)]
    return tuple(found)


def _is_rule(kind: Any, module: str) -> bool:
    own = inspect.isclass(kind) and issubclass(kind, Rule) and kind.__module__ == module
    return own and not kind.__name__.startswith("_")


def rule_families() -> list[str]:
    """Names of the folders of rules."""
    return [module.__name__.rpartition(".")[2] for module in modules_of("nomul.passes.rules")]


def all_rules() -> dict[str, type[Rule]]:
    """Every rule of every family, by name."""
    return {kind.name: kind for family in rule_families() for kind in rule_classes(family)}
