"""What both frontends share: names from source models, ranges of dims, comparisons of symbolic sizes, error codes."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping, Sequence

from nomul.ir.dim import Dim, Range
from nomul.ir.errors import NomulError

DimRequest = int | tuple[int, int]

# A dynamic axis without a range from the user. Its upper end bounds the planned memory, not what kernels can do.
DEFAULT_RANGE: Range = (1, 4096)

BAD_SOURCE = "NM200"  # not a model, corrupt, or of a version that is not known
UNSUPPORTED_OP = "NM201"  # no frontend function for an operator
UNSUPPORTED_FORM = "NM202"  # a known operator in a form (attribute, rank, dtype) that is not supported
DATA_DEPENDENT = "NM203"  # a shape that depends on data
BAD_NODE = "NM204"  # operands or attributes that do not fit together
BAD_PATH = "NM205"  # data outside the model's folder
BAD_DIM = "NM206"  # a dim request that does not fit the model


class NomulWarning(UserWarning):
    """Something about a source model that its user should know, and that does not stop the compile."""


def value_name(text: str) -> str:
    """A source name as a name of the IR: every character outside [A-Za-z0-9_.] becomes `_`."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", text)


def dim_name(text: str) -> str:
    """A source name as the name of a dim: an identifier that is no Python keyword."""
    name = re.sub(r"\W", "_", text, flags=re.ASCII)
    return f"d_{name}" if not name or name[0].isdigit() or keyword.iskeyword(name) else name


def dim_range(name: str, request: DimRequest) -> Range:
    """The range that a user asked for. Raises NomulError (NM206) for an empty or negative one."""
    low, high = (request, request) if isinstance(request, int) else request
    if not 0 <= low <= high:
        raise NomulError(BAD_DIM, f"dim {name}: the range [{low}, {high}] is empty or negative")
    return (low, high)


def affine_bounds(
    offset: Dim, shape: Sequence[Dim], steps: Sequence[Dim], ranges: Mapping[str, Range]
) -> tuple[float, float]:
    """An enclosure of offset + sum of steps[k] * i[k] over all indices i of a shape."""
    low: float
    high: float
    low, high = offset.bounds(ranges)
    for size, step in zip(shape, steps, strict=True):
        reach = ((size - 1) * step).bounds(ranges)
        low, high = low + min(reach[0], 0), high + max(reach[1], 0)
    return low, high


def at_most(left: Dim, right: Dim, ranges: Mapping[str, Range]) -> bool | None:
    """left <= right for all values, for none, or (None) for some."""
    low, high = (right - left).bounds(ranges)
    return True if low >= 0 else False if high < 0 else None


def equal(left: Dim, right: Dim, ranges: Mapping[str, Range]) -> bool | None:
    """left == right for all values, for none, or (None) for some."""
    if left == right:
        return True
    low, high = (right - left).bounds(ranges)
    return False if low > 0 or high < 0 else None


def clamp(size: Dim, low: Dim, high: Dim, ranges: Mapping[str, Range]) -> Dim | None:
    """min(max(size, low), high) where the ranges decide it, else None."""
    for bound, above in ((low, at_most(low, size, ranges)), (high, at_most(size, high, ranges))):
        if above is None:
            return None
        if not above:
            return bound
    return size
