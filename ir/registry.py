"""Things that are found by themselves: a registry knows what the modules of one package declare."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Hashable
from functools import cache
from types import ModuleType
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@cache
def modules_of(package: str) -> tuple[ModuleType, ...]:
    """The modules of a package, imported, in order of their names. Raises ImportError: no such package."""
    path = importlib.import_module(package).__path__
    return tuple(
        importlib.import_module(f"{package}.{name}") for name in sorted(m.name for m in pkgutil.iter_modules(path))
    )


class Registry(Generic[K, V]):
    """Entries by key. package: whose modules add them; it is imported when an entry is first asked for.

    what: an entry in error messages, as `ONNX operator {}`."""

    def __init__(self, package: str, what: str) -> None:
        self._package, self._what = package, what
        self._entries: dict[K, V] = {}

    def add(self, key: K, entry: V) -> V:
        """Raises ValueError for a key that has an entry."""
        if key in self._entries:
            raise ValueError(f"{self._what.format(key)} is declared twice")
        self._entries[key] = entry
        return entry

    def declare(self, *keys: K) -> Callable[[V], V]:
        """A decorator that adds what it decorates under every key."""

        def decorate(entry: V) -> V:
            for key in keys:
                self.add(key, entry)
            return entry

        return decorate

    def find(self, key: K) -> V | None:
        """The entry, or None."""
        modules_of(self._package)
        return self._entries.get(key)

    def all(self) -> dict[K, V]:
        """Every entry, in order of declaration."""
        modules_of(self._package)
        return dict(self._entries)
