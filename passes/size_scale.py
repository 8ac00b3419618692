"""Scalars that are a number times powers of sizes, such as the square root of 0.125 / S."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from nomul.ir.dim import Dim
from nomul.ir.graph import Value
from nomul.passes.graph_tools import number

Powers = tuple[tuple[Dim, Fraction], ...]  # sizes, each to a power other than 0, no size twice

_POWERS = {"ew.sqrt": 0.5, "ew.rsqrt": -0.5, "ew.reciprocal": -1.0}
_OTHERS = ("ew.cast", "ew.pow", "ew.mul", "ew.div")


@dataclass(frozen=True)
class SizeScale:
    """number * product of all size ** power."""

    number: float
    powers: Powers = ()

    def raised(self, power: float) -> SizeScale | None:
        """None where that is no real number or no simple fraction."""
        exact = Fraction(power).limit_denominator(8)
        is_real = self.number > 0 or (self.number < 0 and exact.denominator == 1)
        if float(exact) != power or not is_real:
            return None
        return SizeScale(self.number**power, tuple((size, times * exact) for size, times in self.powers if exact))


def multiplied_powers(left: Powers, right: Powers) -> Powers:
    total = dict(left)
    for size, times in right:
        total[size] = total.get(size, Fraction(0)) + times
    return tuple((size, times) for size, times in total.items() if times)


def inverse_powers(powers: Powers) -> Powers:
    return tuple((size, -times) for size, times in powers)


def size_scale(value: Value | None) -> SizeScale | None:
    """What a literal, or a scalar computed of sizes, is; None for another value."""
    given = number(value)
    if given is not None:
        return SizeScale(given)
    node = value.producer if value is not None and value.type.rank == 0 else None
    if node is None:
        return None
    if node.op == "make.size":
        return SizeScale(1.0, ((node.attrs["size"], Fraction(1)),))
    if not node.result.dtype.is_float:
        return None
    parts = [size_scale(arg) for arg in node.args] if node.op in (*_POWERS, *_OTHERS) else []
    if not parts or any(part is None for part in parts):
        return None
    first, second = parts[0], parts[-1]
    assert first is not None and second is not None
    if node.op in _POWERS:
        return first.raised(_POWERS[node.op])
    if node.op == "ew.pow":
        return None if second.powers else first.raised(second.number)
    if node.op == "ew.cast":
        return first
    inverse = second.raised(-1) if node.op == "ew.div" else second
    if inverse is None:
        return None
    return SizeScale(first.number * inverse.number, multiplied_powers(first.powers, inverse.powers))
