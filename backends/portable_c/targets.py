"""Targets of portable C: which compiler builds it, with which flags. Kernels are the same for all of them."""

from __future__ import annotations

from dataclasses import dataclass

from nomul.backends.target import Target, unknown
from nomul.ir.errors import NomulError

# For kernel selection: no machine that LLVM knows, no vectors, no CPU features.
PORTABLE = Target(
    name="c", level="c", arch="c", os="any", features=frozenset(), triple="", cpu="", zig="", vector_bytes=0
)


@dataclass(frozen=True)
class CTarget:
    """tools: what the names of compiler, archiver and size report begin with.  cpu: flags that choose the processor."""

    name: str
    description: str
    tools: str = ""
    cpu: str = ""

    @property
    def compiler(self) -> str:
        return f"{self.tools}gcc" if self.tools else "cc"


_ALL = (
    CTarget("c", "portable C for any C11 compiler (--emit c)"),
    CTarget(
        "cortex-m7",
        "portable C for Arm Cortex-M7 with a double precision FPU (--emit c)",
        "arm-none-eabi-",
        "-mcpu=cortex-m7 -mthumb -mfpu=fpv5-d16 -mfloat-abi=hard",
    ),
    CTarget(
        "cortex-m55",
        "portable C for Arm Cortex-M55 (--emit c)",
        "arm-none-eabi-",
        "-mcpu=cortex-m55 -mthumb -mfloat-abi=hard",
    ),
)
C_TARGETS = {target.name: target for target in _ALL}


def find_c_target(names: tuple[str, ...]) -> CTarget:
    """The target that names ask for; `host` and none stand for any C11 compiler. Raises NomulError (NM402)."""
    wanted = dict.fromkeys("c" if name == "host" else name for name in names) or {"c": None}
    for name in wanted:
        if name not in C_TARGETS:
            raise unknown(f"'{name}' is no target of portable C", name, list(C_TARGETS))
    if len(wanted) > 1:
        message = f"sources are for one target, not for {' and '.join(wanted)}"
        raise NomulError("NM403", message, help="compile once for each")
    return C_TARGETS[next(iter(wanted))]
