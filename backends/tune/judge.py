"""From measured times to a choice: the kernel with the least time, sizes counting alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, log

from nomul.backends.select import Preference
from nomul.backends.tune.results import Timing

MARGIN = 1.03  # so many times quicker than the kernel that ranks chose, another must be: less is noise


def judge(times: Timing, favourite: str, sizes: Sequence[Mapping[str, int]]) -> Preference:
    """times: microseconds at each of `sizes` by kernel, None for one that cannot serve.  favourite: by ranks.

    Kernels are compared by the geometric mean over the sizes."""
    scores = {name: sum(map(log, found)) / len(found) for name, found in times.items() if found}
    best = min(scores, key=lambda name: (scores[name], name))
    if scores[favourite] - scores[best] < log(MARGIN):
        best = favourite
    order = [best, *sorted(scores.keys() - {best}, key=lambda name: (scores[name], name))]
    reasons = [(name, _reason(times, name, best, exp(scores[name] - scores[best]), sizes)) for name in order[1:]]
    return Preference(tuple(order), tuple(reasons))


def _reason(times: Timing, name: str, best: str, ratio: float, sizes: Sequence[Mapping[str, int]]) -> str:
    mine, other = times[name], times[best]
    assert mine and other
    shown = []
    for at, slow, quick in zip(sizes, mine, other, strict=True):
        where = " ".join(f"{dim}={size}" for dim, size in at.items())
        shown.append(f"{where}{': ' if where else ''}{slow:g} against {quick:g} us")
    return f"measured, takes {ratio:.2f} times as long as {best} ({'; '.join(shown)})"
