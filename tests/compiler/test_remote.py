"""`nomul run --on`: a board that is a folder behind a false ssh, one of another architecture, and a real sshd."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nomul.api import build
from nomul.cli import main
from nomul.ir.errors import NomulError
from nomul.ir.parser import parse_module
from nomul.remote import Host

MODEL = """\
nomul.ir 1
dim S in [1, 512]
weight @w : f32[3, 4]
func @main(%x: f32[S, 4], %i: i64[S]) -> (y: f32[S, 3], k: i64[S]) {
  %y = nn.linear %x, @w : f32[S, 3]
  %k = ew.add %i, 2 : i64[S]
  return %y, %k
}
"""
X = np.arange(20, dtype=np.float32).reshape(5, 4)
I = np.arange(5, dtype=np.int64)  # noqa: E741
W = np.arange(12, dtype=np.float32).reshape(3, 4)

# What the board is: the last argument of ssh is a script for its shell. {before} stands for faults and other machines.
SSH = """\
#!/bin/sh
echo "$*" | head -n 1 >> "{folder}/calls"
for script; do :; done
PATH="{folder}/board:$PATH" TMPDIR="{folder}/tmp"
export PATH TMPDIR
{before}
sh -c "$script"
"""
EMULATED_CHMOD = """\
#!/bin/sh
mv "$2" "$2.real"
printf '#!/bin/sh\\nexec {emulator} "$0.real" "$@"\\n' > "$2"
/bin/chmod +x "$2" "$2.real"
"""


class Board:
    """A machine that `ssh` of this object's PATH reaches: a folder here."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        for name in ("bin", "board", "tmp"):
            (folder / name).mkdir()
        self.behave("")
        monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")

    def behave(self, before: str) -> None:
        self.program("bin/ssh", SSH.format(folder=self.folder, before=before))

    def program(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def be(self, system: str, machine: str) -> None:
        self.program("board/uname", f'#!/bin/sh\n[ "$1" = -s ] && echo {system}\n[ "$1" = -m ] && echo {machine}\n'
                     f'[ "$1" = -sm ] && echo {system} {machine}\nexit 0\n')  # fmt: skip

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    return Board(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles and libraries for this machine and for 64-bit ARM, and the inputs."""
    folder = tmp_path_factory.mktemp("models")
    for target, name in (("host", "here"), ("aarch64-linux", "arm")):
        module = parse_module(MODEL)
        module.weights["w"].fields["data"] = W
        build(module, output=folder / name, target=target)
    module = parse_module(MODEL)
    module.weights["w"].fields["data"] = W
    build(module, output=folder / "model.so", weights="external")
    np.save(folder / "x.npy", X)
    np.save(folder / "i.npy", I)
    return folder


def run(models: Path, artifact: str, url: str, *words: str) -> int:
    inputs = [f"x={models / 'x.npy'}", f"i={models / 'i.npy'}"]
    return main(["run", "--on", url, str(models / artifact), *([] if "--random" in words else inputs), *words])


def results(path: Path) -> dict[str, np.ndarray]:
    return dict(np.load(path))


@pytest.mark.parametrize("artifact", ["here", "model.so"])
def test_results_come_back_and_nothing_is_left_there(artifact: str, board: Board, models: Path, tmp_path: Path) -> None:
    assert run(models, artifact, "ssh://me@board:2222", "-o", str(tmp_path / "out.npz"), "--threads", "2") == 0
    found = results(tmp_path / "out.npz")
    np.testing.assert_allclose(found["y"], X @ W.T, rtol=1e-6)
    np.testing.assert_array_equal(found["k"], I + 2)
    assert len(board.calls) == 1 and board.calls[0].startswith("-T -p 2222 -- me@board sh -c ")
    assert list((board.folder / "tmp").iterdir()) == []


def test_random_inputs_and_a_login_shell_that_prints(
    board: Board, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board.behave("echo Welcome to the board")
    assert run(models, "here", "ssh://board", "--random", "--dim", "S=3") == 0
    assert "y: float32[3, 3]" in capsys.readouterr().out


def test_a_board_of_another_architecture(board: Board, models: Path, tmp_path: Path) -> None:
    emulator = shutil.which("qemu-aarch64")
    if emulator is None:
        pytest.skip("no qemu-aarch64 here to be the board")
    board.be("Linux", "aarch64")
    board.program("board/chmod", EMULATED_CHMOD.format(emulator=emulator))
    assert run(models, "arm", "ssh://board", "-o", str(tmp_path / "out.npz")) == 0
    np.testing.assert_allclose(results(tmp_path / "out.npz")["y"], X @ W.T, rtol=1e-6)


def fails(capsys: pytest.CaptureFixture[str], code: int) -> str:
    assert code == 1
    return capsys.readouterr().err


def test_a_board_of_the_wrong_architecture(board: Board, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board.be("Linux", "armv7l")
    err = fails(capsys, run(models, "arm", "ssh://board"))
    assert "NM023" in err and "board is Linux armv7l, the artifact is for aarch64-linux" in err
    board.be("Linux", "aarch64")  # it says so, but cannot run it
    err = fails(capsys, run(models, "arm", "ssh://board"))
    assert "NM023" in err and list((board.folder / "tmp").iterdir()) == []


def test_no_connection(board: Board, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board.behave("echo 'ssh: connect to host board port 22: Connection refused' >&2; exit 255")
    err = fails(capsys, run(models, "here", "ssh://board"))
    assert "NM021" in err and "Connection refused" in err and "does `ssh board true` work?" in err


def test_no_ssh(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no program ssh" in fails(capsys, run(models, "here", "ssh://board"))


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ("TMPDIR=/nowhere", "cannot take or give files"),
        ("ulimit -f 8", "cannot take or give files"),
        ("exit 0", "sent back is damaged: nothing came back"),
        ("printf 'nomul: outputs follow\\n'; echo rubbish; exit 0", "sent back is damaged"),
    ],
)
def test_a_board_that_cannot_take_or_give_files(
    before: str, message: str, board: Board, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board.behave(before)
    err = fails(capsys, run(models, "here", "ssh://board"))
    assert "NM022" in err and message in err


def test_a_full_disk(board: Board, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board.program("board/tar", "#!/bin/sh\necho 'tar: write error: No space left on device' >&2\nexit 2\n")
    err = fails(capsys, run(models, "here", "ssh://board"))
    assert "NM022" in err and "cannot take or give files: tar: write error: No space left on device" in err


def test_the_words_of_the_runner(board: Board, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    err = fails(capsys, run(models, "here", "ssh://board", "--level", "v9"))
    assert "NM023" in err and "on board: the model has no level v9" in err
    np.save(models / "wrong.npy", X[:, :3])
    words = ["run", "--on", "ssh://board", str(models / "here"), f"x={models / 'wrong.npy'}", f"i={models / 'i.npy'}"]
    assert "NM023" in fails(capsys, main(words))


def test_a_folder_that_is_no_bundle(board: Board, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "NM024" in fails(capsys, run(models, ".", "ssh://board"))


def test_names_of_machines() -> None:
    assert Host.parse("ssh://pi@raspberrypi.local") == Host("pi@raspberrypi.local")
    assert Host.parse("ssh://board:2222/") == Host("board", 2222)
    assert Host.parse("ssh://me@[fe80::1%eth0]:22") == Host("me@fe80::1%eth0", 22)
    for wrong in ("b", "http://b", "ssh://", "ssh://-oProxyCommand=x", "ssh://-u@b", "ssh://b:99999", "ssh://a b"):
        with pytest.raises(NomulError, match="names no machine"):
            Host.parse(wrong)


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[int]:
    """The port of a real ssh server on this machine; the key that it wants is in tmp_path."""
    server = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")
    if server is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no sshd here")
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    options = {
        "HostKey": tmp_path / "host_key",
        "AuthorizedKeysFile": tmp_path / "user_key.pub",
        "ListenAddress": f"127.0.0.1:{port}",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    with subprocess.Popen([server, "-D", "-f", "/dev/null", *words], stderr=subprocess.DEVNULL) as process:
        time.sleep(0.5)
        try:
            yield port
        finally:
            process.terminate()


def test_through_a_real_ssh_server(sshd: int, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ssh = shutil.which("ssh")
    if ssh is None:
        pytest.skip("no ssh here")
    options = f"-i {tmp_path / 'user_key'} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(f'#!/bin/sh\nexec {ssh} {options} "$@"\n')
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    url = f"ssh://{getpass.getuser()}@127.0.0.1:{sshd}"
    assert run(models, "here", url, "-o", str(tmp_path / "out.npz")) == 0
    np.testing.assert_array_equal(results(tmp_path / "out.npz")["k"], I + 2)
