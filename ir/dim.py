"""Symbolic sizes: integer polynomials over named dims and floor divisions, in one canonical form.

`2*S + 1`, `B*S` and `(W + 1)//2` are dims. Two dims are equal exactly when their canonical forms are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import gcd, inf

Range = tuple[int, int | float]
DimLike = "Dim | int | str"


@dataclass(frozen=True, order=True)
class Quotient:
    """The atom `numerator // divisor` (floor), where the canonical form could not divide exactly."""

    numerator: Dim
    divisor: int

    def __str__(self) -> str:
        return f"({self.numerator})//{self.divisor}"


Atom = str | Quotient
Monomial = tuple[Atom, ...]


def _atom_key(atom: Atom) -> tuple[int, str]:
    return (0, atom) if isinstance(atom, str) else (1, str(atom))


def _monomial_key(monomial: Monomial) -> tuple[int, tuple[tuple[int, str], ...]]:
    return (-len(monomial), tuple(_atom_key(atom) for atom in monomial))


class Dim:
    """An immutable integer polynomial. Build one with `Dim.of(3)`, `Dim.of("S")`, arithmetic, or `parse_dim`."""

    __slots__ = ("__dict__", "terms")
    terms: tuple[tuple[Monomial, int], ...]

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        kept = ((monomial, factor) for monomial, factor in terms.items() if factor)
        self.terms = tuple(sorted(kept, key=lambda term: _monomial_key(term[0])))

    @staticmethod
    def of(value: Dim | int | str) -> Dim:
        """An int becomes a constant, a str a named dim."""
        if isinstance(value, Dim):
            return value
        if isinstance(value, str):
            return Dim({(value,): 1})
        return Dim({(): int(value)})

    # -- queries -----------------------------------------------------------------------------------------------
    @cached_property
    def _hash(self) -> int:
        return hash(self.terms)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int | str):
            other = Dim.of(other)
        return isinstance(other, Dim) and self.terms == other.terms

    def __lt__(self, other: Dim) -> bool:
        return str(self) < str(other)

    @property
    def is_constant(self) -> bool:
        return all(not monomial for monomial, _ in self.terms)

    def __int__(self) -> int:
        if not self.is_constant:
            raise TypeError(f"dim {self} is not a constant")
        return self.terms[0][1] if self.terms else 0

    @property
    def value(self) -> int | None:
        """The constant, or None for a symbolic dim."""
        return int(self) if self.is_constant else None

    def names(self) -> frozenset[str]:
        """All named dims that this one depends on."""
        return frozenset(self._names())

    def _names(self) -> Iterator[str]:
        for monomial, _ in self.terms:
            for atom in monomial:
                if isinstance(atom, str):
                    yield atom
                else:
                    yield from atom.numerator._names()

    def evaluate(self, values: Mapping[str, int]) -> int:
        """The size for given dim values. Raises KeyError for a name without a value."""
        total = 0
        for monomial, factor in self.terms:
            for atom in monomial:
                factor *= values[atom] if isinstance(atom, str) else atom.numerator.evaluate(values) // atom.divisor
            total += factor
        return total

    def substitute(self, values: Mapping[str, Dim | int]) -> Dim:
        """Replace named dims by other dims."""
        if not self.names() & values.keys():
            return self
        total = Dim.of(0)
        for monomial, factor in self.terms:
            term = Dim.of(factor)
            for atom in monomial:
                if isinstance(atom, str):
                    term = term * Dim.of(values.get(atom, Dim.of(atom)))
                else:
                    term = term * (atom.numerator.substitute(values) // atom.divisor)
            total = total + term
        return total

    def bounds(self, ranges: Mapping[str, Range]) -> Range:
        """A (lower, upper) enclosure, exact for a polynomial with positive factors; no range means [0, inf]."""
        low: float = 0
        high: float = 0
        for monomial, factor in self.terms:
            term_low: float = 1
            term_high: float = 1
            for atom in monomial:
                atom_low, atom_high = _atom_bounds(atom, ranges)
                corners = [_product(a, b) for a in (term_low, term_high) for b in (atom_low, atom_high)]
                term_low, term_high = min(corners), max(corners)
            ends = sorted((_product(term_low, factor), _product(term_high, factor)))
            low, high = low + ends[0], high + ends[1]
        return (low if low == -inf else int(low), high if high == inf else int(high))  # type: ignore[return-value]

    # -- arithmetic --------------------------------------------------------------------------------------------
    def __add__(self, other: Dim | int) -> Dim:
        terms = dict(self.terms)
        for monomial, factor in Dim.of(other).terms:
            terms[monomial] = terms.get(monomial, 0) + factor
        return Dim(terms)

    def __neg__(self) -> Dim:
        return Dim({monomial: -factor for monomial, factor in self.terms})

    def __sub__(self, other: Dim | int) -> Dim:
        return self + (-Dim.of(other))

    def __mul__(self, other: Dim | int) -> Dim:
        terms: dict[Monomial, int] = {}
        for left, left_factor in self.terms:
            for right, right_factor in Dim.of(other).terms:
                monomial = tuple(sorted(left + right, key=_atom_key))
                terms[monomial] = terms.get(monomial, 0) + left_factor * right_factor
        return Dim(terms)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: int) -> Dim:
        return Dim.of(other) - self

    def __floordiv__(self, divisor: Dim | int) -> Dim:
        """Floor division by a positive integer, or exact division by a dim (ValueError where it is not exact)."""
        divisor = Dim.of(divisor)
        if not divisor.is_constant:
            return self.divide_exactly(divisor)
        number = int(divisor)
        if number <= 0:
            raise ValueError(f"cannot divide {self} by {number}")
        whole = Dim({monomial: factor // number for monomial, factor in self.terms})
        rest = Dim({monomial: factor % number for monomial, factor in self.terms})
        return whole if rest.is_constant else whole + _quotient(rest, number)

    def __mod__(self, divisor: int) -> Dim:
        return self - (self // divisor) * divisor

    def divide_exactly(self, divisor: Dim) -> Dim:
        """The q with q * divisor == self. Raises ValueError where there is none in this form."""
        quotient, rest = Dim.of(0), self
        lead, lead_factor = divisor.terms[0] if divisor.terms else ((), 0)
        while rest.terms and lead_factor:
            monomial, factor = rest.terms[0]
            remaining = list(monomial)
            if factor % lead_factor or any(remaining.count(atom) < lead.count(atom) for atom in lead):
                break
            for atom in lead:
                remaining.remove(atom)
            step = Dim({tuple(remaining): factor // lead_factor})
            quotient, rest = quotient + step, rest - step * divisor
        if rest.terms or not lead_factor:
            raise ValueError(f"{self} is not a multiple of {divisor}")
        return quotient

    def divides(self, dim: Dim) -> bool:
        """Whether `dim` is a multiple of this in its form."""
        try:
            dim.divide_exactly(self)
        except ValueError:
            return False
        return True

    # -- text --------------------------------------------------------------------------------------------------
    def __str__(self) -> str:
        return self.render(str)

    def __repr__(self) -> str:
        return f"Dim({self})"

    def render(self, atom_text: Callable[[Atom], str]) -> str:
        """The polynomial as text, with `atom_text` for names and quotients."""
        if not self.terms:
            return "0"
        parts: list[str] = []
        for monomial, factor in self.terms:
            alone = len(monomial) == 1 and factor == 1  # elsewhere a product or sign would take a part of the quotient
            names = [atom_text(atom) if alone or isinstance(atom, str) else f"({atom_text(atom)})" for atom in monomial]
            size = [str(abs(factor))] if abs(factor) != 1 or not names else []
            sign = "-" if factor < 0 else "+"
            parts += [sign, "*".join(size + names)]
        first = parts[1] if parts[0] == "+" else f"-{parts[1]}"
        return " ".join([first, *parts[2:]])


def _product(left: float, right: float) -> float:
    return 0 if left == 0 or right == 0 else left * right


def _atom_bounds(atom: Atom, ranges: Mapping[str, Range]) -> Range:
    if isinstance(atom, str):
        return ranges.get(atom, (0, inf))
    low, high = atom.numerator.bounds(ranges)
    return (low // atom.divisor, high if high == inf else high // atom.divisor)


def _quotient(rest: Dim, divisor: int) -> Dim:
    """floor(rest / divisor) for factors in [0, divisor)."""
    common = gcd(divisor, *(factor for monomial, factor in rest.terms if monomial))
    if common > 1:  # floor((c*a + r) / (c*d)) == floor((a + floor(r/c)) / d)
        return Dim({monomial: factor // common for monomial, factor in rest.terms}) // (divisor // common)
    (monomial, factor), offset = rest.terms[0], rest - Dim(dict(rest.terms[:1]))
    if offset.is_constant and factor == 1 and len(monomial) == 1 and isinstance(monomial[0], Quotient):
        inner = monomial[0]  # (a // b + k) // c == (a + k*b) // (b*c)
        return (inner.numerator + offset * inner.divisor) // (inner.divisor * divisor)
    return Dim({(Quotient(rest, divisor),): 1})


def product(dims: Iterator[Dim] | tuple[Dim, ...] | list[Dim]) -> Dim:
    """The product of dims; 1 for none."""
    total = Dim.of(1)
    for dim in dims:
        total = total * dim
    return total


def ceil_div(dim: Dim | int, divisor: int) -> Dim:
    """ceil(dim / divisor)."""
    return (Dim.of(dim) + (divisor - 1)) // divisor
