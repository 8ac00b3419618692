"""Which kernels can serve a group on the best level of a library, so that measuring can choose among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nomul.backends.group import Group
from nomul.backends.select import Choice, Preference, candidates, choose, refusal
from nomul.ir.graph import Weight


def rival_names(choice: Choice) -> tuple[str, ...]:
    """Kernels that do not refuse the group on the best level, and the one that serves it; no plain loops (rank 0)."""
    group, best = choice.group, choice.levels[0]
    serving = [k.name for k in candidates(group) if k.rank > 0 and refusal(k, group, best) is None]
    return tuple(dict.fromkeys([choice.kernels[0].name, *serving]))


@dataclass(frozen=True)
class Contest:
    """A group and the kernels that may serve it. static: the choice by ranks; weights: the group's, by position.

    sizes: values of the group's dims to measure at."""

    static: Choice
    names: tuple[str, ...]
    weights: Mapping[int, Weight]
    sizes: tuple[dict[str, int], ...]

    @staticmethod
    def of(choice: Choice, weights: Mapping[int, Weight], sizes: Sequence[Mapping[str, int]]) -> Contest:
        named = [tuple((name, at[name]) for name in choice.group.dims) for at in sizes]
        return Contest(choice, rival_names(choice), weights, tuple(dict(at) for at in dict.fromkeys(named)))

    @property
    def group(self) -> Group:
        return self.static.group

    def choices(self) -> dict[str, Choice]:
        """What would be chosen if a kernel stood first; not those with which no other level agrees."""
        found = {self.static.kernels[0].name: self.static}
        for name in self.names:
            choice = choose(self.group, self.static.levels, Preference((name,)))
            if choice.kernels[0].name == name:
                found.setdefault(name, choice)
        return found
