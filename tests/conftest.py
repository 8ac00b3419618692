"""Puts tests/ on the import path (pytest does that for the folder of a conftest): shared helpers are modules here.

Also collects filetests (`tests/filetests/**/*.nir`), gives pytest the option `--bless`, and has the text form of every
module that a pass changes, in any test, read back.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest

pytest.register_assert_rewrite("filetest", "cases")

from filetest import FileTest  # noqa: E402

from nomul.ir.graph import Module  # noqa: E402
from nomul.ir.parser import parse_module  # noqa: E402
from nomul.ir.text import print_module  # noqa: E402
from nomul.passes.base import Pass  # noqa: E402
from nomul.passes.runner import PassRunner  # noqa: E402

QUICK = 40_000  # letters of text that are read back in a test that is not slow


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bless", action="store_true", help="rewrite expected text of filetests with what comes out")


def pytest_collect_file(parent: pytest.Collector, file_path: Path) -> pytest.Collector | None:
    if file_path.suffix == ".nir" and "filetests" in file_path.parts:
        return NirFile.from_parent(parent, path=file_path)
    return None


@pytest.fixture(autouse=True)
def texts_read_back(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """print -> parse -> print is the identity on what every pass leaves; slow tests look at large modules, too."""
    apply, limit = PassRunner.apply, inf if request.node.get_closest_marker("slow") else QUICK

    def checked(self: PassRunner, module: Module, item: Pass, phase: str = "opt", label: str = "") -> Module:
        result = apply(self, module, item, phase, label)
        if self.records[-1].changed:
            text = print_module(result)
            assert len(text) > limit or print_module(parse_module(text)) == text, f"after {item.name}:\n{text}"
        return result

    monkeypatch.setattr(PassRunner, "apply", checked)


class NirFile(pytest.File):
    """One test for each `; test:` line."""

    def collect(self) -> Iterator[pytest.Item]:
        test = FileTest(self.path, self.config.getoption("--bless"))
        assert test.tests, f"{self.path} has no '; test:' line"
        for kind, arguments in test.tests:
            yield NirItem.from_parent(self, name=f"{kind} {arguments}".strip(), test=test, what=(kind, arguments))


class NirItem(pytest.Item):
    """One `; test:` line."""

    def __init__(self, *, test: FileTest, what: tuple[str, str], **options: object) -> None:
        super().__init__(**options)
        self.test, self.what = test, what

    def runtest(self) -> None:
        self.test.run(*self.what)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        """A wrong result needs no traceback of the runner."""
        if isinstance(excinfo.value, AssertionError):
            return f"{self.path}: {self.name}\n{excinfo.value}"
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, f"{self.path.name}: {self.name}"
