"""Recipes: the three forms, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomul.ir.errors import NomulError
from nomul.recipe import read_recipe


def test_the_three_forms(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('[weights]\n"*.embeddings.*" = "f32"\n"encoder.*" = "f16"\n')
    assert read_recipe(None) == {}
    assert read_recipe("f16") == {"*": "f16"}
    assert read_recipe({"a.*": "bf16 by round_to_nearest"}) == {"a.*": "bf16 by round_to_nearest"}
    assert list(read_recipe(str(path)).items()) == [("*.embeddings.*", "f32"), ("encoder.*", "f16")]
    assert read_recipe(path) == read_recipe(str(path))


def test_every_unknown_encoding_is_named() -> None:
    with pytest.raises(NomulError) as caught:
        read_recipe({"a": "f12", "b": "f16", "c": "f16 by magic"})
    assert [problem.code for problem in caught.value.problems] == ["NM009", "NM009"]
    assert "f12" in str(caught.value) and "magic" in str(caught.value) and "f16" in str(caught.value)


@pytest.mark.parametrize("text", ["[weights", "[other]\na = 1\n", "[weights]\na = 1\n", "\x00\xff"])
def test_damaged_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(NomulError, match="NM008"):
        read_recipe(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NomulError, match="NM008"):
        read_recipe(tmp_path / "none.toml")
