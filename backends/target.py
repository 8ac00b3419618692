"""Targets: what machine the code is for. A name is `ARCH-OS[-musl][+CPU][+feature...]` or an alias (a board)."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from nomul.ir.errors import NomulError
from nomul.ir.registry import modules_of

MUSL = "-musl"


@dataclass(frozen=True)
class Target:
    """One instruction-set level of one machine family.

    name: canonical (`x86_64-linux+avx2`).  level: short name, a C identifier, the suffix of kernel symbols.
    features: names that kernels' `needs` and the runtime's CPU check use.  triple, cpu, attributes: for LLVM.
    zig: for linking; musl: the same against musl, empty where the system has no such choice.
    vector_bytes: width of a vector register; 0: none, as in portable C.
    base: the level to which this one adds nothing but features that compilers use only where a kernel asks for them; of
    levels with the same base, kernels share code (`select.code_level`). Empty: it shares none.
    description: one line for `nomul list targets`."""

    name: str
    level: str
    arch: str
    os: str
    features: frozenset[str]
    triple: str
    cpu: str
    zig: str
    musl: str = ""
    attributes: tuple[str, ...] = ()
    vector_bytes: int = 16
    registers: int = 16
    base: str = ""
    description: str = field(default="", compare=False)

    @property
    def by_lane(self) -> bool:
        """Whether a multiply-add takes one lane of a vector register for all lanes of its result (A64's `fmla`)."""
        return self.arch == "aarch64"

    def with_musl(self) -> Target:
        """The same machine with musl as its C library."""
        assert self.musl
        family, plus, rest = self.name.partition("+")
        return replace(self, name=family + MUSL + plus + rest, zig=self.musl)


@dataclass(frozen=True)
class Alias:
    """Another name for a target. target: a canonical name; description: of what the name stands for, if not of that."""

    target: str
    description: str = ""


@dataclass(frozen=True)
class Family:
    """All levels of one architecture and system; a file in `backends/targets/` defines one as `FAMILY`.

    name: `ARCH-OS`.  levels: best first; the last one is what every machine of the family has.
    extensions: feature -> the level that it stands on; a feature of the levels that is not named here stands on the
    lowest level that has it.  cpus: targets tuned for one CPU, by LLVM's name of it.  aliases: other names.
    attributes: LLVM's names of features, where they differ.
    host: levels of the machine that we run on, best first; none where it is not of this family."""

    name: str
    levels: tuple[Target, ...]
    extensions: Mapping[str, str]
    aliases: Mapping[str, Alias]
    host: Callable[[], tuple[Target, ...]]
    cpus: Mapping[str, Target] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def features(self) -> frozenset[str]:
        """Every feature that a name may ask for."""
        return frozenset().union(self.extensions, *(level.features for level in self.levels))

    def find(self, words: Sequence[str]) -> tuple[Target, ...]:
        """What the words behind the family's name ask for: a CPU, features, both; all levels where there are none.

        Raises NomulError (NM402) for a word that is neither."""
        for word in words:
            if word not in self.features and word not in self.cpus:
                message = f"{self.name} has no CPU or feature '{word}'"
                raise unknown(message, word, [*sorted(self.features), *self.cpus])
        cpus = [word for word in words if word in self.cpus]
        if len(cpus) > 1:
            raise NomulError("NM402", f"{' and '.join(cpus)} are two CPUs", help="one target is tuned for one CPU")
        wanted = frozenset(words).difference(cpus)
        if cpus:
            return (self._extend(self.cpus[cpus[0]], wanted),)
        return (self._with_features(wanted),) if wanted else self.levels

    def _with_features(self, wanted: frozenset[str]) -> Target:
        """The lowest level that has all wanted features, the missing ones added."""
        order = [level.level for level in reversed(self.levels)]
        needed = max(order.index(self._level_of(feature)) for feature in wanted)
        base = self.levels[len(order) - 1 - needed]
        for level in self.levels:
            if level.features == base.features | wanted:
                return level
        return self._extend(base, wanted)

    def _level_of(self, feature: str) -> str:
        if feature in self.extensions:
            return self.extensions[feature]
        return next(level.level for level in reversed(self.levels) if feature in level.features)

    def _extend(self, base: Target, wanted: frozenset[str]) -> Target:
        extra = sorted(wanted - base.features)
        if not extra:
            return base
        return replace(
            base,
            name="+".join([base.name, *extra]),
            level="_".join([base.level, *extra]),
            features=base.features.union(extra),
            attributes=(*base.attributes, *self.llvm_attributes(extra)),
            description=f"{base.description}, with {', '.join(extra)}",
        )

    def llvm_attributes(self, features: Iterable[str]) -> tuple[str, ...]:
        """LLVM's attributes that switch on the features."""
        return tuple(f"+{self.attributes.get(feature, feature)}" for feature in features)


@cache
def families() -> dict[str, Family]:
    """Every machine family by name."""
    return {module.FAMILY.name: module.FAMILY for module in modules_of("nomul.backends.targets")}


def target_names() -> dict[str, str]:
    """Every fixed name that `find_target` takes, with one line on what it is; any Linux name also takes `-musl`."""
    names = {"host": "all levels of this machine's family that it can run"}
    for family in families().values():
        if len(family.levels) > 1:
            listed = ", ".join(level.level for level in family.levels)
            names[family.name] = f"every level of the family in one library: {listed}"
        names |= {level.name: level.description for level in family.levels}
        names |= {cpu.name: cpu.description for cpu in family.cpus.values()}
        if family.levels[0].musl:
            names[family.name + MUSL] = f"{family.name} with musl, not glibc; {MUSL} may follow any name of the family"
        for name, alias in family.aliases.items():
            names[name] = alias.description or _find(alias.target)[0].description
    return names


def find_target(name: str) -> tuple[Target, ...]:
    """The levels that a name stands for, best first: `host` and `ARCH-OS` give several, all others one.

    Raises NomulError (NM402) for an unknown name, CPU or feature, with suggestions."""
    if name == "host":
        return _host()
    base, plus, rest = name.partition("+")
    if not base.endswith(MUSL):
        return _find(name)
    targets = _find(base.removesuffix(MUSL) + plus + rest)
    if not targets[0].musl:
        raise NomulError("NM402", f"{targets[0].os} has no musl", help=f"leave out {MUSL}")
    return tuple(target.with_musl() for target in targets)


def _find(name: str) -> tuple[Target, ...]:
    base, *words = name.split("+")
    if base in families():
        return families()[base].find(words)
    for family in families().values():
        if base in family.aliases:
            canonical, *more = family.aliases[base].target.split("+")
            return families()[canonical].find([*more, *words])
    raise unknown(f"unknown target '{name}'", name, list(target_names()))


def find_targets(names: Sequence[str]) -> tuple[Target, ...]:
    """The levels of several names, best first. Raises NomulError (NM403) where one library cannot have them all."""
    found = {target.level: target for name in names for target in find_target(name)}
    kinds = sorted({target.name.partition("+")[0] for target in found.values()})
    if len(kinds) > 1:
        message = f"one library is for one architecture and system, not for {' and '.join(kinds)}"
        raise NomulError("NM403", message, help="compile once for each")
    return tuple(sorted(found.values(), key=lambda t: (-t.vector_bytes, -len(t.features), t.level)))


def _host() -> tuple[Target, ...]:
    for family in families().values():
        levels = family.host()
        if levels:
            return levels
    known = ", ".join(families())
    raise NomulError("NM402", "this machine is of no known target family", help=f"name a target; families: {known}")


def unknown(message: str, word: str, known: Sequence[str]) -> NomulError:
    """The error for a word that is none of the known ones, with those that look like it."""
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    shown = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
    return NomulError("NM402", message, help=shown)
