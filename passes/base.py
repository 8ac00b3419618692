"""What a pass is, and the record that it writes: rules fired, closest failed matches, notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from nomul.ir.graph import Module

MISSES_KEPT = 8  # for each rule


@dataclass(frozen=True)
class Miss:
    """A rule that nearly fired. root, loc: the node where it was tried; culprit: the value that did not fit.

    closeness: matched share of the rule's pattern; 1.0 when only its check failed."""

    rule: str
    root: str
    loc: str | None
    reason: str
    culprit: str
    closeness: float

    def __str__(self) -> str:
        place = f" ({self.loc})" if self.loc else ""
        where = f", at {self.culprit}" if self.culprit != self.root else ""
        return f"{self.rule} at {self.root}{place}: {self.reason}{where} [{self.closeness:.0%} matched]"


@dataclass
class Report:
    """What one pass did. fired: applications by rule; misses: closest failed matches by rule, best first."""

    fired: Counter[str] = field(default_factory=Counter)
    misses: dict[str, list[Miss]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def fire(self, rule: str) -> None:
        self.fired[rule] += 1

    def note(self, text: str) -> None:
        """One line for the dump."""
        self.notes.append(text)

    def miss(self, misses: Iterable[Miss]) -> None:
        """Keep the closest failed matches of each rule."""
        for miss in misses:
            self.misses.setdefault(miss.rule, []).append(miss)
        for kept in self.misses.values():
            kept.sort(key=lambda miss: -miss.closeness)
            del kept[MISSES_KEPT:]


def note_for_user(module: Module, report: Report, text: str) -> None:
    """A line for the dump, which the facts of the artifact hold too where the module has facts of its source."""
    report.note(text)
    if module.source:
        module.source = {**module.source, "notes": [*module.source.get("notes", []), text]}


class Pass:
    """One step over a module. Subclasses stand one in a file and are found by name in `nomul.passes.catalog`.

    name: as in `nomul opt -p NAME`.  exact: results differ by rounding only, so `--check` compares them.
    bound: of the error of a pass that is not exact, relative to the norm of each output; None for no bound.
    changes_ports: @main takes and gives other values behind it, so that there is nothing to compare.
    """

    name: ClassVar[str] = ""
    exact: ClassVar[bool] = True
    changes_ports: ClassVar[bool] = False
    bound: float | None = None

    @classmethod
    def of(cls) -> Pass:
        """The pass for `nomul opt -p NAME{option=value}`; keyword parameters, all of them texts, are its options."""
        return cls()

    def run(self, module: Module, report: Report) -> None:
        """Change `module` in place; the runner has made the clone. Raise NomulError for what a user can mend."""
        raise NotImplementedError


class RuleCrash(Exception):
    """A rule failed with an unexpected error. rule, loc: which one, at which source layer."""

    def __init__(self, rule: str, root: str, loc: str | None, error: Exception) -> None:
        super().__init__(f"rule '{rule}' at {root}: {type(error).__name__}: {error}")
        self.rule = rule
        self.loc = loc
