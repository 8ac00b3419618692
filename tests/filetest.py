"""Filetests: a `.nir` file whose `; test:` comments say what to do with it. docs: tests/filetests/README.md.

Kinds are the functions `kind_*` below; each gets the file and the words behind the kind, and raises AssertionError.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from nomul.ir.errors import NomulError, Problem
from nomul.ir.graph import Module, Weight
from nomul.ir.interpreter import bind_dims, run, type_shape
from nomul.ir.parser import parse_module
from nomul.ir.text import print_module
from nomul.ir.verifier import verify
from nomul.passes.catalog import make_passes
from nomul.passes.rewrite import Rewrite
from nomul.passes.rule import all_rules, rule_classes, rule_families
from nomul.passes.runner import PassRunner

EXPECTED = "; ==== expected"
_DIRECTIVE = re.compile(r"^; test: *(\w+) *(.*)$", re.MULTILINE)
_ERROR = re.compile(r"; error: *(.*?) *$")
_OUTPUT = re.compile(r"^; output (\d+): *(.*)$", re.MULTILINE)
_LET = re.compile(r"^; let (\w+): *(.*)$", re.MULTILINE)
_BECAUSE = re.compile(r"^; because: *(.*?) *$", re.MULTILINE)
_WEIGHT = re.compile(r'^; weight @(?:"(.+?)"|(\S+?)): *(.*)$', re.MULTILINE)
_INPUT = re.compile(r"^; input (\w+): *(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class FileTest:
    """One file. bless: rewrite what is expected instead of comparing with it."""

    path: Path
    bless: bool = False

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def source(self) -> str:
        """The module: all lines above the expected text."""
        return self.text.split(EXPECTED, 1)[0]

    @property
    def tests(self) -> list[tuple[str, str]]:
        """(kind, arguments) of each `; test:` line."""
        return [(kind, arguments.strip()) for kind, arguments in _DIRECTIVE.findall(self.source)]

    def run(self, kind: str, arguments: str) -> None:
        KINDS[kind](self, arguments)

    def module(self, seed: int = 0) -> Module:
        """The module, its weights filled with random numbers, or with what `; weight @NAME: EXPRESSION` gives."""
        module = parse_module(self.source)
        random = np.random.default_rng(seed)
        for weight in module.weights.values():
            _fill(weight, random)
        for quoted, plain, text in _WEIGHT.findall(self.source):
            weight = module.weights[quoted or plain]
            shape = tuple(int(size) for size in weight.shape)
            weight.fields = {"data": np.broadcast_to(eval(text, {"np": np}), shape).astype(weight.dtype.numpy)}
        return module

    def inputs(self, module: Module, options: dict[str, str], seed: int = 0) -> list[np.ndarray]:
        """Given by `; input NAME: EXPRESSION`, otherwise random; sizes from `S=4` in the directive."""
        dims = {name: int(options.get(name, min(high, low + 2))) for name, (low, high) in module.dims.items()}
        given, random = dict(_INPUT.findall(self.source)), np.random.default_rng(seed + 1)
        arrays = []
        for param in module.main.params:
            dtype, shape = param.dtype.numpy, type_shape(param.type, dims)
            if param.name in given:
                array = np.asarray(eval(given[param.name], {"np": np, **dims}), dtype)
            else:
                array = random_array(random, dtype, shape)
            arrays.append(array)
        return arrays

    def compare_text(self, actual: str) -> None:
        """With the expected text below the marker; blessing writes it."""
        _, marker, expected = self.text.partition(EXPECTED + "\n")
        if self.bless:
            self.path.write_text(f"{self.source.rstrip()}\n{EXPECTED}\n{actual}", encoding="utf-8")
            return
        assert marker, f"no line '{EXPECTED}': write it with --bless"
        assert actual == expected


def random_array(random: np.random.Generator, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Small numbers: floats in [-1, 1), integers 0 or 1 (they may be indices)."""
    if np.issubdtype(dtype, np.integer) or dtype == np.bool_:
        return random.integers(0, 2, shape).astype(dtype)
    return random.uniform(-1, 1, shape).astype(dtype)


def _fill(weight: Weight, random: np.random.Generator) -> None:
    array = random_array(random, weight.dtype.numpy, tuple(int(size) for size in weight.shape))
    encoding = weight.type.encoding
    weight.fields = encoding.pack(array.astype(np.float32)) if encoding else {"data": array}


def _options(arguments: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in arguments.split() if "=" in word)


# -- kinds -----------------------------------------------------------------------------------------------------
def kind_roundtrip(file: FileTest, arguments: str) -> None:
    """The file's own lines, comments left out, are exactly what the printer prints."""
    lines = file.source.split("\n")
    at = [i for i, line in enumerate(lines) if line.strip() and not line.lstrip().startswith(";")]
    printed = print_module(parse_module(file.source)).splitlines()
    if file.bless:
        for i, line in zip(at, printed, strict=True):
            lines[i] = line
        file.path.write_text("\n".join(lines) + file.text[len(file.source) :], encoding="utf-8")
        return
    assert [_ERROR.sub("", lines[i]).rstrip() for i in at] == printed


