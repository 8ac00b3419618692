"""The kernel that serves every group on every target: the ops' definitions as loops (`backends/generic/`)."""

from __future__ import annotations

from nomul.backends.generic import driver
from nomul.backends.group import Group
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target

_DENSE = (None, "f16", "bf16")


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    encodings = {param.type.encoding for param in group.func.params}
    packed = sorted({encoding.name for encoding in encodings if encoding is not None and encoding.name not in _DENSE})
    return f"weights are encoded as {', '.join(packed)}" if packed else None


@kernel("*", accepts=refusal)
def generic(group: Group, target: Target) -> Built:
    """Right for everything, fast for little."""
    return driver.build(group, target)
