"""An artifact as files to carry to another machine: a bundle's runner, or a library with a runner that opens it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nomul.backends.artifact import BUNDLE_LIBRARIES
from nomul.backends.runner import build_opening_runner
from nomul.ir.errors import NomulError
from nomul.runtime.trailer import read_facts

RUNNER = "nomul-run"


@dataclass(frozen=True)
class Deployable:
    """files: name there -> path here, the runner among them.  options: for the runner.  facts: of the artifact."""

    files: dict[str, Path]
    options: Sequence[str]
    facts: dict[str, Any]

    @property
    def inputs(self) -> list[dict[str, Any]]:
        ports: list[dict[str, Any]] = self.facts["inputs"]
        return ports

    @property
    def outputs(self) -> list[dict[str, Any]]:
        ports: list[dict[str, Any]] = self.facts["outputs"]
        return ports

    @property
    def target(self) -> str:
        return str(self.facts["target"])

    @property
    def machine(self) -> str:
        """Architecture and system, `aarch64-linux`: what can run it. Android's programs are Linux programs."""
        arch, system = self.facts["triple"].split("-")[:2]
        return f"{arch}-{system.partition('.')[0]}"


@contextmanager
def deployable(artifact: Path) -> Iterator[Deployable]:
    """From a bundle's folder or a library. Raises NomulError (NM024, NM510), or RuntimeFault for a damaged library."""
    if artifact.is_dir():
        yield _from_bundle(artifact)
        return
    facts = read_facts(artifact)
    if "android" in facts["triple"]:
        message = f"{artifact} is a library for Android, where only a bundle can be run"
        raise NomulError("NM024", message, help="compile to a folder: -o FOLDER")
    with TemporaryDirectory(prefix="nomul-") as folder:
        runner = build_opening_runner(facts["triple"], Path(folder))
        name = f"model{artifact.suffix}"
        files = {RUNNER: runner, name: artifact} | _weights(artifact, name, facts)
        weights = ["--weights", f"{name}.weights"] if len(files) == 3 else []
        yield Deployable(files, ["--library", f"./{name}", *weights], facts)


def _from_bundle(folder: Path) -> Deployable:
    found = [folder / name for name in BUNDLE_LIBRARIES if (folder / name).is_file()]
    if not found or not (folder / RUNNER).is_file():
        message = f"{folder} is no bundle: it has no {RUNNER} with a library beside it"
        raise NomulError("NM024", message, help="`nomul compile MODEL -o FOLDER` writes one")
    facts = read_facts(found[0])
    return Deployable({RUNNER: folder / RUNNER} | _weights(found[0], found[0].name, facts), [], facts)


def _weights(library: Path, name: str, facts: dict[str, Any]) -> dict[str, Path]:
    """The file with the weights, where they are not in the library."""
    return {f"{name}.weights": Path(f"{library}.weights")} if facts["weights"]["external"] else {}
