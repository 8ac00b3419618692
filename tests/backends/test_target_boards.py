"""ARM, Apple and RISC-V targets: boards and CPUs by name, features that are no line of levels, musl, suggestions."""

from __future__ import annotations

import re

import pytest
from tvm.target import codegen

from nomul.backends.lower import llvm_target
from nomul.backends.target import Target, families, find_target, find_targets, target_names
from nomul.backends.targets.aarch64_linux import cpu_features
from nomul.ir.errors import NomulError

# What LLVM knows of a CPU beside our features: scheduling, system registers, and instructions that stand for intrinsics
# or atomic accesses only, of which kernels have none. A new name here needs a look at what LLVM makes of it.
HARMLESS = {
    *("v8a", "fp-armv8", "perfmon", "el2vmsa", "el3", "ete", "trbe", "CONTEXTIDREL2", "ccpp", "lor", "pan", "pan-rwv"),
    *("ras", "ssbs", "uaops", "vh", "spe", "am", "amvs", "bti", "ccdp", "ccidx", "dit", "ecv", "fgt", "fpac", "hcx"),
    *("lse2", "mpam", "nv", "pauth", "predres", "rcpc-immo", "sb", "sel2", "sha3", "sm4", "specrestrict", "tlb-rmi"),
    *("tracev8.4", "altnzcv", "fptoint", "wfxt", "xs"),
}
TUNING = re.compile(
    "(fuse|zcm|zcz|no|disable|enable|alternate|arith|cmp|max|use|addr|alu|balance|predictable|aggressive)-.*"
    "|store-pair-suppress|apple-.*|neoverse.*|a5.|a7.*"
)


def one(name: str) -> Target:
    (target,) = find_target(name)
    return target


def test_a_board_is_a_cpu_with_its_features() -> None:
    assert one("rpi4") == one("aarch64-linux+cortex-a72")
    assert one("rpi4").features == {"neon"}
    assert (one("rpi5").cpu, one("rpi5").features) == ("cortex-a76", {"neon", "dotprod", "fp16"})
    assert one("jetson-orin").cpu == "cortex-a78ae"
    assert {"i8mm", "bf16"} <= one("graviton3").features
    assert "i8mm" not in one("apple-m1").features
    assert {one(f"apple-m{n}").zig for n in range(1, 5)} == {"aarch64-macos.11.0"}
    assert [target.level for target in find_target("android-arm64")] == ["i8mm", "dotprod", "neon"]


def test_arm_features_are_single_options() -> None:
    assert one("aarch64-linux+dotprod").features == {"neon", "dotprod"}
    assert one("aarch64-linux+dotprod").attributes == ("+neon", "+dotprod")
    assert one("aarch64-linux+fp16").attributes == ("+neon", "+fullfp16")
    assert one("aarch64-linux+fp16+dotprod").level == "dotprod"
    assert one("rpi4+dotprod").name == "aarch64-linux+cortex-a72+dotprod"
    assert one("rpi5+dotprod") == one("rpi5")


def test_boards_of_one_system_make_one_library() -> None:
    assert [target.level for target in find_targets(["rpi4", "rpi5"])] == ["cortex_a76", "cortex_a72"]
    with pytest.raises(NomulError, match="not for aarch64-linux and aarch64-linux-musl"):
        find_targets(["rpi4", "rpi5-musl"])


def test_musl_follows_any_linux_name() -> None:
    assert one("rpi5-musl") == one("aarch64-linux-musl+cortex-a76")
    assert one("rpi5-musl").zig == "aarch64-linux-musl"
    assert {target.zig for target in find_target("x86_64-linux-musl")} == {"x86_64-linux-musl"}
    assert one("x86_64-linux-musl+avx2").features == one("x86-64-v3").features
    with pytest.raises(NomulError, match="macos has no musl"):
        find_target("apple-m1-musl")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("rpi6", "did you mean rpi"),
        ("apple-m9", "apple-m4"),
        ("aarch64-linux+cortex-a77", "cortex-a76"),
        ("aarch64-linux+dotprd", "dotprod"),
        ("aarch64-linux+cortex-a72+cortex-a76", "tuned for one CPU"),
        ("riscv64-linux+v", "no CPU or feature 'v'"),
        ("arm64-linux", "aarch64-linux"),
    ],
)
def test_unknown_names_get_suggestions(name: str, hint: str) -> None:
    with pytest.raises(NomulError, match="NM402") as caught:
        find_target(name)
    assert hint in str(caught.value)


@pytest.mark.parametrize("name", [name for name in target_names() if name != "host"])
def test_llvm_has_no_instructions_that_the_runtime_does_not_check(name: str) -> None:
    for target in find_target(name):
        if target.arch != "aarch64":
            continue
        family = families()[target.name.partition("+")[0].removesuffix("-musl")]
        checked = {family.attributes.get(feature, feature) for feature in target.features}
        found = {str(feature) for feature in codegen.llvm_get_cpu_features(llvm_target(target))}
        assert checked <= found
        assert {feature for feature in found - checked if not TUNING.fullmatch(feature)} <= HARMLESS


def test_features_of_an_arm_cpu() -> None:
    text = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes crc32 asimdhp asimddp\n"
    assert cpu_features(text) == {"neon", "dotprod", "fp16"}
    assert cpu_features("flags : avx2\n") == frozenset()
