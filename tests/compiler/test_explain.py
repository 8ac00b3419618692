"""Every error code that the source raises is explained, and every explanation belongs to a code that is raised."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nomul.explain import all_explanations, explain
from nomul.ir.errors import NomulError

ROOT = Path(__file__).parents[2]
FOLDERS = ("compiler", "ir", "passes", "backends", "runtime")
CODE = re.compile(r"NM\d{3}\b")


def codes_in_source() -> set[str]:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return {code for path in files for code in CODE.findall(path.read_text(encoding="utf-8"))}


def test_every_code_is_explained() -> None:
    assert codes_in_source() - all_explanations().keys() == set()


def test_every_explanation_is_needed() -> None:
    assert all_explanations().keys() - codes_in_source() == set()


@pytest.mark.parametrize("code", sorted(all_explanations()))
def test_an_explanation_says_something(code: str) -> None:
    explanation = explain(code)
    assert len(explanation.text) > 40 and not explanation.title.endswith(".")


def test_an_unknown_code_names_its_neighbours() -> None:
    with pytest.raises(NomulError, match="NM011"):
        explain("NM999")
