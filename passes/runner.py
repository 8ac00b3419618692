"""Runs passes over a module: clone, apply, verify, time, compare, check, dump. A failing pass loses nothing."""

from __future__ import annotations

import difflib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import NamedTuple

from nomul.ir.errors import NomulError, Problem
from nomul.ir.graph import Module
from nomul.ir.text import print_module
from nomul.ir.verifier import verify
from nomul.passes.base import Miss, Pass, Report, RuleCrash
from nomul.passes.checking import OTHER_RESULTS, UNRUNNABLE, Checker
from nomul.passes.dump import Dump, text_diff
from nomul.passes.reduce import reduce_module

Progress = Callable[[str, float], None]
REDUCE_SECONDS = 20.0


@dataclass(frozen=True)
class Fixpoint:
    """Passes that are repeated in turn until none of them changes anything, at most `limit` times."""

    passes: tuple[Pass, ...]
    limit: int = 12


Step = Pass | Fixpoint


@dataclass(frozen=True)
class Phase:
    """A named stretch of the pipeline; `--until NAME` stops behind it."""

    name: str
    steps: tuple[Step, ...]

    @cached_property
    def labels(self) -> list[list[str]]:
        """A name for each pass of each step: `PHASE.PASS`, with a number behind it from its second place on."""
        seen: Counter[str] = Counter()
        return [[self._label(item.name, seen) for item in _passes(step)] for step in self.steps]

    def _label(self, name: str, seen: Counter[str]) -> str:
        seen[name] += 1
        return f"{self.name}.{name}" + (f".{seen[name]}" if seen[name] > 1 else "")


def _passes(step: Step) -> tuple[Pass, ...]:
    return (step,) if isinstance(step, Pass) else step.passes


@dataclass(frozen=True)
class PassRecord:
    """One application of one pass. nodes: in all functions, afterwards."""

    name: str
    phase: str
    milliseconds: float
    nodes: int
    changed: bool
    report: Report


