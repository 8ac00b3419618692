"""64-bit Android: the levels of 64-bit ARM; libraries need nothing but bionic's libc.so, and linking needs no NDK."""

from __future__ import annotations

from nomul.backends.aarch64 import ATTRIBUTES, EXTENSIONS, System
from nomul.backends.target import Alias, Family

_SYSTEM = System("android", "aarch64-linux-android21", "aarch64-linux-android.21")

FAMILY = Family(
    name=_SYSTEM.family,
    levels=_SYSTEM.levels(),
    extensions=EXTENSIONS,
    aliases={"android-arm64": Alias("aarch64-android", "64-bit Android 5 and newer: every level in one library")},
    host=lambda: (),  # compilers do not run there
    attributes=ATTRIBUTES,
)
