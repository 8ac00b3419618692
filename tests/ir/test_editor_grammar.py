"""The TextMate grammar of docs/editors over all filetests: every op, type, name and literal has its scope."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nomul.ir.op import all_ops
from nomul.ir.types import DType

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "tests" / "filetests").rglob("*.nir"))
GRAMMAR = json.loads((ROOT / "docs" / "editors" / "nir.tmLanguage.json").read_text(encoding="utf-8"))


@cache
def _rule(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _flat(patterns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rules in order, includes replaced by what they name."""
    rules: list[dict[str, Any]] = []
    for item in patterns:
        if "include" in item:
            found = GRAMMAR["repository"][item["include"].removeprefix("#")]
            rules += _flat(found["patterns"]) if "patterns" in found and "begin" not in found else [found]
        else:
            rules.append(item)
    return rules


RULES = _flat(GRAMMAR["patterns"])


def tokens(line: str) -> list[tuple[str, str]]:
    """(text, scope) of what an editor colours: at each place the first rule among those that match earliest."""
    found, at = [], 0
    while at < len(line):
        matches = [(m, rule) for rule in RULES if (m := _rule(rule.get("match") or rule["begin"]).search(line, at))]
        matches = [(m, rule) for m, rule in matches if m.end() > m.start()]
        if not matches:
            break
        first, rule = min(matches, key=lambda pair: pair[0].start())
        for number, part in (rule.get("captures") or rule.get("beginCaptures") or {}).items():
            found.append((first[int(number)], part["name"]))
        if "name" in rule:
            found.append((first[0], rule["name"]))
        at = first.end()
    return found


def scopes(line: str) -> dict[str, str]:
    return {text: scope.removesuffix(".nir") for text, scope in tokens(line)}


def test_one_line_of_each_kind() -> None:
    assert scopes("nomul.ir 1") == {"nomul.ir": "keyword.control", "1": "constant.numeric"}
    assert scopes("after fuse.simplify")["fuse.simplify"] == "entity.name.section"
    assert scopes("dim S in [1, inf]")["S"] == "variable.parameter.dim"
    weight = scopes('weight @"a:0" : f32[64, 64] as ternary<planes=2, group=32> from "a~2"')
    assert weight['@"a:0"'] == "entity.name.weight" and weight["ternary"] == "storage.type.encoding"
    assert weight["from"] == "keyword.control" and weight['"a~2"'] == "string.quoted.double"
    node = scopes('  %y = nn.linear %x, @w, _ {act="i8"} : f32[S, 64] loc("a ; b") ; why')
    assert node["nn.linear"] == "support.function.op" and node["%y"] == "variable.other.value"
    assert node["act"] == "entity.other.attribute-name" and node["_"] == "constant.language"
    assert node["loc"] == "keyword.other.loc" and node["; why"] == "comment.line.semicolon"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_node_line_of_the_filetests(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        node = re.match(r"\s+%\S+(?:, %\S+)* = (\S+) ", line)
        if node is None or "; error" in line:
            continue
        found = scopes(line)
        assert found.get(node[1]) == "support.function.op", line
        bare = re.sub(r'"(?:\\.|[^"\\])*"|;.*', "", line)
        for name in re.findall(r"[%@][\w.]+", bare):
            assert name in found, (name, line)


def test_ops_and_types_have_their_scopes() -> None:
    for op in all_ops():
        assert scopes(f"  %y = {op} %x : f32[2]")[op] == "support.function.op"
    for dtype in DType:
        assert scopes(f"  %y = ew.neg %x : {dtype}[2]")[str(dtype)] == "storage.type"