def kind_verify(file: FileTest, arguments: str) -> None:
    """The file is valid, or has exactly the problems that `; error: CODE PART OF MESSAGE` announces at their lines.

    A comment line `;   ^` below such a line says where the caret stands."""
    problems: list[Problem] = []
    try:
        verify(parse_module(file.source))
    except NomulError as error:
        problems = error.problems
    lines = file.source.split("\n")
    expected = {i: found[1] for i, line in enumerate(lines, 1) if (found := _ERROR.search(line))}
    actual = {problem.line or 0: problem for problem in problems}
    assert len(actual) == len(problems), f"two problems at one line: {problems}"
    report = "\n".join(problem.render() for problem in problems)
    assert actual.keys() == expected.keys(), f"problems at lines {sorted(actual)}, not {sorted(expected)}\n{report}"
    for number, text in expected.items():
        code, message = text[:5], text[5:].strip()
        assert actual[number].code == code and message in actual[number].message, f"line {number}: {text}\n{report}"
    for problem in problems:
        below = lines[problem.line] if problem.line else ""
        if re.fullmatch(r";[ ]*\^", below):
            assert problem.column == below.index("^"), f"line {problem.line}: caret at column {problem.column}"


def kind_interp(file: FileTest, arguments: str) -> None:
    """Results are what `; output N: EXPRESSION` says: numpy of the inputs by name, dims, and weights as w["name"];
    `; let NAME: EXPRESSION` names a part of it."""
    module = file.module()
    inputs = file.inputs(module, _options(arguments))
    results = run(module, *inputs)
    dims = bind_dims(module, [param.type for param in module.main.params], inputs)
    names = {param.name: array for param, array in zip(module.main.params, inputs, strict=True)}
    scope = {"np": np, "w": {weight.name: weight.array() for weight in module.weights.values()}, **names, **dims}
    for name, text in _LET.findall(file.source):
        scope[name] = eval(text, scope)
    expected = {int(number): text for number, text in _OUTPUT.findall(file.source)}
    assert sorted(expected) == list(range(len(results))), "give an '; output N:' line for each result"
    for number, result in enumerate(results):
        value = np.asarray(eval(expected[number], scope))
        assert result.shape == value.shape, f"output {number} has shape {result.shape}, not {value.shape}"
        np.testing.assert_allclose(result, value.astype(result.dtype), 1e-5, 1e-6)


def kind_opt(file: FileTest, arguments: str) -> None:
    """The module after the named passes (`opt simplify,dead_code`) is the expected text, and computes the same."""
    result = PassRunner(check=True).apply_all(file.module(), make_passes(arguments))
    file.compare_text(print_module(result))


def kind_fires(file: FileTest, arguments: str) -> None:
    """The rule alone (`fires layer_norm`) fires; the module then is the expected text, and computes the same.

    `fires one+other`: the first rule, which needs the others."""
    result, runner = _with_rule(file, arguments)
    assert runner.records[0].report.fired[arguments.partition("+")[0]], (
        f"{arguments} did not fire: {[*map(str, runner.misses)]}"
    )
    file.compare_text(print_module(result))


def kind_keeps(file: FileTest, arguments: str) -> None:
    """The rule alone changes nothing, though nodes that it looks at are there; each `; because: TEXT` is part of a
    reason that it gives."""
    result, runner = _with_rule(file, arguments)
    assert not runner.records[0].changed, print_module(result)
    ops = {node.op for func in result.funcs.values() for node in func.nodes}
    assert ops & set(all_rules()[arguments]().ops), f"{arguments} has nothing to look at among {sorted(ops)}"
    reasons = [str(miss) for miss in runner.misses]
    for text in _BECAUSE.findall(file.source):
        assert any(text in reason for reason in reasons), f"'{text}' is no part of {reasons}"


def _with_rule(file: FileTest, name: str) -> tuple[Module, PassRunner]:
    first = name.partition("+")[0]
    family = next(family for family in rule_families() if any(kind.name == first for kind in rule_classes(family)))
    runner = PassRunner(check=True)
    return runner.apply_all(file.module(), [Rewrite(family, only=name)]), runner


def kind_lower(file: FileTest, arguments: str) -> None:
    """The module after all phases up to the named one (`lower fuse`) is the expected text, and computes the same."""
    from nomul.api import lower

    file.compare_text(print_module(lower(file.module(), until=arguments or None, check=True)))


def kind_run(file: FileTest, arguments: str) -> None:
    """A compiled artifact computes what the interpreter does, on each level of this machine; sizes as `S=4`."""
    from artifacts import results_by_level

    module = file.module()
    inputs = file.inputs(module, _options(arguments))
    expected = run(module, *inputs)
    for level, results in results_by_level(module, inputs).items():
        for result, value in zip(results, expected, strict=True):
            np.testing.assert_allclose(result, value, 1e-4, 1e-5, err_msg=f"level {level}")


KINDS: dict[str, Callable[[FileTest, str], None]] = {
    name.removeprefix("kind_"): function for name, function in list(globals().items()) if name.startswith("kind_")
}
