"""Recipes: which layers get which encoding, fitter and activations. Built-in ones are TOML files in `recipes/`.

    strict = false                       # optional: true makes a layer that cannot have its encoding an error
    max_error = 0.05                     # optional: of each output, relative to its norm; --check holds it
    correct_means = true                 # optional: biases take over mean errors of outputs on calibration data
    embeddings = "int8"                  # optional, may stand alone: of tables read by index (`_embedding_default`)

    [[layers]]                           # the first rule that takes a layer decides
    match = "encoder.*.query.weight"     # glob over names of weights and layers; default "*"
    role = "linear"                      # optional: linear, conv, depthwise, head or embedding
    weights = "ternary<planes=2, group=128>"     # or "f32": as the model has them
    fitter = "ptqtp"                     # optional (`nomul list fitters`)
    scope = "layer"                      # optional: "block" for a fitter that learns the layers of a block together
    act = "i8"                           # optional: f32 (default), i8, i8-static
    act_levels = 42                      # optional: the largest integer of such activations, at most 127
    transforms = ["rotate<block=128>"]   # optional (`nomul list transforms`): before the weights are encoded

    [[attention]]                        # the first rule that takes a softmax attention decides
    match = "encoder.layer.*"            # glob over names of layers with attention; default "*"
    form = "window"                      # `nomul list forms`; all other keys are its options
    window = 256

Also taken: the name of a built-in, an encoding for all layers ("f16"), {glob: "ENCODING by FITTER"} (the key
`embeddings` there is no glob), or what a file would hold as a dictionary ({"attention": [{"form": "window", ...}]}).
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from nomul.ir.encodings import Encoding, all_encodings, get_encoding
from nomul.ir.encodings.half import SixteenBit
from nomul.ir.errors import NomulError, Problem
from nomul.ir.expressions import TextFault
from nomul.ir.quantise import LEVELS
from nomul.ir.syntax import parse_encoding
from nomul.passes.choice import ACTS, ANY, PLAIN, ROLES, SCOPES, Recipe, Rule, Transformation
from nomul.passes.exchange import AttentionRule, all_forms, read_form
from nomul.passes.fit import find_fitter, fitters_of
from nomul.passes.transforms import read_transformation

T = TypeVar("T")
RecipeLike = str | Path | Mapping[str, Any] | Recipe | None
SUFFIX = ".toml"
_TEXTS = {"match", "role", "weights", "fitter", "scope", "act"}
_KEYS = {*_TEXTS, "act_levels", "transforms"}
_EMBEDDINGS = "embeddings"
_SETTINGS = ("max_error", _EMBEDDINGS)
_FLAGS = ("strict", "correct_means")
_LISTS = ("layers", "attention")
_SHAPE = 'a rule is [[layers]] with weights = "ENCODING", or [[attention]] with form = "FORM" (nomul explain NM008)'


class _NoEncoding(ValueError):
    """A text that is no encoding."""


def read_recipe(recipe: RecipeLike) -> Recipe:
    """The rules of a recipe; none for None. Raises NomulError with all faults (NM008 not a recipe, NM009 its words)."""
    if recipe is None:
        return Recipe()
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        if not all(isinstance(text, str) for text in recipe.values()):
            return _tables(recipe, "the recipe")
        tables = {name: text for name, text in recipe.items() if name == _EMBEDDINGS}
        layers = [{"match": match, **_split(text)} for match, text in recipe.items() if match not in tables]
        return _rules({"layers": layers, **tables})
    if isinstance(recipe, str) and recipe in built_in():
        return _parse(built_in()[recipe], f"the recipe {recipe}")
    if isinstance(recipe, str) and not recipe.endswith(SUFFIX):
        return _rules({"layers": [_split(recipe)]})
    if not isinstance(recipe, str | Path):
        raise NomulError("NM008", f"a {type(recipe).__name__} is no recipe", help="a name, a path or a dictionary is")
    return _read_file(Path(recipe))


def built_in() -> dict[str, str]:
    """The text of every built-in recipe by name. Its first comment line says what it is."""
    found = [path for path in files("nomul").joinpath("recipes").iterdir() if path.name.endswith(SUFFIX)]
    return {path.name.removesuffix(SUFFIX): path.read_text("utf-8") for path in sorted(found, key=lambda p: p.name)}


def _read_file(path: Path) -> Recipe:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise NomulError("NM008", f"cannot read the recipe {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise NomulError("NM008", f"the recipe {path} is not TOML: {error}") from None
    return _parse(text, f"the recipe {path}", path.parent)


def _parse(text: str, what: str, folder: Path | None = None) -> Recipe:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise NomulError("NM008", f"{what} is not TOML: {error}") from None
    return _tables(data, what, folder)


def _tables(data: Mapping[str, Any], what: str, folder: Path | None = None) -> Recipe:
    """folder: where relative paths in it begin."""
    unknown = sorted(map(str, set(data) - {*_LISTS, *_SETTINGS, *_FLAGS}))
    lists, flags = [data[name] for name in _LISTS if name in data], {name: data.get(name, False) for name in _FLAGS}
    if unknown or not (lists or _EMBEDDINGS in data) or not all(_is_list_of_rules(rules) for rules in lists):
        reason = f"has unknown keys ({', '.join(unknown)})" if unknown else "has no list [[layers]] or [[attention]]"
        raise NomulError("NM008", f"{what} {reason}", help=_SHAPE)
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise NomulError("NM008", f"{what}: {name} is true or false, not {value!r}")
    limit = data.get("max_error")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0):
        raise NomulError("NM008", f"{what}: max_error is a number above 0, not {limit!r}")
    return replace(_rules(data, folder), max_error=limit, **flags)


def _is_list_of_rules(rules: Any) -> bool:
    return isinstance(rules, list) and all(isinstance(rule, dict) for rule in rules)


def _split(text: str) -> dict[str, str]:
    """`ENCODING by FITTER` as keys of a rule."""
    weights, by, fitter = text.partition(" by ")
    return {"weights": weights.strip(), **({"fitter": fitter.strip()} if by else {})}


def _rules(data: Mapping[str, Any], folder: Path | None = None) -> Recipe:
    """Of the lists `layers` and `attention`, and of `embeddings`, each where it is given."""
    problems: list[Problem] = []
    encodings, forms = f"encodings: {', '.join([PLAIN, *all_encodings()])}", f"forms: {', '.join(all_forms())}"
    rules = _read_all("layers", data, _rule, encodings, problems)
    exchanges = _read_all("attention", data, partial(_attention_rule, folder=folder), forms, problems)
    embeddings = _embedding_default(rules)
    if _EMBEDDINGS in data:
        try:
            embeddings = _table_encoding(data[_EMBEDDINGS])
        except ValueError as error:
            problems.append(Problem("NM009", f"{error} (for {_EMBEDDINGS})", help=encodings))
    if problems:
        raise NomulError.many(problems)
    return Recipe(tuple(rules), embeddings=embeddings, attention=tuple(exchanges))


def _read_all(
    name: str, data: Mapping[str, Any], read: Callable[[Mapping[str, Any]], T], help: str, problems: list[Problem]
) -> list[T]:
    rules = []
    for number, table in enumerate(data.get(name, ()), 1):
        try:
            rules.append(read(table))
        except (ValueError, TypeError) as error:
            place = f"'{table['match']}'" if "match" in table else f"rule {number} of [[{name}]]"
            wrong_key = name == "layers" and not isinstance(error, _NoEncoding)
            problems.append(Problem("NM009", f"{error} (for {place})", help=None if wrong_key else help))
    return rules


def _table_encoding(text: Any) -> Encoding | None:
    """Raises ValueError for what is no encoding."""
    if not isinstance(text, str):
        raise _NoEncoding(f"an encoding is a text, not {text!r}")
    return _encoding_or_plain(text)


def _attention_rule(table: Mapping[str, Any], folder: Path | None) -> AttentionRule:
    """Raises ValueError or TypeError for what does not exist."""
    for key in ("match", "form"):
        if key in table and not isinstance(table[key], str):
            raise ValueError(f"{key} must be a text, not {table[key]!r}")
    if "form" not in table:
        raise ValueError("the rule does not say a form")
    options = {key: value for key, value in table.items() if key not in ("match", "form")}
    return AttentionRule(table.get("match", ANY), read_form(table["form"], options, folder))


def _embedding_default(rules: Iterable[Rule]) -> Encoding | None:
    """The encoding of embeddings where nothing is said of them: with a rule for all layers int8 by row, or, where that
    rule's encoding has no integers, sixteen-bit floats; without such a rule they stay."""
    every = next((rule.encoding for rule in rules if rule.match == ANY and rule.role is None), None)
    if every is None or isinstance(every, SixteenBit):
        return every
    return get_encoding("int8" if every.is_integer else "f16")


