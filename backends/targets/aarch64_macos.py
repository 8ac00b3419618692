"""Apple silicon under macOS 11 and newer: M1 is the least machine; M2 and newer have int8 matrix products."""

from __future__ import annotations

import platform
import subprocess

from nomul.backends.aarch64 import ATTRIBUTES, DOTPROD, EXTENSIONS, I8MM, System
from nomul.backends.target import Alias, Family, Target

_SYSTEM = System("macos", "arm64-apple-macos11.0", "aarch64-macos.11.0")


def _cpu(number: int) -> Target:
    return _SYSTEM.cpu(f"apple-m{number}", I8MM if number > 1 else DOTPROD, f"Apple M{number} under macOS")


_CPUS = {target.cpu: target for target in map(_cpu, range(1, 5))}
_LEVELS = (_CPUS["apple-m2"], _CPUS["apple-m1"])


def _host() -> tuple[Target, ...]:
    if platform.system() != "Darwin" or platform.machine() != "arm64":
        return ()
    ask = ["sysctl", "-n", "hw.optional.arm.FEAT_I8MM"]
    answer = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip()
    return _LEVELS if answer == "1" else _LEVELS[1:]


FAMILY = Family(
    name=_SYSTEM.family,
    levels=_LEVELS,
    extensions=dict.fromkeys(EXTENSIONS, _LEVELS[-1].level),
    aliases={cpu: Alias(target.name) for cpu, target in _CPUS.items()},
    host=_host,
    cpus=_CPUS,
    attributes=ATTRIBUTES,
)
