"""What is known of the variables of a function while it is printed again and again until nothing new turns up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from nomul.backends.emit import Same
from nomul.backends.portable_c.intervals import Interval, full

_PATIENCE = 3  # times that an interval may grow before it becomes everything that its type holds


class Facts:
    """intervals: what integers can be.  reads: variables read in this pass.  stores: how often each is written."""

    def __init__(self) -> None:
        self.intervals: dict[Same, Interval] = {}
        self.reads: set[Same] = set()
        self.stores: Counter[Same] = Counter()
        self._alive: set[Same] | None = None
        self._earlier: Counter[Same] = Counter()
        self._growths: Counter[Same] = Counter()
        self._grown = False

    def settle(self, write: Callable[[], str]) -> str:
        """The text of `write` when it tells nothing new. Intervals only grow, so this ends (Kildall 1973)."""
        text = self._run(write)
        while self._grown:
            text = self._run(write)
        while self._alive != self.reads:  # a variable that is only written is not printed, which may orphan others
            self._alive = self.reads
            text = self._run(write)
        return text

    def _run(self, write: Callable[[], str]) -> str:
        self._earlier = self.stores
        self.reads, self.stores, self._grown = set(), Counter(), False
        return write()

    def is_alive(self, key: Same) -> bool:
        """Whether the variable is read anywhere."""
        return self._alive is None or key in self._alive

    def is_constant(self, key: Same) -> bool:
        """Whether there is one store to the variable."""
        return self._earlier[key] == 1

    def is_written(self, key: Same) -> bool:
        """Whether there is a store to the variable."""
        return self._earlier[key] > 0

    def interval(self, key: Same, dtype: str) -> Interval:
        return self.intervals.get(key, full(dtype))

    def may_be(self, key: Same, interval: Interval, dtype: str) -> None:
        """The variable may have a value of the interval."""
        old = self.intervals.get(key)
        new = interval if old is None else old.union(interval)
        if new == old:
            return
        self._growths[key] += 1
        self._grown = True
        self.intervals[key] = full(dtype) if self._growths[key] > _PATIENCE else new