def _rule(table: Mapping[str, Any]) -> Rule:
    """Raises ValueError or TypeError for what does not exist."""
    for key, value in table.items():
        if key not in _KEYS:
            raise ValueError(f"there is no key '{key}' in a rule, but {', '.join(sorted(_KEYS))}")
        if key in _TEXTS and not isinstance(value, str):
            raise ValueError(f"{key} must be a text, not {value!r}")
    if "weights" not in table:
        raise ValueError("the rule does not say weights")
    for key, known in (("act", ACTS), ("role", ROLES), ("scope", SCOPES)):
        if key in table and table[key] not in known:
            raise ValueError(f"{key} is one of {', '.join(known)}, not '{table[key]}'")
    encoding = _encoding_or_plain(table["weights"])
    fitter, scope = table.get("fitter"), table.get("scope", SCOPES[0])
    if encoding is not None:
        _check_fitter(fitter, encoding, scope)
    transforms, act = _transforms(table.get("transforms", [])), table.get("act", PLAIN)
    levels = _levels(table.get("act_levels", LEVELS), act)
    return Rule(table.get("match", "*"), encoding, fitter, act, table.get("role"), transforms, levels, scope)


def _check_fitter(name: str | None, encoding: Encoding, scope: str) -> None:
    """Raises ValueError for a fitter that does not fit the encoding, or not in this scope."""
    found = find_fitter(name, encoding)
    able = [fitter.name for fitter in fitters_of(encoding) if fitter.by_block]
    if scope == "block" and not found.by_block:
        raise ValueError(f"scope = 'block' needs a fitter that learns ({', '.join(able) or f'none for {encoding}'})")


def _levels(value: Any, act: str) -> int:
    """Raises ValueError for what the largest integer of activations cannot be."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LEVELS:
        raise ValueError(f"act_levels is a number from 1 to {LEVELS}, not {value!r}")
    if act == PLAIN and value != LEVELS:
        raise ValueError(f"act_levels means nothing with act = '{PLAIN}'")
    return value


def _transforms(texts: Any) -> tuple[Transformation, ...]:
    """Raises ValueError for what is no list of transforms."""
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"transforms must be a list of texts, not {texts!r}")
    return tuple(map(read_transformation, texts))


def _encoding_or_plain(text: str) -> Encoding | None:
    """Raises ValueError for what is no encoding."""
    return None if text.strip() == PLAIN else _encoding(text)


def _encoding(text: str) -> Encoding:
    try:
        return parse_encoding(text.strip())
    except TextFault as error:
        head = text.partition("<")[0].strip()
        near = difflib.get_close_matches(head, [PLAIN, *all_encodings(), *built_in()], 2)
        guess = f" (did you mean {' or '.join(near)}?)" if near and head not in all_encodings() else ""
        raise _NoEncoding(f"'{text}' is no encoding: {error.args[0] if error.args else error}{guess}") from None
