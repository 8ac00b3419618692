"""The name of the CPU that kernels are measured on."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

_KEYS = ("model name", "CPU implementer", "CPU part", "Model")  # of x86, and of ARM, which has numbers and boards


def cpu_name() -> str:
    """What the system calls this CPU."""
    if platform.system() == "Darwin":
        ask = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip()
    return name_in(Path("/proc/cpuinfo").read_text()) or platform.machine()


def name_in(cpuinfo: str) -> str:
    """The name in the text of /proc/cpuinfo; empty where it has none."""
    found: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return " ".join(found[key] for key in _KEYS if key in found)
