"""32-bit ARM Linux with hard floats: ARMv7-A with NEON and fused multiply-add (Cortex-A7, A15 and newer)."""

from __future__ import annotations

import platform

from nomul.backends.target import Alias, Family, Target

_FEATURES = frozenset({"neon", "vfp4"})
_LEVEL = Target(
    name="arm-linux",
    level="neon",
    arch="arm",
    os="linux",
    features=_FEATURES,
    triple="armv7-unknown-linux-gnueabihf",
    cpu="generic",
    zig="arm-linux-gnueabihf.2.17",
    musl="arm-linux-musleabihf",
    attributes=tuple(f"+{name}" for name in sorted(_FEATURES)),
    description="32-bit ARM Linux, hard float: ARMv7-A with NEON and VFPv4",
)


def _host() -> tuple[Target, ...]:
    return (_LEVEL,) if platform.system() == "Linux" and platform.machine() in ("armv7l", "armv8l") else ()


FAMILY = Family(
    name=_LEVEL.name,
    levels=(_LEVEL,),
    extensions={},
    aliases={"rpi2": Alias("arm-linux", "Raspberry Pi 2, and newer ones with a 32-bit system")},
    host=_host,
)
