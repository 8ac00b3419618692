"""Puts tests/ on the import path (pytest does that for the folder of a conftest): shared helpers are modules here.

Also collects filetests (`tests/filetests/**/*.nir`) and gives pytest the option `--bless`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("filetest", "cases")

from filetest import FileTest  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bless", action="store_true", help="rewrite expected text of filetests with what comes out")


def pytest_collect_file(parent: pytest.Collector, file_path: Path) -> pytest.Collector | None:
    if file_path.suffix == ".nir" and "filetests" in file_path.parts:
        return NirFile.from_parent(parent, path=file_path)
    return None


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
