"""What a recipe says: rules that choose an encoding, a fitter and the activations' type for layers by name and role,
and rules that choose a form for attention."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

from nomul.ir.encodings import Encoding
from nomul.ir.errors import Problem
from nomul.ir.quantise import LEVELS
from nomul.passes.exchange.base import AttentionRule

Act = Literal["f32", "i8", "i8-static"]
Role = Literal["linear", "conv", "depthwise", "head", "embedding"]
Scope = Literal["layer", "block"]
ACTS: tuple[str, ...] = get_args(Act)
SCOPES: tuple[str, ...] = get_args(Scope)
ROLES: tuple[str, ...] = get_args(Role)
TABLE = ("embedding",)  # the roles of a table that is nothing but an embedding
PLAIN = "f32"  # leaves a weight as the model has it
ANY = "*"
NEAR = 3


@dataclass(frozen=True)
class Transformation:
    """A transform of `passes/transforms/` that a rule asks for. options: those given, by name."""

    name: str
    options: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Rule:
    """match: glob over the names of weights and of layers (`loc`).  role: only layers of this role, None: of any.

    encoding: None leaves the weights as they are.  fitter: by name, None: the default one of the encoding.
    act: what activations are rounded to before they meet weights: not at all, 8 bits by row, 8 bits by one scale.
    transforms: what is done to the layer before its weights are encoded, in the order of the phases.
    levels: the largest integer of rounded activations; sums of three fit 8 bits with 42, of five with 25.
    scope: "block" where the fitter chooses codes of the layers of a block together."""

    match: str = ANY
    encoding: Encoding | None = None
    fitter: str | None = None
    act: str = PLAIN
    role: str | None = None
    transforms: tuple[Transformation, ...] = ()
    levels: int = LEVELS
    scope: str = "layer"

    @property
    def by_block(self) -> bool:
        return self.scope == "block"

    def takes(self, names: Iterable[str], roles: Sequence[str]) -> bool:
        """A table that is nothing but an embedding is only taken by a rule for embeddings, or by one for some names
        that leaves weights as they are."""
        spares = self.encoding is None and self.match != ANY
        fits = self.role in roles if self.role else spares or tuple(roles) != TABLE
        return fits and any(fnmatchcase(name, self.match) for name in names)

    def __str__(self) -> str:
        by = f" by {self.fitter}" if self.fitter else ""
        return f"{self.encoding or PLAIN}{by}"


@dataclass(frozen=True)
class Recipe:
    """Rules; the first that takes a layer decides, and a layer that none takes stays as it is.

    attention: which softmax attentions get another form.
    strict: a layer that cannot have what its rule says is an error; else it gets the nearest thing that it can have.
    max_error: of each output, relative to its norm, that `--check` allows; None: any.
    correct_means: biases of layers and norms take over mean errors of their outputs (`passes/correct_means.py`).
    embeddings: of tables that are read by index alone and that no rule takes; None leaves them as they are."""

    rules: tuple[Rule, ...] = ()
    strict: bool = False
    max_error: float | None = None
    correct_means: bool = False
    embeddings: Encoding | None = None
    attention: tuple[AttentionRule, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether it leaves every model as it is."""
        return not (self.rules or self.attention or self.embeddings or self.correct_means)

    @property
    def needs_calibration(self) -> bool:
        """Whether a rule cannot do without."""
        return self.correct_means or self.by_block or any(rule.act == "i8-static" for rule in self.rules)

    @property
    def by_block(self) -> bool:
        """Whether a rule fits the layers of blocks together."""
        return any(rule.by_block for rule in self.rules)

    def rule_of(self, names: Sequence[str], roles: Sequence[str]) -> Rule | None:
        """The first rule that takes a layer; behind all of them stands the one for tables."""
        default = Rule(encoding=self.embeddings, role="embedding") if tuple(roles) == TABLE else None
        return next((rule for rule in self.rules if rule.takes(names, roles)), default)


def idle(recipe: Recipe, layers: Iterable[tuple[Sequence[str], Sequence[str]]]) -> list[str]:
    """A line for every rule with a pattern of its own that decides for none of the layers (names, roles), and why."""
    layers = list(layers)
    decided = {recipe.rule_of(*layer) for layer in layers}
    lines = []
    for rule in recipe.rules:
        if rule.match != ANY and rule not in decided:
            above = any(rule.takes(*layer) for layer in layers)
            why = "rules above it take all that it matches" if above else "what it matches is no layer that it may take"
            lines.append(f"the rule for '{rule.match}' does nothing: {why}")
    return lines


def unmatched(rules: Iterable[Rule], names: Sequence[str]) -> list[Problem]:
    """A problem for every rule whose pattern names nothing, with the names that come nearest."""
    patterns = [rule.match for rule in rules if rule.match != ANY]
    return [problem for match in patterns if (problem := no_match(match, names, "no weight and no layer"))]


def no_match(pattern: str, names: Sequence[str], nothing: str) -> Problem | None:
    """The problem that a pattern names nothing, with the names that come nearest; None where it names something."""
    if any(fnmatchcase(name, pattern) for name in names):
        return None
    near = difflib.get_close_matches(pattern, names, NEAR, cutoff=0.4)
    hint = f"near to it: {', '.join(near)}" if near else f"names begin as in: {', '.join(names[:NEAR])}"
    none = "the model has none; nomul why MODEL tells what nearly was one"
    return Problem("NM458", f"{nothing} matches '{pattern}'", help=hint if names else none)
