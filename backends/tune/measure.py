"""Compiles kernels into a library of their own and times them in turns, so that a busy neighbour disturbs all alike."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nomul.backends.lower import lower_to_object
from nomul.backends.select import Choice
from nomul.backends.target import Target, find_target
from nomul.backends.tune.harness import harness_text
from nomul.backends.tune.operands import Operands
from nomul.backends.tune.rivals import Contest
from nomul.backends.zig import compile_source, zig, zig_target

ROUNDS = 7  # the least time of so many turns counts
TURN = 2e-3  # seconds of one turn, where a call takes less
FAIR = 3  # turns that every kernel gets, since a busy machine may spoil one
HOPELESS = 4  # a kernel that takes so many times as long as another one gets no more than those

Call = Callable[..., float]


def measure(contests: Sequence[Contest], model_bytes: int) -> list[dict[str, list[float] | None]]:
    """Microseconds of one call at each size, by kernel; None for one with which no other level agrees.

    model_bytes: of all weights; so much passes through the caches between two uses of a weight."""
    entrants = [_Entrant(c, name, choice) for c in contests for name, choice in c.choices().items()]
    results: list[dict[str, list[float] | None]] = [{} for _ in contests]
    with _library(entrants) as library:
        for number, contest in enumerate(contests):
            mine = [(i, entrant) for i, entrant in enumerate(entrants) if entrant.contest is contest]
            times = [_times(library, mine, at, model_bytes) for at in contest.sizes]
            measured = {e.name: [round(t[e.name] * 1e6, 3) for t in times] for _, e in mine}
            results[number] = {name: measured.get(name) for name in contest.names}
    return results


@dataclass(frozen=True)
class _Entrant:
    contest: Contest
    name: str
    choice: Choice


@contextmanager
def _library(entrants: Sequence[_Entrant]) -> Iterator[Call]:
    """The harness's function in a library of all kernels."""
    triple = find_target("host")[0].zig
    functions: dict[Target, dict[str, Any]] = {}
    for number, entrant in enumerate(entrants):
        functions.setdefault(entrant.choice.code[0], {})[f"k{number}"] = entrant.choice.built[0].function
    with TemporaryDirectory(prefix="nomul-") as name:
        folder = Path(name)
        objects = []
        for target, named in functions.items():
            objects.append(f"kernels_{target.level}.o")
            (folder / objects[-1]).write_bytes(lower_to_object(named, target))
        signatures = [_signature(entrant.choice) for entrant in entrants]
        (folder / "harness.c").write_text(harness_text(signatures))
        objects.append(compile_source("harness.c", triple, ("-O2",), folder))
        zig(["cc", *zig_target(triple), "-shared", *objects, "-o", "kernels.so"], folder)
        call = ctypes.CDLL(str(folder / "kernels.so")).nm_measure
        call.restype = ctypes.c_double
        yield call


def _signature(choice: Choice) -> tuple[int, int]:
    """How many pointers and dims a kernel takes."""
    dims = len(choice.group.dims)
    return len(choice.built[0].function.params) - dims - 3, dims


def _times(
    library: Call, entrants: Sequence[tuple[int, _Entrant]], at: Mapping[str, int], model_bytes: int
) -> dict[str, float]:
    """Seconds of one call of each kernel."""
    runs = {e.name: _Run(library, number, e, at, model_bytes) for number, e in entrants}
    for run in runs.values():
        run(1)  # memory is there only after its first use
    least = {name: run(1) for name, run in runs.items()}
    for turn in range(ROUNDS):
        limit = HOPELESS * min(least.values())
        for name, run in runs.items():
            if turn < FAIR or least[name] <= limit:
                calls = max(1, int(TURN / max(least[name], 1e-7)))
                least[name] = min(least[name], run(calls))
    return least


class _Run:
    """One kernel at some sizes."""

    def __init__(self, library: Call, number: int, entrant: _Entrant, at: Mapping[str, int], model_bytes: int) -> None:
        choice, weights = entrant.choice, entrant.contest.weights
        self._library, self._number = library, number
        self._operands = Operands(choice.group, choice.built[0], weights, at, model_bytes)
        self._dims = (ctypes.c_int64 * max(1, len(at)))(*(at[name] for name in choice.group.dims))
        self._tiles = choice.built[0].tiles.evaluate(at)
        self._done = 0

    def __call__(self, calls: int) -> float:
        """Seconds of one of `calls` calls."""
        operands = self._operands
        done, self._done = self._done, self._done + calls
        head = (ctypes.c_int32(self._number), operands.pointers, ctypes.c_int32(operands.count))
        sets = (ctypes.c_int32(operands.sets), ctypes.c_int32(done % operands.sets), ctypes.c_int32(calls))
        work = (self._dims, ctypes.c_int64(self._tiles), ctypes.c_void_p(operands.scratch))
        return float(self._library(*head, *sets, *work)) / calls
