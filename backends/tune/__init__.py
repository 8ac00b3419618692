"""`--tune`: measures the kernels that can serve a group where several can, and keeps the times in a file.

Measured is the best level, on one thread, with the weights of the model and drawn inputs, at a few sizes of the dims.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nomul.backends.select import Choice, Preference, Selection
from nomul.backends.target import Target, find_target
from nomul.backends.tune.code import code_version
from nomul.backends.tune.cpu import cpu_name
from nomul.backends.tune.judge import judge
from nomul.backends.tune.measure import measure
from nomul.backends.tune.results import Results, Timing
from nomul.backends.tune.rivals import Contest, rival_names
from nomul.ir.errors import NomulError
from nomul.ir.graph import Module, Weight

Sizes = Mapping[str, int]


def tune(
    module: Module, selection: Selection, sizes: Sequence[Sizes], file: Path, version: str
) -> dict[str, Preference]:
    """By the key of its group, which kernel is quickest; only for groups that several kernels can serve.

    module: whose calls `selection` serves.  sizes: of all its dims.  file: holds times that were measured before, and
    gets those that are measured now.  version: of nomul; times of another one, or of other
    sources of kernels, do not count.
    Raises NomulError: NM406 for a damaged file, NM407 where this machine does not run the best level."""
    best = selection.levels[0]
    _check_host(best)
    results = Results.read(file, cpu_name(), best.level, f"{version}, kernels {code_version()}")
    contests = [Contest.of(choice, weights, sizes) for choice, weights in _with_weights(module, selection)]
    contests = [contest for contest in contests if len(contest.names) > 1]
    missing = [contest for contest in contests if results.find(contest) is None]
    if missing:
        stored = sum(array.nbytes for weight in module.weights.values() for array in weight.fields.values())
        for contest, times in zip(missing, measure(missing, stored), strict=True):
            results.add(contest, times)
        results.write()
    return {contest.group.key: _judged(contest, results.find(contest)) for contest in contests}


def _judged(contest: Contest, timing: Timing | None) -> Preference:
    assert timing is not None
    return judge(timing, contest.static.kernels[0].name, contest.sizes)


def _check_host(best: Target) -> None:
    host = find_target("host")
    known = frozenset().union(*(level.features for level in host))
    if (best.arch, best.os) != (host[0].arch, host[0].os) or not best.features <= known:
        message = f"kernels for {best.name} cannot be measured on this machine"
        raise NomulError("NM407", message, help=f"it runs {', '.join(t.name for t in host)}; compile without --tune")


def _with_weights(module: Module, selection: Selection) -> list[tuple[Choice, dict[int, Weight]]]:
    """Each choice that several kernels might serve, with the weights of its first call by position."""
    found: dict[int, tuple[Choice, dict[int, Weight]]] = {}
    for node in module.main.nodes:
        choice = selection.choices.get(node.attrs.get("func", ""))
        if choice is not None and id(choice) not in found and len(rival_names(choice)) > 1:
            weights = {position: arg for position, arg in enumerate(node.args) if isinstance(arg, Weight)}
            found[id(choice)] = choice, weights
    return list(found.values())
