"""64-bit ARM as all systems share it: levels, features, CPUs. The targets `aarch64_*.py` put it on a system.

Names of features are those of Linux and of compilers' `-march` (`fp16`), not LLVM's attributes (`fullfp16`).
"""

from __future__ import annotations

from dataclasses import dataclass

from nomul.backends.target import Target

# A64 with Advanced SIMD is what every machine has. Cores with dot products (Armv8.2: Cortex-A55, A75 and newer) have
# half-float arithmetic as well, those with int8 matrix products (Armv8.6: Cortex-A510, A710, Neoverse V1 and newer)
# also bfloat16; so there are three levels, though the features are options of their own.
NEON = frozenset({"neon"})
DOTPROD = NEON | {"dotprod", "fp16"}
I8MM = DOTPROD | {"i8mm", "bf16"}

EXTENSIONS = {"dotprod": "neon", "fp16": "neon", "i8mm": "neon", "bf16": "neon"}
ATTRIBUTES = {"fp16": "fullfp16"}

# What LLVM switches on with the name of a CPU and the run-time check does not look for: code must not come to need it.
_UNCHECKED = (
    *("aes", "sha2", "crc", "lse", "rdm", "rcpc", "complxnum", "jsconv", "flagm", "fp16fml", "rand"),
    *("sve", "sme"),
)


@dataclass(frozen=True)
class System:
    """An operating system on this architecture. triple: LLVM's; zig, musl: see Target."""

    os: str
    triple: str
    zig: str
    musl: str = ""

    @property
    def family(self) -> str:
        return f"aarch64-{self.os}"

    def target(self, suffix: str, level: str, features: frozenset[str], what: str, cpu: str = "generic") -> Target:
        """A target of this system. suffix: of the name, behind a plus; cpu: LLVM's name of the one to tune for."""
        wanted = [f"+{ATTRIBUTES.get(name, name)}" for name in sorted(features)]
        unwanted = [f"-{name}" for name in _UNCHECKED] if cpu != "generic" else []
        return Target(
            name=f"{self.family}+{suffix}",
            level=level,
            arch="aarch64",
            os=self.os,
            features=features,
            triple=self.triple,
            cpu=cpu,
            zig=self.zig,
            musl=self.musl,
            attributes=(*unwanted, *wanted),
            registers=32,
            description=what,
        )

    def levels(self) -> tuple[Target, ...]:
        """The levels of a family that runs on every core, best first."""
        of = f"64-bit ARM {self.os.capitalize()}"
        return (
            self.target("bf16+dotprod+fp16+i8mm", "i8mm", I8MM, f"{of} with int8 matrix products and bfloat16"),
            self.target("dotprod+fp16", "dotprod", DOTPROD, f"{of} with int8 dot products and half floats"),
            self.target("neon", "neon", NEON, f"{of}, any core"),
        )

    def cpu(self, name: str, features: frozenset[str], what: str) -> Target:
        """A target tuned for one CPU."""
        return self.target(name, name.replace("-", "_"), features, what, cpu=name)
