"""Chooses a kernel for each fused group on each instruction-set level, and keeps why others were not taken."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

from nomul.backends.cost import estimate, score
from nomul.backends.group import Group
from nomul.backends.registry import Built, Kernel, all_kernels
from nomul.backends.shared_weights import share_weights
from nomul.backends.target import Target
from nomul.ir.errors import NomulError, Problem
from nomul.ir.graph import Module, Node, Weight


@dataclass(frozen=True)
class Preference:
    """What measuring tells of a group's kernels on the best level (`backends/tune/`).

    order: names, best first; they stand before all others.  reasons: (kernel, why it is behind the first)."""

    order: tuple[str, ...] = ()
    reasons: tuple[tuple[str, str], ...] = ()

    def place(self, kernel: Kernel) -> int:
        return self.order.index(kernel.name) if kernel.name in self.order else len(self.order)


_NONE = Preference()


@dataclass(frozen=True)
class Choice:
    """The kernel of one group on each level (best level first), and (kernel, reason) of those refused before it.

    code: for each level the one whose code it runs: itself, or a lower one for which the same kernel is the same."""

    group: Group
    levels: tuple[Target, ...]
    kernels: tuple[Kernel, ...]
    built: tuple[Built, ...]
    code: tuple[Target, ...]
    rejected: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """The kernel's name; several, best level first, where levels differ."""
        return "|".join(dict.fromkeys(kernel.name for kernel in self.kernels))

    @property
    def code_levels(self) -> tuple[str, ...]:
        """The levels that have code of their own."""
        return tuple(dict.fromkeys(target.level for target in self.code))

    @property
    def is_generic(self) -> bool:
        return any(kernel.op == "*" for kernel in self.kernels)


@dataclass
class Selection:
    """Choices by name of the private function; equal groups share one choice."""

    levels: tuple[Target, ...]
    choices: dict[str, Choice] = field(default_factory=dict)

    @property
    def unique(self) -> list[Choice]:
        return list({id(choice): choice for choice in self.choices.values()}.values())


def select(module: Module, levels: Sequence[Target], preferences: Mapping[str, Preference] | None = None) -> Selection:
    """Kernels for all `call` and `exec.run` nodes of @main. preferences: by the key of the group.

    Raises NomulError (NM401) for groups without a kernel."""
    selection = Selection(tuple(levels))
    by_key: dict[str, Choice] = {}
    problems: list[Problem] = []
    for node in module.main.nodes:
        if node.op not in ("call", "exec.run"):
            continue
        group = group_of(module, node)
        if group.key not in by_key:
            try:
                preference = (preferences or {}).get(group.key, _NONE)
                by_key[group.key] = choose(group, selection.levels, preference)
            except NomulError as error:
                problems += [Problem(p.code, p.message, node.loc, p.help) for p in error.problems]
                continue
        selection.choices[group.func.name] = by_key[group.key]
    if problems:
        raise NomulError.many(problems)
    share_weights(module, selection.choices, partial(choose_packed, levels=selection.levels))
    return selection


def group_of(module: Module, node: Node) -> Group:
    """The group that a call node runs."""
    weights = frozenset(i for i, arg in enumerate(node.args) if isinstance(arg, Weight))
    return Group(module.funcs[node.attrs["func"]], weights, module.dims)


def choose(group: Group, levels: Sequence[Target], preference: Preference = _NONE) -> Choice:
    """The best kernel for each level; all levels must agree on tiles, layouts and in-place operands."""
    search = _Search(group, tuple(levels), preference)
    taken: list[Kernel] = []
    for target in levels:
        kernel = search.best(target, search.build(taken[0], levels[0]) if taken else None)
        if kernel is None:  # start again with what every level can run
            return search.same_everywhere()
        taken.append(kernel)
    return search.choice(taken)


def choose_packed(
    group: Group, position: int, layouts: Collection[str | None], levels: tuple[Target, ...]
) -> Choice | None:
    """The best kernel for all levels that reads a weight in one of these layouts, or None."""
    search = _Search(group, levels, _NONE)
    for kernel in candidates(group):
        serves = all(refusal(kernel, group, target) is None for target in levels)
        if serves and search.build(kernel, levels[0]).layouts.get(position) in layouts:
            return search.choice([kernel] * len(levels))
    return None


def code_level(kernel: Kernel, target: Target, levels: Sequence[Target]) -> Target:
    """Of `levels`, the one whose code of this kernel `target` runs: the lowest on the same base that has all the
    features which the kernel looks at and `target` has."""
    wanted = target.features & (kernel.needs | kernel.uses)
    same = [level for level in levels if level.base == target.base and wanted <= level.features <= target.features]
    return min(same, key=lambda level: len(level.features)) if target.base else target