@dataclass
class PassRunner:
    """check: compare with the interpreter after each pass.  progress: called with the phase and the done share.

    reduce_seconds: how long to look for a small part of a module that fails the check; 0: do not look."""

    dump: Dump | None = None
    check: bool = False
    progress: Progress | None = None
    reduce_seconds: float = REDUCE_SECONDS
    refusals: Sequence[str] = ()  # lines on what else was refused than rewrites: kernels
    records: list[PassRecord] = field(default_factory=list)
    _checker: Checker | None = None
    _text: str = ""

    def run(self, module: Module, phases: Sequence[Phase], until: str | None = None) -> Module:
        """The module after all phases up to `until`; the given module stays as it is.

        A module that is `after` a pass goes on behind it. Raises NomulError: NM450 a pass crashed, NM451 it left an
        invalid module, NM452 the check found other results, NM461 a lossy
        pass is above its bound, NM453 passes that do not settle, NM455 unknown phase."""
        begin, end = place_behind(phases, module.after), _end(phases, until)
        if end < begin.phase:
            message = f"the phase '{until}' is behind the module already, which is after '{module.after}'"
            raise NomulError("NM455", message)
        self._start(module)
        for number in range(begin.phase, end):
            phase = phases[number]
            if self.progress:
                self.progress(phase.name, number / end)
            for index, step in enumerate(phase.steps):
                place = Place(number, index)
                if place >= Place(begin.phase, begin.step):
                    passed = begin.passed if place == Place(begin.phase, begin.step) else 0
                    module = self._step(module, step, phase, index, passed)
        if end > begin.phase:
            module = module.clone()
            module.after = phases[end - 1].name
        return module

    def apply_all(self, module: Module, passes: Sequence[Pass]) -> Module:
        """The module after these passes, of no phase. Raises NomulError as `run`."""
        self._start(module)
        for item in passes:
            module = self.apply(module, item)
        return module

    def apply(self, module: Module, item: Pass, phase: str = "opt", label: str = "") -> Module:
        """The module after one pass, verified, checked, recorded and dumped. The given module stays as it is, and is
        the result where the pass changes nothing. label: what the result is `after`."""
        before = self._text or print_module(module)
        copy, report, start = module.clone(), Report(), time.perf_counter()
        try:
            item.run(copy, report)
        except NomulError:
            raise
        except RuleCrash as crash:
            raise NomulError("NM450", f"pass '{item.name}' crashed: {crash}", crash.loc, _BUG) from crash.__cause__
        except Exception as error:
            message = f"pass '{item.name}' crashed: {type(error).__name__}: {error}"
            raise NomulError("NM450", message, help=_BUG) from error
        spent = (time.perf_counter() - start) * 1e3
        self._text = print_module(copy)
        changed = self._text != before or _other_numbers(module, copy)
        if changed:
            self._verify(copy, item, report)
        nodes = sum(len(func.nodes) for func in copy.funcs.values())
        self.records.append(PassRecord(item.name, phase, spent, nodes, changed, report))
        if not changed:
            self._dump_tables()
            return module if copy.source == module.source else copy
        if label:
            copy.after = label
            self._text = print_module(copy)
        self._dump_pass(item.name, before, copy)
        if self._checker and item.changes_ports:
            self._checker = Checker(copy)
        elif self._checker:
            self._check(self._checker, module, copy, item, report)
        return copy

    @property
    def misses(self) -> list[Miss]:
        """Closest failed matches of all rules, as the last run of each pass left them, the closest first."""
        last = {record.name: record.report for record in self.records}
        found = [miss for report in last.values() for misses in report.misses.values() for miss in misses]
        return sorted(dict.fromkeys(found), key=lambda miss: (-miss.closeness, miss.rule, miss.root))

    # -- steps -------------------------------------------------------------------------------------------------
    def _start(self, module: Module) -> None:
        verify(module)
        self._text = print_module(module)
        if self.check:
            self._checker = Checker(module)
        if self.dump:
            self.dump.write_module("00.import", module)

    def _step(self, module: Module, step: Step, phase: Phase, index: int, passed: int) -> Module:
        """One step of a phase. passed: how many passes of a first round are behind the module already."""
        labels = phase.labels[index]
        if isinstance(step, Pass):
            return self.apply(module, step, phase.name, labels[0])
        idle = 0  # passes run since the last change
        for item, label in list(zip(step.passes * step.limit, labels * step.limit, strict=True))[passed:]:
            module = self.apply(module, item, phase.name, label)
            idle = 0 if self.records[-1].changed else idle + 1
            if idle == len(step.passes):
                return module
        busy = ", ".join(record.name for record in self.records[-len(step.passes) :] if record.changed)
        message = f"passes of phase '{phase.name}' still change the module after {step.limit} rounds: {busy}"
        raise NomulError("NM453", message, help=_BUG)

    def _verify(self, module: Module, item: Pass, report: Report) -> None:
        try:
            verify(module)
        except NomulError as error:
            if self.dump:
                self.dump.write_module(f"{len(self.records) + 1:02d}.{item.name}.broken", module)
            rules = f" (rules: {', '.join(report.fired)})" if report.fired else ""
            head = Problem("NM451", f"pass '{item.name}' left an invalid module{rules}", help=_BUG)
            raise NomulError.many([head, *error.problems]) from None

    # -- check -------------------------------------------------------------------------------------------------
    def _check(self, checker: Checker, before: Module, after: Module, item: Pass, report: Report) -> None:
        try:
            note = checker.compare(after, item)
        except NomulError as error:
            if error.code == OTHER_RESULTS and self.reduce_seconds:
                raise self._with_part(before, item, error) from None
            raise
        if note:
            report.note(note)
            self._dump_tables()

    def _with_part(self, before: Module, item: Pass, error: NomulError) -> NomulError:
        """The error with the smallest part of the module that shows it."""
        part = smallest_with(before, [item], error.code, self.reduce_seconds)
        if self.dump:
            self.dump.write_module(f"{len(self.records):02d}.{item.name}.reduced", part)
        message = f"{error.message}; a small module that shows it:\n{print_module(part).rstrip()}"
        return NomulError(error.code, message, help=error.help)

    # -- dump --------------------------------------------------------------------------------------------------
    def _dump_pass(self, name: str, before: str, module: Module) -> None:
        if self.dump:
            stem = f"{len(self.records):02d}.{name}"
            self.dump.write_module(stem, module)
            self.dump.write(f"{stem}.diff", text_diff(before, self._text, name))
        self._dump_tables()

    def _dump_tables(self) -> None:
        """They are complete whatever fails next."""
        if self.dump:
            self.dump.write("index.txt", index_table(self.records))
            self.dump.write("why.txt", why_text(self.misses, self.refusals))


