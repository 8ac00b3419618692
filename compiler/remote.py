"""Runs an artifact on another machine through the user's `ssh`: `nomul run --on ssh://user@board[:port] ARTIFACT ...`.

One connection does it all: a tar archive with the runner, the model and the inputs goes there, one with the outputs
comes back, and the folder there is removed. The machine needs a shell, `mktemp` and `tar`; here `ssh` is called as the
user has it set up (keys, `~/.ssh/config`), and asks for a password on the terminal where it has to.
"""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from nomul.backends.recording import npy_bytes
from nomul.deployable import Deployable
from nomul.ir.errors import NomulError
from nomul.runtime.tensors import numpy_dtype

_URL = re.compile(
    r"ssh://(?P<user>[^@/:\s-][^@/:\s]*@)?(?P<host>\[[0-9A-Za-z:.%]+\]|[^@/:\s-][^@/:\s]*)(?::(?P<port>\d{1,5}))?/?"
)
_MARK = b"nomul: outputs follow\n"  # what a login shell prints comes before it
_OTHER_MACHINE, _NO_FOLDER, _NO_ROOM, _NO_RESULT = 81, 82, 83, 84  # exit statuses of the script below
_SSH_FAILED = 255
_SCRIPT = """\
case "$(uname -s) $(uname -m)" in {machines}) ;; *) uname -sm >&2; exit 81;; esac
folder=$(mktemp -d) || exit 82
trap "rm -rf \\"$folder\\"" EXIT
trap "exit 85" HUP INT TERM
cd "$folder" && mkdir out || exit 82
tar xf - || exit 83
chmod +x nomul-run
./nomul-run {arguments} >&2 || exit
printf "{mark}"
tar cf - out || exit 84
"""

# What `uname -s` and `uname -m` say where programs for a target's architecture and system run.
_MACHINES = {
    "aarch64-linux": "Linux\\ aarch64|Linux\\ arm64",
    "aarch64-macos": "Darwin\\ arm64",
    "arm-linux": "Linux\\ armv7*|Linux\\ armv8*|Linux\\ aarch64",
    "riscv64-linux": "Linux\\ riscv64",
    "x86_64-linux": "Linux\\ x86_64|Linux\\ amd64",
}


@dataclass(frozen=True)
class Host:
    """Where ssh goes. destination: `user@host`, or a name of the user's ssh configuration."""

    destination: str
    port: int | None = None

    @classmethod
    def parse(cls, url: str) -> Host:
        """From `ssh://[user@]host[:port]`. Raises NomulError (NM020)."""
        match = _URL.fullmatch(url)
        port = int(match["port"]) if match and match["port"] else None
        if match is None or (port is not None and not 0 < port < 65536):
            raise NomulError("NM020", f"'{url}' names no machine", help="write ssh://user@host or ssh://user@host:port")
        return cls(f"{match['user'] or ''}{match['host'].strip('[]')}", port)

    def command(self, script: str) -> list[str]:
        """The call of ssh that runs the script there in a plain shell, whatever the user's own shell is."""
        port = ["-p", str(self.port)] if self.port else []
        return ["ssh", "-T", *port, "--", self.destination, f"sh -c {shlex.quote(script)}"]


def run_remote(
    host: Host, model: Deployable, inputs: Sequence[np.ndarray], *, threads: int = 1, level: str | None = None
) -> list[np.ndarray]:
    """The outputs of one run there. inputs: one array per input port.

    Raises NomulError (NM021 no connection, NM022 the machine has no room or no tar, NM023 the run failed)."""
    arguments = [f"{port['name']}=input_{index}.npy" for index, port in enumerate(model.inputs)]
    for index, port in enumerate(model.outputs):
        arguments += ["--output", f"{port['name']}=out/{index}.npy"]
    arguments += ["--threads", str(threads), *(["--level", level] if level else []), *model.options]
    words = {"arguments": shlex.join(arguments), "mark": _MARK.decode().strip() + "\\n"}
    script = _SCRIPT.format(machines=_MACHINES[model.machine], **words)
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as taken:
        _pack(given, model, inputs)
        _call(host, host.command(script), given, taken, model)
        return _unpack(host, taken, model.outputs)


def _pack(file: IO[bytes], model: Deployable, inputs: Sequence[np.ndarray]) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, path in model.files.items():
            archive.add(path, name, recursive=False, filter=_anonymous)
        for index, array in enumerate(inputs):
            data = npy_bytes(array)
            member = tarfile.TarInfo(f"input_{index}.npy")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    file.seek(0)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _call(host: Host, command: list[str], given: IO[bytes], taken: IO[bytes], model: Deployable) -> None:
    with tempfile.TemporaryFile() as errors:
        try:
            status = subprocess.run(command, stdin=given, stdout=taken, stderr=errors, check=False).returncode
        except FileNotFoundError:
            help = "install OpenSSH's client, or copy the bundle yourself and run nomul-run there"
            raise NomulError("NM021", "there is no program ssh", help=help) from None
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip()
    if status:
        raise _fault(host.destination, status, said, model)


def _fault(name: str, status: int, said: str, model: Deployable) -> NomulError:
    if status == _SSH_FAILED:
        help = f"does `ssh {name} true` work?"
        return NomulError("NM021", f"cannot connect to {name}: {_last(said)}", help=help)
    if status == _OTHER_MACHINE:
        help = "compile for it: `nomul list targets`"
        return NomulError("NM023", f"{name} is {_last(said)}, the artifact is for {model.target}", help=help)
    if status in (_NO_FOLDER, _NO_ROOM, _NO_RESULT):
        help = "it needs mktemp, tar and room in its temporary folder (`df -h /tmp`; TMPDIR there names another)"
        return NomulError("NM022", f"{name} cannot take or give files: {_last(said)}", help=help)
    if status in (126, 127):
        help = "its temporary folder may forbid programs (TMPDIR there names another), or it is another machine"
        return NomulError("NM023", f"{name} cannot start the program: {_last(said)}", help=help)
    if status > 128:
        help = "compile for a machine with fewer features, or report this"
        return NomulError("NM023", f"the run on {name} ended by signal {status - 128}", help=help)
    return NomulError("NM023", f"on {name}: {_last(said).removeprefix('nomul-run: ')}")


def _last(said: str) -> str:
    return said.splitlines()[-1] if said else "it did not say why"


def _unpack(host: Host, file: IO[bytes], ports: Sequence[dict[str, Any]]) -> list[np.ndarray]:
    file.seek(0)
    _, mark, archive_bytes = file.read().partition(_MARK)
    try:
        if not mark:
            raise ValueError("nothing came back")
        with tarfile.open(fileobj=io.BytesIO(archive_bytes)) as archive:
            return [_output(archive, f"out/{index}.npy", port["dtype"]) for index, port in enumerate(ports)]
    except (tarfile.TarError, KeyError, ValueError, EOFError, OSError) as error:
        raise NomulError("NM022", f"what {host.destination} sent back is damaged: {error}") from error


def _output(archive: tarfile.TarFile, name: str, dtype: str) -> np.ndarray:
    member = archive.extractfile(name)
    if member is None:
        raise ValueError(f"{name} is no file")
    array: np.ndarray = np.load(io.BytesIO(member.read()), allow_pickle=False)
    return array.view(numpy_dtype(dtype))  # numpy does not know bf16