@dataclass
class _Search:
    """The kernels of one group as they are tried. rejected: (kernel, reason) -> the levels that refused it."""

    group: Group
    levels: tuple[Target, ...]
    preference: Preference
    rejected: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    _built: dict[tuple[str, str], Built] = field(default_factory=dict)

    def build(self, kernel: Kernel, target: Target) -> Built:
        """Once for all levels that run the same code."""
        code = code_level(kernel, target, self.levels)
        key = kernel.name, code.level
        if key not in self._built:
            self._built[key] = kernel.build(self.group, code)
        return self._built[key]

    def best(self, target: Target, first: Built | None) -> Kernel | None:
        """The first that serves the level. first: what its tiles, layouts and operands must agree with."""
        for kernel in self._ordered:
            reason = refusal(kernel, self.group, target)
            if reason is None:
                if first is None or _compatible(first, self.build(kernel, target)):
                    return kernel
                reason = "differs in tiles or weight layout from the kernel of the best level"
            self.rejected.setdefault((kernel.name, reason), []).append(target.level)
        return None

    def same_everywhere(self) -> Choice:
        for kernel in self._ordered:
            if all(refusal(kernel, self.group, target) is None for target in self.levels):
                return self.choice([kernel] * len(self.levels))
        reasons = "; ".join(f"{name}: {reason}" for name, reason in self.reasons()) or "no kernel serves this op"
        names = ", ".join(target.name for target in self.levels)
        raise NomulError("NM401", f"no kernel for @{self.group.func.name} on {names}: {reasons}")

    def choice(self, kernels: Sequence[Kernel]) -> Choice:
        each = list(zip(kernels, self.levels, strict=True))
        built = tuple(self.build(kernel, target) for kernel, target in each)
        code = tuple(code_level(kernel, target, self.levels) for kernel, target in each)
        measured = [(name, f"{self.levels[0].level}: {reason}") for name, reason in self.preference.reasons]
        slower = measured or self._slower(kernels[0])
        return Choice(self.group, self.levels, tuple(kernels), built, code, (*self.reasons(), *slower))

    @cached_property
    def _ordered(self) -> list[Kernel]:
        """The best first: as measured, else by rank, else by what they are estimated to take."""

        def place(kernel: Kernel) -> tuple[int, int, float]:
            times = self._estimates.get(kernel.name)
            return self.preference.place(kernel), -kernel.rank, score(times) if times else 0.0

        return sorted(candidates(self.group), key=place)

    @cached_property
    def _estimates(self) -> dict[str, dict[int, float]]:
        """Cycles of kernels that say so, by name and number of rows."""
        found = {}
        for kernel in candidates(self.group):
            if kernel.cost is not None:
                served = [level for level in self.levels if refusal(kernel, self.group, level) is None]
                found[kernel.name] = estimate(kernel, self.group, served)
        return found

    def _slower(self, taken: Kernel) -> list[tuple[str, str]]:
        """(kernel, reason) of those which only the estimate puts behind the one taken."""
        best, found = self._estimates.get(taken.name), []
        for kernel in candidates(self.group):
            times = self._estimates.get(kernel.name)
            if best and times and kernel.rank == taken.rank and score(times) > score(best):
                each = ", ".join(f"{times[rows] / best[rows]:.2f} times for {rows}" for rows in times)
                found.append((kernel.name, f"estimated to take longer than {taken.name}: {each} rows"))
        return found

    def reasons(self) -> tuple[tuple[str, str], ...]:
        """(kernel, levels and reason) of those that were refused."""
        return tuple((name, f"{', '.join(where)}: {reason}") for (name, reason), where in self.rejected.items())


def candidates(group: Group) -> list[Kernel]:
    """Kernels for the group's op and encoding, the highest rank first; each may still refuse the group."""
    op = group.anchor.op if group.anchor else ""
    encoding = _anchor_encoding(group)
    fitting = [k for k in all_kernels().values() if k.op == "*" or (k.op == op and k.encoding == encoding)]
    return sorted(fitting, key=lambda kernel: (-kernel.rank, kernel.name))


def _anchor_encoding(group: Group) -> str | None:
    if group.anchor is None:
        return None
    encodings = [arg.type.encoding for arg in group.anchor.args if arg is not None and arg.type.encoding is not None]
    return encodings[0].name if encodings else None


def refusal(kernel: Kernel, group: Group, target: Target) -> str | None:
    """Why this kernel does not serve the group on one level, or None."""
    if target.vector_bytes == 0 and kernel.rank > 0:
        return "portable C has no vectors"
    missing = kernel.needs - target.features
    if missing:
        return f"needs {', '.join(sorted(missing))}"
    if any(node.attrs.get("act", "f32") != "f32" for node in group.func.nodes if node.op != "nn.quantise"):
        return "the input is quantised inside of the layer (pass quantise_inputs takes that out)"
    return kernel.accepts(group)


def _compatible(first: Built, other: Built) -> bool:
    return (first.tiles, first.layouts, first.inplace) == (other.tiles, other.layouts, other.inplace)
