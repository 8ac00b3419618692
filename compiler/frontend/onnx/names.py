"""Readable names for values that exporters name by the path of a layer, without what most of the paths share.

`/model/model.0/auto_model/encoder/layer.0/attention/self/query/MatMul_output_0` becomes
`layer.0.attention.self.query.MatMul`. The names depend on the model alone; the whole path stays in `loc`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from nomul.frontend.common import value_name

_SHARE = 0.75  # of all paths that must begin in one way for it to be left out


class PathNames:
    """Turns names of a model into names of the IR. names: those that the model's nodes make."""

    def __init__(self, names: Iterable[str]) -> None:
        self._prefix = _common_start([_folders(name) for name in names if "/" in name])

    def __call__(self, name: str) -> str:
        """The name for a value or weight; different names may give the same one. Names without `/` stay."""
        if "/" not in name:
            return value_name(name)
        folders = _folders(name)
        shared = 0
        while shared < min(len(folders), len(self._prefix)) and folders[shared] == self._prefix[shared]:
            shared += 1
        return value_name(".".join([*folders[shared:], _last(name)]) or name)


def _folders(name: str) -> list[str]:
    """The layers of a path; `layer/layer.0` is one."""
    parts = [part for part in name.split("/")[:-1] if part]
    return [part for part, inner in zip(parts, [*parts[1:], ""], strict=False) if not inner.startswith(f"{part}.")]


def _last(name: str) -> str:
    """`Add_output_0` -> `Add`, `Split:1` -> `Split.1`."""
    without_first = re.sub(r"(_output_|:)0(?=\.|$)", "", name.rpartition("/")[2])
    return re.sub(r"(_output_|:)(\d+)(?=\.|$)", r".\2", without_first)


def _common_start(paths: list[list[str]]) -> list[str]:
    """The longest start that most of the paths share."""
    prefix: list[str] = []
    while True:
        depth = len(prefix)
        counts = Counter(path[depth] for path in paths if len(path) > depth and path[:depth] == prefix)
        ((part, count),) = counts.most_common(1) or [("", 0)]
        if not count or count < _SHARE * len(paths):
            return prefix
        prefix.append(part)
