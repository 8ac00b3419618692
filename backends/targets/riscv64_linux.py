"""64-bit RISC-V Linux, RV64GC: no vectors."""

from __future__ import annotations

import platform

from nomul.backends.target import Family, Target

_LEVEL = Target(
    name="riscv64-linux",
    level="rv64gc",
    arch="riscv64",
    os="linux",
    features=frozenset(),
    triple="riscv64-unknown-linux-gnu",
    cpu="generic-rv64",
    zig="riscv64-linux-gnu.2.27",
    musl="riscv64-linux-musl",
    attributes=("+m", "+a", "+f", "+d", "+c"),
    registers=32,
    description="64-bit RISC-V Linux: RV64GC, no vectors",
)


def _host() -> tuple[Target, ...]:
    return (_LEVEL,) if platform.system() == "Linux" and platform.machine() == "riscv64" else ()


FAMILY = Family(name=_LEVEL.name, levels=(_LEVEL,), extensions={}, aliases={}, host=_host)
