"""Target names: levels, features that raise the level, aliases, the host, suggestions for unknown names."""

from __future__ import annotations

import pytest

from nomul.backends.driver import known_features
from nomul.backends.target import families, find_target, find_targets, target_names
from nomul.backends.targets.x86_64_linux import cpu_features
from nomul.ir.errors import NomulError

LEVELS = ["v4_bf16", "v4_vbmi", "v4_vnni", "v4", "v3_vnni", "v3", "v2"]


def names(*targets: str) -> list[str]:
    return [target.level for target in find_targets(targets)]


def test_family_has_all_levels_best_first() -> None:
    assert [target.level for target in find_target("x86_64-linux")] == LEVELS


def test_alias_and_canonical_name_agree() -> None:
    for target in find_target("x86_64-linux"):
        assert find_target(f"x86-64-{target.level.replace('_', '-')}") == find_target(target.name) == (target,)


def test_host_levels_are_a_tail_of_the_family() -> None:
    levels = find_target("host")
    assert levels
    assert find_target(levels[0].name) == levels[:1]


def test_features_raise_the_level() -> None:
    assert names("x86_64-linux+ssse3") == ["v2"]
    assert names("x86_64-linux+fma") == ["v3"]
    assert names("x86_64-linux+avxvnni") == ["v3_vnni"]
    assert names("x86_64-linux+avx512vnni") == ["v4_vnni"]
    assert names("x86_64-linux+avx512vbmi2") == names("x86_64-linux+avx512bitalg+gfni") == ["v4_vbmi"]
    assert names("x86_64-linux+avx512vbmi2+avx512bf16") == ["v4_bf16"]
    (target,) = find_target("x86_64-linux+avx512vnni+avx512vbmi")
    assert target.level == "v4_avx512vbmi_avx512vnni"
    assert target.name == "x86_64-linux+avx512vl+avx512vbmi+avx512vnni"
    assert {"avx512vnni", "avx512vbmi", "avx512bw", "avx2"} <= target.features
    assert target.attributes == ("+avx512vbmi", "+avx512vnni")
    assert find_target(target.name) == (target,)


def test_several_names_are_ordered_and_distinct() -> None:
    assert names("x86-64-v2", "x86-64-v4", "x86-64-v3", "x86_64-linux+avx2") == ["v4", "v3", "v2"]
    assert names("x86-64-v4", "x86_64-linux+avx512bf16") == ["v4_avx512bf16", "v4"]


def test_levels_on_one_base_differ_only_in_what_llvm_is_told_to_add() -> None:
    """So that code for the base is code for all of them."""
    levels = {target.level: target for target in find_target("x86_64-linux")}
    for target in levels.values():
        base = levels[target.base]
        same = ("cpu", "triple", "vector_bytes", "registers")
        assert [getattr(target, name) for name in same] == [getattr(base, name) for name in same]
        assert set(target.attributes) == {f"+{name}" for name in target.features - base.features}


@pytest.mark.parametrize(
    ("name", "hint"),
    [("x86-64-v5", "x86-64-v4"), ("x86_64-linux+avx521", "avx2"), ("x86_64-linx", "x86_64-linux"), ("", "known: host")],
)
def test_unknown_names_get_suggestions(name: str, hint: str) -> None:
    with pytest.raises(NomulError) as caught:
        find_target(name)
    assert caught.value.code == "NM402"
    assert hint in str(caught.value)


def test_every_listed_name_is_found() -> None:
    for name in target_names():
        assert find_target(name)


def test_the_runtime_can_look_for_every_feature() -> None:
    for family in families().values():
        wanted = {name for level in family.levels for name in level.features}.union(family.extensions)
        assert wanted <= set(known_features())


def test_features_of_a_cpu() -> None:
    text = "processor\t: 0\nflags\t\t: pni sse4_1 abm bmi1 avx512_vnni lahf_lm\nprocessor\t: 1\n"
    assert cpu_features(text) == {"sse3", "sse4.1", "lzcnt", "bmi", "avx512vnni", "sahf"}
    assert cpu_features("Features : fp asimd\n") == frozenset()
