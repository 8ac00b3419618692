"""x86-64 Linux: the levels v2 (SSE4.2), v3 (AVX2, FMA, F16C) and v4 (AVX-512) of the System V psABI, v3 and v4 also
with byte dot products (VNNI) and v4 with byte permutations (VBMI) and bfloat16 (BF16), for which the psABI has no
names."""

from __future__ import annotations

import platform
from pathlib import Path

from nomul.backends.target import Alias, Family, Target

# psABI, "Micro-Architecture Levels", table 3.1. FXSR, CMOV and the like are in the baseline and not checked again.
_V2 = frozenset({"sse3", "ssse3", "sse4.1", "sse4.2", "cx16", "popcnt", "sahf"})
_V3 = _V2 | {"avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_V3_VNNI = _V3 | {"avxvnni"}
_V4_VNNI = _V4 | {"avx512vnni"}
_V4_VBMI = _V4_VNNI | {"avx512bitalg", "avx512ifma", "avx512vbmi", "avx512vbmi2", "avx512vpopcntdq", "gfni"}
_V4_BF16 = _V4_VBMI | {"avx512bf16"}

# VBMI2 and BITALG are not here: every CPU with one of them has all of v4_vbmi, so their names stand for that level.
_EXTENSIONS = {
    "gfni": "v3",
    "avxvnni": "v3",
    "avxvnniint8": "v3",
    "avx512ifma": "v4",
    "avx512vbmi": "v4",
    "avx512vnni": "v4",
    "avx512vpopcntdq": "v4",
    "avx512bf16": "v4",
    "avx512fp16": "v4",
}

# Names in /proc/cpuinfo that are not LLVM's.
_CPUINFO = {
    "pni": "sse3",
    "sse4_1": "sse4.1",
    "sse4_2": "sse4.2",
    "abm": "lzcnt",
    "bmi1": "bmi",
    "lahf_lm": "sahf",
    "avx_vnni": "avxvnni",
    "avx_vnni_int8": "avxvnniint8",
    "avx512_bf16": "avx512bf16",
    "avx512_bitalg": "avx512bitalg",
    "avx512_fp16": "avx512fp16",
    "avx512_vbmi2": "avx512vbmi2",
    "avx512_vnni": "avx512vnni",
    "avx512_vpopcntdq": "avx512vpopcntdq",
}


def _level(level: str, suffix: str, features: frozenset[str], vector_bytes: int, registers: int, what: str) -> Target:
    base = level.partition("_")[0]
    return Target(
        name=f"x86_64-linux+{suffix}",
        level=level,
        arch="x86_64",
        os="linux",
        features=features,
        triple="x86_64-unknown-linux-gnu",
        cpu=f"x86-64-{base}",
        zig="x86_64-linux-gnu.2.17",
        musl="x86_64-linux-musl",
        vector_bytes=vector_bytes,
        attributes=tuple(f"+{name}" for name in sorted(features - _BASES[base])),
        registers=registers,
        base=base,
        description=f"x86-64 Linux with {what}",
    )


_BASES = {"v2": _V2, "v3": _V3, "v4": _V4}
_LEVELS = (
    _level("v4_bf16", "avx512bf16+avx512vbmi2", _V4_BF16, 64, 32, "AVX-512 BF16 and VBMI: Zen 4, Sapphire Rapids"),
    _level("v4_vbmi", "avx512vbmi2", _V4_VBMI, 64, 32, "AVX-512 VNNI, VBMI and GFNI: Ice Lake and newer"),
    _level("v4_vnni", "avx512vnni", _V4_VNNI, 64, 32, "AVX-512 and VNNI: Cascade Lake, Cooper Lake"),
    _level("v4", "avx512vl", _V4, 64, 32, "AVX-512 F, BW, CD, DQ, VL (x86-64-v4)"),
    _level("v3_vnni", "avxvnni", _V3_VNNI, 32, 16, "AVX2 and AVX-VNNI: Alder Lake, Gracemont and newer"),
    _level("v3", "avx2", _V3, 32, 16, "AVX2, FMA and F16C (x86-64-v3)"),
    _level("v2", "sse4.2", _V2, 16, 16, "SSE4.2 (x86-64-v2)"),
)


def cpu_features(cpuinfo: str) -> frozenset[str]:
    """LLVM's names of the features in the text of /proc/cpuinfo; none where it lists no flags."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return frozenset(_CPUINFO.get(name, name) for name in value.split())
    return frozenset()


def _host() -> tuple[Target, ...]:
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "AMD64"):
        return ()
    present = cpu_features(Path("/proc/cpuinfo").read_text())
    return tuple(level for level in _LEVELS if level.features <= present)


FAMILY = Family(
    name="x86_64-linux",
    levels=_LEVELS,
    extensions=_EXTENSIONS,
    aliases={f"x86-64-{level.level.replace('_', '-')}": Alias(level.name) for level in _LEVELS},
    host=_host,
)
