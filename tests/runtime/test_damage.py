"""Damaged artifacts: whatever happens to the bytes, loading one is refused with a reason and never crashes."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from toy_artifact import HOST

from nomul.runtime.errors import RuntimeFault
from nomul.runtime.loader import load
from nomul.runtime.trailer import append_trailer

_TRY_MUTATIONS = """
import random, sys
from pathlib import Path
from nomul.runtime.errors import RuntimeFault
from nomul.runtime.loader import load

source, victim, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
original = source.read_bytes()
random.seed(7)
codes = {}
for turn in range(count):
    data = bytearray(original)
    kind = random.choice(["flip", "flip", "cut", "zero", "splice", "grow"])
    at = random.choice([random.randrange(len(data)), random.randrange(64), len(data) - 1 - random.randrange(64)])
    if kind == "flip":
        data[at] ^= 1 << random.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "zero":
        data[at : at + 64] = bytes(len(data[at : at + 64]))
    elif kind == "splice":
        data[at : at + 32] = random.randbytes(len(data[at : at + 32]))
    else:
        data[at:at] = random.randbytes(1 + random.randrange(16))
    if data == original:
        continue
    victim.write_bytes(data)
    try:
        load(victim)
        sys.exit(f"turn {turn}: {kind} at {at} was not noticed")
    except RuntimeFault as fault:
        codes[fault.code] = codes.get(fault.code, 0) + 1
print(codes)
"""


def test_two_thousand_mutations_are_all_refused(toy_library: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _TRY_MUTATIONS, str(toy_library), str(tmp_path / "victim.so"), "2000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NM603" in done.stdout and "NM602" in done.stdout and "Traceback" not in done.stderr


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.so", tmp_path):
        with pytest.raises(RuntimeFault, match="cannot read") as caught:
            load(path)
        assert caught.value.code == "NM601"


@pytest.mark.parametrize("data", [b"", b"x", b"\x7fELF" + bytes(100), random.Random(1).randbytes(1000)])
def test_files_that_are_no_artifacts(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "other.so"
    path.write_bytes(data)
    with pytest.raises(RuntimeFault, match="is no nomul artifact") as caught:
        load(path)
    assert caught.value.code == "NM602"


def test_an_artifact_for_another_machine(toy_library: Path, tmp_path: Path) -> None:
    path = tmp_path / "arm.so"
    data = bytearray(toy_library.read_bytes())
    data[18:20] = (183).to_bytes(2, "little")  # e_machine: AArch64
    path.write_bytes(data)
    append_trailer(path, {"target": "aarch64-linux"})
    with pytest.raises(RuntimeFault, match="is for aarch64-linux; this is x86_64 Linux") as caught:
        load(path)
    assert caught.value.code == "NM604"


def test_a_library_that_the_system_refuses(toy_library: Path, tmp_path: Path) -> None:
    path = tmp_path / "broken.so"
    path.write_bytes(toy_library.read_bytes()[:64])
    append_trailer(path, {})
    with pytest.raises(RuntimeFault, match="the system cannot load") as caught:
        load(path)
    assert caught.value.code == "NM605"


def test_a_library_of_another_kind(tmp_path: Path) -> None:
    from nomul.backends.zig import zig

    (tmp_path / "other.c").write_text("int other(void) { return 1; }\n")
    zig(["cc", "-target", HOST, "-shared", "-O1", "other.c", "-o", "other.so"], tmp_path)
    append_trailer(tmp_path / "other.so", {})
    with pytest.raises(RuntimeFault, match="has no nm_query"):
        load(tmp_path / "other.so")


def test_an_artifact_of_another_version(tmp_path: Path) -> None:
    from nomul.backends.zig import zig

    (tmp_path / "old.c").write_text("const void *nm_query(unsigned abi) { return abi == 0 ? &nm_query : 0; }\n")
    zig(["cc", "-target", HOST, "-shared", "-O1", "old.c", "-o", "old.so"], tmp_path)
    append_trailer(tmp_path / "old.so", {})
    with pytest.raises(RuntimeFault, match="speaks another version of the C interface than 1"):
        load(tmp_path / "old.so")
