"""What must have a filetest: every rewrite rule one that it changes and one that it keeps, every family of ops, every
fault that the verifier and the parser can find in a text."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from nomul.ir.op import all_ops
from nomul.passes.rule import all_rules, rule_classes

HERE = Path(__file__).parent
# Rules that every node of their ops satisfies: those that put ops in the place of one without a kernel, above all.
NEVER_REFUSE = {"batch_norm_as_affine"} | {rule.name for rule in rule_classes("expand")} - {
    "byte_scores",
    "few_queries",
    "stored_keys_values",
}
NOT_IN_A_TEXT = {  # faults of modules in memory, which no text can have: tests/ir/test_ir_verifier.py
    "NM302": "a name that comes too late is unknown to the parser (NM322)",
    "NM308": "weights stand in another file",
    "NM310": "use lists are made by the parser",
}


@cache
def texts() -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in sorted(HERE.rglob("*.nir"))}


@pytest.mark.parametrize(("kind", "free"), [("fires", set()), ("keeps", NEVER_REFUSE)])
def test_every_rule(kind: str, free: set[str]) -> None:
    found = {name for text in texts().values() for name in re.findall(rf"^; test: {kind} (\w+)", text, re.MULTILINE)}
    assert found == all_rules().keys() - free


def test_every_family_of_ops_has_a_right_and_a_wrong_file() -> None:
    families = {name.partition(".")[0] for name in all_ops()}
    right = "\n".join(
        text for text in texts().values() if re.search(r"^; test: (interp|verify|run)", text, re.MULTILINE)
    )
    wrong = [line for text in texts().values() for line in text.splitlines() if "; error:" in line]
    for family in families:
        op = re.compile(rf"= {family}(\.\w+)? ")
        assert op.search(right), f"no file with an op of {family}"
        assert any(op.search(line) for line in wrong), f"no wrong line with an op of {family}"


def test_every_fault_that_a_text_can_have() -> None:
    sources = [
        Path(__file__).parents[2] / "ir" / name for name in ("verifier.py", "parser.py", "syntax.py", "expressions.py")
    ]
    codes = {code for path in sources for code in re.findall(r'"(NM3\d\d)"', path.read_text(encoding="utf-8"))}
    told = {code for text in texts().values() for code in re.findall(r"; error: (NM\d{3})", text)}
    assert codes - told == NOT_IN_A_TEXT.keys()
