"""Registries that fill themselves from the modules of a package."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nomul.ir.registry import Registry, modules_of


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "found_package"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from nomul.ir.registry import Registry\nTHINGS = Registry(__name__, 'thing {}')\n"
    )
    for name in ("b", "a"):
        text = f"from found_package import THINGS\n@THINGS.declare('{name}1', '{name}2')\ndef {name}(): pass\n"
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "found_package"
    for name in [name for name in sys.modules if name.startswith("found_package")]:
        del sys.modules[name]
    modules_of.cache_clear()


def test_modules_are_imported_when_an_entry_is_asked_for(package: str) -> None:
    module = __import__(package)
    things: Registry[str, object] = module.THINGS
    assert f"{package}.a" not in sys.modules
    found = things.find("a2")
    assert getattr(found, "__name__", "") == "a"
    assert things.find("c") is None
    assert list(things.all()) == ["a1", "a2", "b1", "b2"]


def test_a_key_is_declared_once(package: str) -> None:
    things: Registry[str, object] = __import__(package).THINGS
    with pytest.raises(ValueError, match="thing a1 is declared twice"):
        things.all() and things.add("a1", object())


def test_an_unknown_package_is_an_error() -> None:
    with pytest.raises(ImportError):
        modules_of("nomul.no_such_package")
