"""Runs passes over a module: clone, apply, verify, time, compare, check, dump. A failing pass loses nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nomul.ir.errors import NomulError, Problem
from nomul.ir.graph import Module
from nomul.ir.text import print_module
from nomul.ir.verifier import verify
from nomul.passes.base import Miss, Pass, Report, RuleCrash
from nomul.passes.checking import Checker
from nomul.passes.dump import Dump, text_diff

Progress = Callable[[str, float], None]


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
    """check: compare with the interpreter after each pass.  progress: called with the phase and the done share."""

    dump: Dump | None = None
    check: bool = False
    progress: Progress | None = None
    records: list[PassRecord] = field(default_factory=list)
    _checker: Checker | None = None
    _text: str = ""

    def run(self, module: Module, phases: Sequence[Phase], until: str | None = None) -> Module:
        """The module after all phases up to `until`; the given module stays as it is.

        Raises NomulError: NM450 a pass crashed, NM451 it left an invalid module, NM452 the check found other results,
        NM453 passes that do not settle, NM455 unknown phase."""
        phases = _upto(phases, until)
        verify(module)
        self._text = print_module(module)
        if self.check:
            self._checker = Checker(module)
        if self.dump:
            self.dump.write("00.import.nir", self._text)
        for number, phase in enumerate(phases):
            if self.progress:
                self.progress(phase.name, number / len(phases))
            for step in phase.steps:
                module = self._step(module, step, phase.name)
        return module

    def apply(self, module: Module, item: Pass, phase: str = "opt") -> Module:
        """The module after one pass, verified, checked, recorded and dumped. The given module stays as it is, and is
        the result where the pass changes nothing."""
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
        changed = self._text != before
        if not changed:
            copy = module
        else:
            self._verify(copy, item, report)
        nodes = sum(len(func.nodes) for func in copy.funcs.values())
        self.records.append(PassRecord(item.name, phase, spent, nodes, changed, report))
        self._dump_pass(item.name, before if changed else None)
        if changed and self._checker:
            self._checker.compare(copy, item)
        return copy

    @property
    def misses(self) -> list[Miss]:
        """Closest failed matches of all rules, as the last run of each pass left them, the closest first."""
        last = {record.name: record.report for record in self.records}
        found = [miss for report in last.values() for misses in report.misses.values() for miss in misses]
        return sorted(dict.fromkeys(found), key=lambda miss: (-miss.closeness, miss.rule, miss.root))

    # -- steps -------------------------------------------------------------------------------------------------
    def _step(self, module: Module, step: Step, phase: str) -> Module:
        if isinstance(step, Pass):
            return self.apply(module, step, phase)
        idle = 0  # passes run since the last change
        for item in step.passes * step.limit:
            module = self.apply(module, item, phase)
            idle = 0 if self.records[-1].changed else idle + 1
            if idle == len(step.passes):
                return module
        busy = ", ".join(record.name for record in self.records[-len(step.passes) :] if record.changed)
        message = f"passes of phase '{phase}' still change the module after {step.limit} rounds: {busy}"
        raise NomulError("NM453", message, help=_BUG)

    def _verify(self, module: Module, item: Pass, report: Report) -> None:
        try:
            verify(module)
        except NomulError as error:
            if self.dump:
                self.dump.write(f"{len(self.records) + 1:02d}.{item.name}.broken.nir", print_module(module))
            rules = f" (rules: {', '.join(report.fired)})" if report.fired else ""
            head = Problem("NM451", f"pass '{item.name}' left an invalid module{rules}", help=_BUG)
            raise NomulError.many([head, *error.problems]) from None

    # -- dump --------------------------------------------------------------------------------------------------
    def _dump_pass(self, name: str, before: str | None) -> None:
        """The module where it changed, and both tables: they are complete whatever fails next."""
        if self.dump is None:
            return
        if before is not None:
            stem = f"{len(self.records):02d}.{name}"
            self.dump.write(f"{stem}.nir", self._text)
            self.dump.write(f"{stem}.diff", text_diff(before, self._text, name))
        self.dump.write("index.txt", index_table(self.records))
        self.dump.write("why.txt", "".join(f"{miss}\n" for miss in self.misses))


_BUG = "this is a fault of nomul; --dump DIR keeps the module before it"


def _upto(phases: Sequence[Phase], until: str | None) -> list[Phase]:
    names = [phase.name for phase in phases]
    if until is None:
        return list(phases)
    if until not in names:
        raise NomulError("NM455", f"there is no phase '{until}'", help=f"phases: {', '.join(names)}")
    return list(phases[: names.index(until) + 1])


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
