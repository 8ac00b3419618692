"""Chooses a kernel for each fused group on each instruction-set level, and keeps why others were not taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nomul.backends.group import Group
from nomul.backends.registry import Built, Kernel, all_kernels
from nomul.backends.target import Target
from nomul.ir.errors import NomulError, Problem
from nomul.ir.graph import Module, Node, Weight


@dataclass(frozen=True)
class Choice:
    """The kernel of one group on each level (best level first), and (kernel, reason) of those refused before it."""

    group: Group
    levels: tuple[Target, ...]
    kernels: tuple[Kernel, ...]
    built: tuple[Built, ...]
    rejected: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """The kernel's name; several, best level first, where levels differ."""
        return "|".join(dict.fromkeys(kernel.name for kernel in self.kernels))

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


def select(module: Module, levels: Sequence[Target]) -> Selection:
    """Kernels for all `call` and `exec.run` nodes of @main. Raises NomulError (NM401) for groups without one."""
    selection = Selection(tuple(levels))
    by_key: dict[str, Choice] = {}
    problems: list[Problem] = []
    for node in module.main.nodes:
        if node.op not in ("call", "exec.run"):
            continue
        group = group_of(module, node)
        if group.key not in by_key:
            try:
                by_key[group.key] = choose(group, selection.levels)
            except NomulError as error:
                problems += [Problem(p.code, p.message, node.loc, p.help) for p in error.problems]
                continue
        selection.choices[group.func.name] = by_key[group.key]
    if problems:
        raise NomulError.many(problems)
    return selection


def group_of(module: Module, node: Node) -> Group:
    """The group that a call node runs."""
    weights = frozenset(i for i, arg in enumerate(node.args) if isinstance(arg, Weight))
    return Group(module.funcs[node.attrs["func"]], weights, module.dims)


def choose(group: Group, levels: Sequence[Target]) -> Choice:
    """The best kernel for each level; all levels must agree on tiles, layouts and in-place operands."""
    rejected: list[tuple[str, str]] = []
    kernels: list[Kernel] = []
    built: list[Built] = []
    for target in levels:
        found = _best(group, target, built[0] if built else None, rejected)
        if found is None:  # start again with what every level can run
            return _same_everywhere(group, levels, rejected)
        kernels.append(found[0])
        built.append(found[1])
    return Choice(group, tuple(levels), tuple(kernels), tuple(built), tuple(dict.fromkeys(rejected)))


def _same_everywhere(group: Group, levels: Sequence[Target], rejected: list[tuple[str, str]]) -> Choice:
    for kernel in _candidates(group):
        if all(_refusal(kernel, group, target) is None for target in levels):
            built = tuple(kernel.build(group, target) for target in levels)
            return Choice(group, tuple(levels), (kernel,) * len(levels), built, tuple(dict.fromkeys(rejected)))
    reasons = "; ".join(f"{name}: {reason}" for name, reason in dict.fromkeys(rejected)) or "no kernel serves this op"
    raise NomulError("NM401", f"no kernel for @{group.func.name} on {', '.join(t.name for t in levels)}: {reasons}")


def _best(
    group: Group, target: Target, first: Built | None, rejected: list[tuple[str, str]]
) -> tuple[Kernel, Built] | None:
    for kernel in _candidates(group):
        reason = _refusal(kernel, group, target)
        if reason is None:
            built = kernel.build(group, target)
            if first is None or _compatible(first, built):
                return kernel, built
            reason = "differs in tiles or weight layout from the kernel of the best level"
        rejected.append((kernel.name, f"{target.level}: {reason}"))
    return None


def _candidates(group: Group) -> list[Kernel]:
    op = group.anchor.op if group.anchor else ""
    encoding = _anchor_encoding(group)
    fitting = [k for k in all_kernels().values() if k.op == "*" or (k.op == op and k.encoding == encoding)]
    return sorted(fitting, key=lambda kernel: (-kernel.rank, kernel.name))


def _anchor_encoding(group: Group) -> str | None:
    if group.anchor is None:
        return None
    encodings = [arg.type.encoding for arg in group.anchor.args if arg is not None and arg.type.encoding is not None]
    return encodings[0].name if encodings else None


def _refusal(kernel: Kernel, group: Group, target: Target) -> str | None:
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
