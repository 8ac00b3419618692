"""Trees of element-wise nodes and views: one pass over the result, each element computed from reads of the parameters.

Views cost nothing but strides: axes that all operands run through alike become one loop, the innermost loop runs a
vector at a time, and what does not change along it is computed before it.
"""

from __future__ import annotations

from nomul.backends.group import Group
from nomul.backends.kernels import boxes
from nomul.backends.kernels.terms import no_heavy_node
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target


def _boxes(group: Group) -> list[boxes.Box]:
    return [boxes.Box.whole(group, no_heavy_node)]


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    return boxes.refusal(group, 0, _boxes)


@kernel("", accepts=refusal, rank=20)
def tree(group: Group, target: Target) -> Built:
    """Tiles of about 4096 elements."""
    return boxes.build(group, target, _boxes(group))
