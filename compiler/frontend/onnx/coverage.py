"""`python -m nomul.frontend.onnx.coverage > docs/onnx.md`: which ONNX operators are imported, by ONNX's own tests."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping

from onnx import defs

from nomul.frontend.onnx.conformance import KINDS, Case, Outcome, cases, run_case
from nomul.frontend.onnx.functions import is_importable
from nomul.frontend.onnx.registry import all_handlers

_HEAD = """# ONNX operators

Made by `python -m nomul.frontend.onnx.coverage > docs/onnx.md` with onnx {version}; do not edit.

## Dynamic sizes

A dynamic axis becomes a named dim: by the model's name for it, made an identifier, else by input and axis (`x_3`). Its
range is [1, 4096] where the user gives none (`dims={{"x_3": (32, 960)}}`, or a number for a constant; the model's own
spelling of a name works too). Shapes are computed while importing, never in the compiled model. Where the graph demands
more of a dim, the dim is refined and a warning says so:

- a bound (a position table of 512 rows, a window that must fit) narrows a range that the user did not give;
- a multiple (an image that is halved five times and added to itself) changes the unit: `32*x_3_div32`;
- two axes that must be equal become one dim, and an axis that fits one size only becomes that size.

## Operators

Each test of the `onnx` package (`onnx.backend.test`) is imported, run by the interpreter and compared with the expected
results. *Declined*: the import says with a clear error what is not supported. A test whose shapes depend on an operand
is run with that operand as a constant.

| suite | passed | declined | different | of |
|---|---|---|---|---|
{suites}

Different results: {failed}.

Operator sets 9 to {newest} are read (older ones where an operator has not changed since). `own`: a function in
`compiler/frontend/onnx/ops/`; `standard`: expanded into the definition that the ONNX standard gives.

| operator | imported | tests passed | what is declined (first reason) |
|---|---|---|---|
{operators}

Of `com.microsoft` (tests: `tests/frontend/onnx/test_onnx_microsoft.py`): {microsoft}.
"""


def report(outcomes: Mapping[str, Mapping[str, tuple[Case, Outcome]]]) -> str:
    """The page for outcomes by suite and test."""
    suites, failed = [], []
    for kind, tests in outcomes.items():
        count = Counter(outcome.status for _, outcome in tests.values())
        suites.append(
            f"| {kind} | {count['passed']} | {count['declined']} | {count['failed']} | {sum(count.values())} |"
        )
        failed += [f"`{name}`" for name, (_, outcome) in tests.items() if outcome.status == "failed"]
    return _HEAD.format(
        version=_minor_version(),
        suites="\n".join(suites),
        failed=", ".join(failed) or "none",
        newest=defs.onnx_opset_version(),
        operators="\n".join(_operator_rows(outcomes["node"])),
        microsoft=", ".join(sorted(name for domain, name in all_handlers() if domain == "com.microsoft")),
    )


def _minor_version() -> str:
    import onnx

    return ".".join(onnx.__version__.split(".")[:2])


def _operator_rows(tests: Mapping[str, tuple[Case, Outcome]]) -> list[str]:
    """One row an operator of the default domain, by its tests of a single node."""
    found: dict[str, list[Outcome]] = defaultdict(list)
    for case, outcome in tests.values():
        if len(case.model.graph.node) == 1 and case.model.graph.node[0].domain == "":
            found[case.model.graph.node[0].op_type].append(outcome)
    newest = defs.onnx_opset_version()
    names = {schema.name for schema in defs.get_all_schemas() if schema.domain == "" and not schema.deprecated}
    rows = []
    for name in sorted(names):
        passed = sum(outcome.status == "passed" for outcome in found[name])
        how = "own" if ("", name) in all_handlers() else "standard" if is_importable("", name, newest, {}) else "no"
        reason = next((_reason(o.reason) for o in found[name] if o.status == "declined"), "") if how != "no" else ""
        rows.append(f"| {name} | {how} | {passed} / {len(found[name])} | {reason} |")
    return rows


def _reason(text: str) -> str:
    """The first line of an error without its code and operator, fit for a table."""
    line = text.split("\n", 1)[0].replace("|", "\\|")
    return re.sub(r"^error\[NM\d+\]: (\w+: )?", "", line)


def run_all(kinds: tuple[str, ...] = KINDS) -> dict[str, dict[str, tuple[Case, Outcome]]]:
    """Outcomes of whole suites."""
    return {kind: {case.name: (case, run_case(case)) for case in cases((kind,))} for kind in kinds}


if __name__ == "__main__":
    print(report(run_all()), end="")
