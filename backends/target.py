"""Targets: what machine the code is for. One file each in `backends/targets/`; a name is `ARCH-OS[+feature...]` or an alias."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Target:
    """One instruction-set level of one machine family.

    name: canonical (`x86_64-linux+avx2+fma`).  level: short name, a C identifier, the suffix of kernel symbols.
    features: names that kernels' `needs` and the runtime's CPU check use.  triple, cpu, attributes: for LLVM.
    zig: for linking.  vector_bytes: width of a vector register.  description: one line for `nomul list targets`."""

    name: str
    level: str
    arch: str
    os: str
    features: frozenset[str]
    triple: str
    cpu: str
    zig: str
    attributes: tuple[str, ...] = ()
    vector_bytes: int = 16
    registers: int = 16
    description: str = field(default="", compare=False)
