"""The dump folder: numbered files that say what each pass did, and the weights of all of them in one file beside them.
It cleans only what an earlier dump wrote."""

from __future__ import annotations

import difflib
from pathlib import Path

from nomul.ir.errors import NomulError
from nomul.ir.graph import Module
from nomul.ir.text import print_module
from nomul.ir.weights_store import WeightsStore

MANIFEST = ".nomul-dump"
WEIGHTS = "weights.safetensors"


class Dump:
    """Writes files under one folder and keeps their list in a manifest, so that the next dump may clean them.

    Raises NomulError (NM454) where the folder holds files that no dump wrote, or cannot be written."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self._clean()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._manifest = self.folder / MANIFEST
            self._manifest.write_text("", encoding="utf-8")
            self._listed: set[str] = set()
            self._weights: WeightsStore | None = None
        except OSError as error:
            raise NomulError("NM454", f"cannot write the dump folder {self.folder}: {error}") from None

    def write(self, name: str, content: str | bytes) -> Path:
        """Write one file; `name` may have folders in it. Returns its path."""
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._list(name)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        except OSError as error:
            raise NomulError("NM454", f"cannot write {path}: {error}") from None
        return path

    def write_module(self, stem: str, module: Module) -> None:
        """`STEM.nir`, which compiles again: new weights go into the weights file. Raises NomulError (NM340)."""
        if self._weights is None:
            self._list(WEIGHTS)
            self._weights = WeightsStore(self.folder / WEIGHTS)
        self.write(f"{stem}.nir", print_module(module, self._weights.add(module)))

    def _list(self, name: str) -> None:
        if name not in self._listed:
            with self._manifest.open("a", encoding="utf-8") as manifest:
                manifest.write(f"{name}\n")
            self._listed.add(name)

    def _clean(self) -> None:
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise NomulError("NM454", f"the dump folder {self.folder} is a file")
        present = {path for path in self.folder.rglob("*") if not path.is_dir()}
        manifest = self.folder / MANIFEST
        listed = manifest.read_text(encoding="utf-8").splitlines() if manifest.is_file() else []
        ours = {self.folder / name for name in listed} | {manifest}
        foreign = sorted(present - ours)
        if foreign:
            raise NomulError(
                "NM454",
                f"the dump folder {self.folder} holds files that no dump wrote, such as {foreign[0].name}",
                help="choose an empty folder, or remove them yourself",
            )
        for path in sorted(present):
            path.unlink()
        for path in sorted((p for p in self.folder.rglob("*") if p.is_dir()), reverse=True):
            path.rmdir()


def text_diff(before: str, after: str, name: str) -> str:
    """A unified diff of two printed modules."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "before", f"after {name}", lineterm="", n=2)
    return "\n".join(lines) + "\n"