def _other_numbers(before: Module, after: Module) -> bool:
    """Whether weights of the same names and types hold other arrays: passes never write into those that there are."""
    return any(
        array is not before.weights[name].fields.get(field)
        for name, weight in after.weights.items()
        for field, array in weight.fields.items()
    )


def fault_of(module: Module, passes: Sequence[Pass]) -> NomulError | None:
    """What goes wrong when the passes run on a module and are checked; None where nothing does.

    A module that the interpreter cannot run, as parts of another may be, has no fault."""
    try:
        PassRunner(check=True, reduce_seconds=0).apply_all(module, passes)
    except NomulError as error:
        return error
    except UNRUNNABLE:
        return None
    return None


def smallest_with(module: Module, passes: Sequence[Pass], code: str, seconds: float = inf) -> Module:
    """The smallest part of a module on which the passes still have a fault of this code, as far as the time allows."""

    def fails(candidate: Module) -> bool:
        fault = fault_of(candidate, passes)
        return fault is not None and fault.code == code

    return reduce_module(module, fails, seconds)


_BUG = "this is a fault of nomul; --dump DIR keeps the module before it, and nomul reduce makes it small"


class Place(NamedTuple):
    """Where a module stands in a list of phases. passed: passes of that step that are behind it."""

    phase: int
    step: int = 0
    passed: int = 0


def place_behind(phases: Sequence[Phase], after: str) -> Place:
    """The place behind a phase or a pass. Raises NomulError (NM460) where there is none of that name."""
    if not after:
        return Place(0)
    for number, phase in enumerate(phases):
        if after == phase.name:
            return Place(number + 1)
        for index, labels in enumerate(phase.labels):
            if after in labels:
                if isinstance(phase.steps[index], Pass):
                    return Place(number, index + 1)
                return Place(number, index, (labels.index(after) + 1) % len(labels))
    known = [label for phase in phases for labels in phase.labels for label in labels]
    near = ", ".join(difflib.get_close_matches(after, known, 3)) or ", ".join(phase.name for phase in phases)
    message = f"the module is after '{after[:60]}', which is no phase and no pass"
    raise NomulError("NM460", message, help=f"near: {near}")


def _end(phases: Sequence[Phase], until: str | None) -> int:
    """How many phases to run."""
    names = [phase.name for phase in phases]
    if until is None:
        return len(phases)
    if until not in names:
        raise NomulError("NM455", f"there is no phase '{until}'", help=f"phases: {', '.join(names)}")
    return names.index(until) + 1


def why_text(misses: Sequence[Miss], refusals: Sequence[str]) -> str:
    """Rules that nearly fired, the closest first, and kernels that were refused."""
    lines = [f"rules that nearly fired: {len(misses)}", *map(str, misses)]
    if refusals:
        lines += ["", f"kernels that were refused: {len(refusals)}", *refusals]
    return "\n".join(lines) + "\n"


def index_table(records: Sequence[PassRecord]) -> str:
    """One line for each pass: number, phase, name, ms, nodes, whether it changed something, rules fired, notes."""
    lines = ["  #  phase      pass                        ms   nodes  changed  rules fired"]
    for number, record in enumerate(records, 1):
        fired = ", ".join(f"{rule} x{count}" for rule, count in record.report.fired.most_common())
        lines.append(
            f"{number:3d}  {record.phase:<10s} {record.name:<22s} {record.milliseconds:8.1f}  {record.nodes:6d}  "
            f"{'yes' if record.changed else '-':<7s}  {fired}".rstrip()
        )
        lines += [f"     {note}" for note in record.report.notes]
    return "\n".join(lines) + "\n"
