"""64-bit ARM Linux: levels for any core, with dot products, with int8 matrix products; boards by name."""

from __future__ import annotations

import platform
from pathlib import Path

from nomul.backends.aarch64 import ATTRIBUTES, DOTPROD, EXTENSIONS, I8MM, NEON, System
from nomul.backends.target import Alias, Family, Target

_SYSTEM = System("linux", "aarch64-unknown-linux-gnu", "aarch64-linux-gnu.2.17", "aarch64-linux-musl")
_LEVELS = _SYSTEM.levels()
_CPUS = (
    _SYSTEM.cpu("cortex-a53", NEON, "Cortex-A53: Raspberry Pi 3, many small boards and phones"),
    _SYSTEM.cpu("cortex-a72", NEON, "Cortex-A72: Raspberry Pi 4, RK3399, NXP LX2160A"),
    _SYSTEM.cpu("cortex-a76", DOTPROD, "Cortex-A76: Raspberry Pi 5, RK3588"),
    _SYSTEM.cpu("cortex-a78ae", DOTPROD, "Cortex-A78AE: NVIDIA Jetson Orin"),
    _SYSTEM.cpu("neoverse-v1", I8MM, "Neoverse V1: AWS Graviton3"),
)

# Names in /proc/cpuinfo.
_CPUINFO = {"asimd": "neon", "asimddp": "dotprod", "asimdhp": "fp16", "i8mm": "i8mm", "bf16": "bf16"}


def cpu_features(cpuinfo: str) -> frozenset[str]:
    """Our names of the features in the text of /proc/cpuinfo."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "Features":
            return frozenset(_CPUINFO[name] for name in value.split() if name in _CPUINFO)
    return frozenset()


def _host() -> tuple[Target, ...]:
    if platform.system() != "Linux" or platform.machine() != "aarch64":
        return ()
    present = cpu_features(Path("/proc/cpuinfo").read_text())
    return tuple(level for level in _LEVELS if level.features <= present)


FAMILY = Family(
    name=_SYSTEM.family,
    levels=_LEVELS,
    extensions=EXTENSIONS,
    aliases={
        "rpi4": Alias("aarch64-linux+cortex-a72", "Raspberry Pi 4, 64-bit system"),
        "rpi5": Alias("aarch64-linux+cortex-a76", "Raspberry Pi 5, 64-bit system"),
        "jetson-orin": Alias("aarch64-linux+cortex-a78ae", "NVIDIA Jetson Orin, on its CPU"),
        "graviton3": Alias("aarch64-linux+neoverse-v1", "AWS Graviton3 (c7g, m7g, r7g)"),
    },
    host=_host,
    cpus={target.cpu: target for target in _CPUS},
    attributes=ATTRIBUTES,
)
