"""Recipes: which weights get which encoding. A recipe is an encoding name, a mapping, or a TOML file with [weights].

    [weights]
    "*.word_embeddings.*" = "f32"
    "encoder.layer.*"     = "f16"
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from nomul.ir.encodings import all_encodings
from nomul.ir.errors import NomulError, Problem

RecipeLike = str | Path | Mapping[str, str] | None
PLAIN = "f32"  # leaves a weight as the model has it


def read_recipe(recipe: RecipeLike) -> dict[str, str]:
    """Encoding by weight name pattern (glob); the first that matches wins. Empty: every weight stays as it is.

    Raises NomulError (NM008 unreadable file, NM009 unknown encoding)."""
    if recipe is None:
        return {}
    if isinstance(recipe, Mapping):
        return _checked(dict(recipe))
    if isinstance(recipe, str) and not recipe.endswith(".toml"):
        return _checked({"*": recipe})
    return _checked(_read_file(Path(recipe)))


def _read_file(path: Path) -> dict[str, str]:
    try:
        weights = tomllib.loads(path.read_text(encoding="utf-8")).get("weights")
    except OSError as error:
        raise NomulError("NM008", f"cannot read the recipe {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise NomulError("NM008", f"the recipe {path} is not TOML: {error}") from None
    if not isinstance(weights, dict) or not all(isinstance(value, str) for value in weights.values()):
        raise NomulError("NM008", f"the recipe {path} has no table [weights] of texts", help='write "layers.*" = "f16"')
    return weights


def _checked(recipe: dict[str, str]) -> dict[str, str]:
    known = [PLAIN, *all_encodings()]
    problems = [
        Problem("NM009", f"there is no encoding '{text}' (for '{pattern}')", help=f"choose from: {', '.join(known)}")
        for pattern, text in recipe.items()
        if text.partition(" by ")[0].partition("<")[0].strip() not in known
    ]
    if problems:
        raise NomulError.many(problems)
    return recipe
