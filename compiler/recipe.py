"""Recipes: which weights get which encoding. A recipe is an encoding name, a mapping, or a TOML file with [weights].

    [weights]
    "*.word_embeddings.*" = "f32"
    "encoder.layer.*"     = "f16"

`ENCODING by FITTER` also says how the bytes are chosen (`nomul list fitters`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from nomul.ir.encodings import all_encodings
from nomul.ir.errors import NomulError, Problem
from nomul.passes.encode import PLAIN, parse_choice

RecipeLike = str | Path | Mapping[str, str] | None


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
    problems = [
        Problem("NM009", f"{reason} (for '{pattern}')", help=f"encodings: {', '.join([PLAIN, *all_encodings()])}")
        for pattern, text in recipe.items()
        if (reason := _refusal(text)) is not None
    ]
    if problems:
        raise NomulError.many(problems)
    return recipe


def _refusal(text: str) -> str | None:
    """Why a text names no encoding (and fitter), or None."""
    if text.strip() == PLAIN:
        return None
    try:
        parse_choice(text)
    except (ValueError, TypeError) as error:
        return str(error)
    return None
