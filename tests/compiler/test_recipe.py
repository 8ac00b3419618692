"""Recipes: the forms that they have, the built-in ones, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomul.ir.encodings import get_encoding
from nomul.ir.errors import NomulError
from nomul.passes.choice import Recipe, Rule, Transformation
from nomul.recipe import built_in, read_recipe

TOML = """
strict = true

[[layers]]
match = "*.embeddings.*"
weights = "f32"

[[layers]]
match = "encoder.*"
role = "linear"
weights = "ternary<planes=2, group=128>"
fitter = "ptqtp"
act = "i8"
act_levels = 42
transforms = ["smooth", "rotate<block=64>"]
"""


def texts(recipe: Recipe) -> list[tuple[str, str]]:
    return [(rule.match, str(rule)) for rule in recipe.rules]


def test_the_forms(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(TOML)
    assert read_recipe(None) == Recipe()
    assert texts(read_recipe("f16")) == [("*", "f16")]
    assert texts(read_recipe({"a.*": "bf16 by round_to_nearest"})) == [("a.*", "bf16 by round_to_nearest")]
    read = read_recipe(str(path))
    assert texts(read) == [("*.embeddings.*", "f32"), ("encoder.*", "ternary<planes=2, group=128> by ptqtp")]
    assert (read.strict, read.rules[1].act, read.rules[1].role) == (True, "i8", "linear")
    assert (read.rules[0].levels, read.rules[1].levels) == (127, 42)
    assert read.rules[1].transforms == (Transformation("smooth"), Transformation("rotate", (("block", 64.0),)))
    assert read == read_recipe(path) == read_recipe(read)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('"rotate"', "transforms must be a list of texts, not 'rotate'"),
        ('["rotat"]', "there is no transform 'rotat' (did you mean rotate?)"),
    ],
)
def test_wrong_transforms(tmp_path: Path, value: str, message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(TOML.replace('["smooth", "rotate<block=64>"]', value))
    with pytest.raises(NomulError) as caught:
        read_recipe(path)
    assert [problem.code for problem in caught.value.problems] == ["NM009"] and message in str(caught.value)


def test_built_in_recipes_say_what_they_are() -> None:
    names = {"int8", "w4", "ternary2", "sherry", "lut2", "lut3", "shift", "nm24", "fp4", "mixed"}
    assert set(built_in()) == names
    for name, text in built_in().items():
        assert text.startswith("# ") and text.partition("\n")[0].endswith("."), name
        recipe = read_recipe(name)
        assert recipe.rules[-1].match == "*" and recipe.rules[-1].role is None, name
        assert all(rule.encoding is not None for rule in recipe.rules), name


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("int8", "int8"),
        ("fp4", "int8"),
        ("f16", "f16"),
        ("bf16", "bf16"),
        ({"*": "split<columns=1>"}, "f16"),
        ({"*": "f32"}, "None"),
        ({"*.query.*": "int4"}, "None"),
    ],
)
def test_embeddings_have_a_default_of_their_own(recipe: str | dict[str, str], expected: str) -> None:
    assert str(read_recipe(recipe).embeddings) == expected


def test_embeddings_may_be_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    for value, expected in (('"f32"', None), ('"int4<group=32>"', get_encoding("int4", group=32))):
        path.write_text(f'embeddings = {value}\n[[layers]]\nweights = "int8"\n')
        assert read_recipe(path).embeddings == expected
    for value in ("8", '"int9"', "true"):
        path.write_text(f'embeddings = {value}\n[[layers]]\nweights = "int8"\n')
        with pytest.raises(NomulError, match=r"NM009.*embeddings") as caught:
            read_recipe(path)
        assert "encodings: f32" in str(caught.value)
    path.write_text('embeddings = "int8"\n')
    assert read_recipe(path) == read_recipe({"embeddings": "int8"}) == Recipe(embeddings=get_encoding("int8"))
    mapping = read_recipe({"embeddings": "f32", "*": "int4"})
    assert texts(mapping) == [("*", "int4")] and mapping.embeddings is None


def test_wrong_words_name_their_rule() -> None:
    data = {"embeddings": "int9", "layers": [{"weights": "f16"}, {"weights": "f12"}], "attention": [{"form": "sparse"}]}
    with pytest.raises(NomulError) as caught:
        read_recipe(data)
    places = [problem.message.rpartition("(for ")[2] for problem in caught.value.problems]
    assert places == ["rule 2 of [[layers]])", "rule 1 of [[attention]])", "embeddings)"]


def test_every_wrong_word_is_named() -> None:
    wrong = {"a": "f12", "b": "f16", "c": "f16 by magic", "d": "ternary<planes=2> by hlq", "e": "int4<bits=3>"}
    with pytest.raises(NomulError) as caught:
        read_recipe({**wrong, "f": "tenary"})
    assert [problem.code for problem in caught.value.problems] == ["NM009"] * 5
    for words in (
        "'f12'",
        "no fitter 'magic'",
        "fitter hlq does not fit",
        "for it there are ptqtp",
        "did you mean ternary",
        "there is no parameter 'bits', but zero, group, scales",
    ):
        assert words in str(caught.value), words


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ('act = "i4"', "act is one of f32, i8, i8-static"),
        ('role = "tail"', "role is one of"),
        ("fitter = 3", "fitter must be a text"),
        ('act = "i8"\nact_levels = 200', "act_levels is a number from 1 to 127, not 200"),
        ('act = "i8"\nact_levels = "42"', "act_levels is a number from 1 to 127, not '42'"),
        ("act_levels = 42", "act_levels means nothing with act = 'f32'"),
        ('matches = "*"', "there is no key 'matches'"),
    ],
)
def test_wrong_keys_of_a_rule(tmp_path: Path, key: str, words: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f'[[layers]]\nweights = "f16"\n{key}\n')
    with pytest.raises(NomulError, match="NM009") as caught:
        read_recipe(path)
    assert words in str(caught.value) and "encodings:" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["[[layers", "[other]\na = 1\n", "layers = 1\n", "[layers]\na = 1\n", "layers = []\nstrict = 1\n", "\x00\xff"],
)
def test_damaged_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(NomulError, match="NM008"):
        read_recipe(path)


def test_a_rule_must_say_weights(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('[[layers]]\nmatch = "*"\n')
    with pytest.raises(NomulError, match="does not say weights"):
        read_recipe(path)


def test_what_is_no_recipe() -> None:
    with pytest.raises(NomulError, match=r"NM008.*a list is no recipe"):
        read_recipe([{"weights": "int8"}])  # type: ignore[arg-type]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NomulError, match="NM008"):
        read_recipe(tmp_path / "none.toml")


def test_a_rule_takes_names_and_roles() -> None:
    assert Rule("a.*").takes(["x", "a.b"], [])
    assert not Rule("a.*", role="head").takes(["a.b"], ["linear"])
    assert Rule(role="head").takes(["a.b"], ["head", "linear"])


def test_a_table_is_taken_by_rules_that_name_the_role_or_leave_it() -> None:
    int8 = get_encoding("int8")
    rules = (Rule("plain.*"), Rule("four.*", get_encoding("int4"), role="embedding"), Rule("*", int8))
    recipe = Recipe(rules, embeddings=int8)
    found = {name: recipe.rule_of([name], ["embedding"]) for name in ("plain.w", "four.w", "other.w")}
    assert {name: str(rule) for name, rule in found.items()} == {"plain.w": "f32", "four.w": "int4", "other.w": "int8"}
    assert str(Recipe(rules).rule_of(["other.w"], ["embedding"])) == "f32"
