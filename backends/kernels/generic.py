"""The kernel that serves every group on every target: the ops' definitions as loops (`backends/generic/`)."""

from __future__ import annotations

from nomul.backends.generic import driver
from nomul.backends.group import Group
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target


@kernel("*")
def generic(group: Group, target: Target) -> Built:
    """Right for everything, fast for little."""
    return driver.build(group, target)
