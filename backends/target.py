"""Targets: what machine the code is for; a name is `ARCH-OS[+feature...]` or an alias. One file each in `targets/`."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from nomul.ir.errors import NomulError


@dataclass(frozen=True)
class Target:
    """One instruction-set level of one machine family.

    name: canonical (`x86_64-linux+avx2`).  level: short name, a C identifier, the suffix of kernel symbols.
    features: names that kernels' `needs` and the runtime's CPU check use.  triple, cpu, attributes: for LLVM.
    zig: for linking.  vector_bytes: width of a vector register.  description: one line for `nomul list targets`."""

    name: str
    level: str
    arch: str
    os: str
    features: frozenset[str]
    triple: str
    cpu: str
    zig: str
    attributes: tuple[str, ...] = ()
    vector_bytes: int = 16
    registers: int = 16
    description: str = field(default="", compare=False)


@dataclass(frozen=True)
class Family:
    """All levels of one architecture and system; a file in `backends/targets/` defines one as `FAMILY`.

    name: `ARCH-OS`.  levels: best first; the last one is what every machine of the family has.
    extensions: each further feature and the level that it stands on.  aliases: other names for one level.
    host: levels of the machine that we run on, best first; none where it is not of this family."""

    name: str
    levels: tuple[Target, ...]
    extensions: dict[str, str]
    aliases: dict[str, str]
    host: Callable[[], tuple[Target, ...]]

    def with_features(self, wanted: Sequence[str]) -> Target:
        """The lowest level that has all wanted features, the missing ones added. Raises KeyError for an unknown one."""
        order = [level.level for level in reversed(self.levels)]
        needed = max((order.index(self._level_of(name)) for name in wanted), default=0)
        base = self.levels[len(order) - 1 - needed]
        extra = sorted(set(wanted) - base.features)
        if not extra:
            return base
        return replace(
            base,
            name="+".join([base.name, *extra]),
            level="_".join([base.level, *extra]),
            features=base.features.union(extra),
            attributes=(*base.attributes, *(f"+{name}" for name in extra)),
            description=f"{base.description}, with {', '.join(extra)}",
        )

    def _level_of(self, feature: str) -> str:
        for level in reversed(self.levels):
            if feature in level.features:
                return level.level
        return self.extensions[feature]


@cache
def families() -> dict[str, Family]:
    """Every machine family by name."""
    package = importlib.import_module("nomul.backends.targets")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    found = [importlib.import_module(f"{package.__name__}.{name}").FAMILY for name in names]
    return {family.name: family for family in found}


def target_names() -> dict[str, str]:
    """Every fixed name that `find_target` takes, with one line on what it is."""
    names = {"host": "all levels of this machine's family that it can run"}
    for family in families().values():
        names[family.name] = f"every level of the family: {', '.join(level.level for level in family.levels)}"
        names.update({level.name: level.description for level in family.levels})
        levels = {level.level: level for level in family.levels}
        names.update({alias: levels[level].description for alias, level in family.aliases.items()})
    return names


def find_target(name: str) -> tuple[Target, ...]:
    """The levels that a name stands for, best first: `host` and `ARCH-OS` give several, all others one.

    Raises NomulError (NM402) for an unknown name or feature, with suggestions."""
    if name == "host":
        return _host()
    base, *features = name.split("+")
    family = families().get(base)
    if family is not None and not features:
        return family.levels
    if family is not None:
        unknown = [f for f in features if not _knows(family, f)]
        if unknown:
            raise _unknown(f"{family.name} has no feature '{unknown[0]}'", unknown[0], _feature_names(family))
        return (family.with_features(features),)
    for family in families().values():
        if name in family.aliases:
            return tuple(level for level in family.levels if level.level == family.aliases[name])
    raise _unknown(f"unknown target '{name}'", name, list(target_names()))


def find_targets(names: Sequence[str]) -> tuple[Target, ...]:
    """The levels of several names, best first. Raises NomulError (NM403) where one library cannot have them all."""
    found = {target.level: target for name in names for target in find_target(name)}
    kinds = sorted({f"{target.arch}-{target.os}" for target in found.values()})
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


def _feature_names(family: Family) -> list[str]:
    return sorted({name for level in family.levels for name in level.features}.union(family.extensions))


def _knows(family: Family, feature: str) -> bool:
    return feature in _feature_names(family)


def _unknown(message: str, word: str, known: Sequence[str]) -> NomulError:
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    shown = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
    return NomulError("NM402", message, help=shown)
