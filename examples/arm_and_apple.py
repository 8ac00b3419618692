"""The sentence encoder for machines that are not here (`make demo-arm`): a Raspberry Pi 5 and an Apple M1.

Compiles paraphrase-MiniLM-L3 to a bundle for the Pi, runs its program under qemu on the sentences of `make demo`, and
compares with the library for this machine; then compiles the library for the Mac and checks all that macOS checks.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from real_models import minilm_l3
from sentence_encoder import EMBEDDING, SENTENCES
from wordpiece import WordPiece

import nomul
from nomul.backends.macho_check import problems
from nomul.compare import difference
from nomul.console import progress_bar, say, size_text, table
from nomul.memory import scratch_bytes
from nomul.runtime.trailer import read_facts

BUILD = Path("build/demo-arm")
DIMS = {"batch_size": (1, 8), "sequence_length": (1, 512)}
TOLERANCE = 1e-4
AARCH64 = 183  # e_machine of an ELF file


def main() -> int:
    BUILD.mkdir(parents=True, exist_ok=True)
    source = minilm_l3()
    bundle, seconds = compile_for("rpi5", source, BUILD / "rpi5")
    print_bundle(bundle, seconds)
    right = run_on_board(bundle, source)
    library, seconds = compile_for("apple-m1", source, BUILD / "sentence_encoder.dylib")
    return 0 if check_library(library, seconds) and right else 1


def compile_for(target: str, source: Path, output: Path) -> tuple[Path, float]:
    """The library that was written, and the seconds that it took."""
    start = time.perf_counter()
    with progress_bar() as progress:
        library = nomul.build(source, output=output, target=target, dims=DIMS, progress=progress)
    return library, time.perf_counter() - start


def print_bundle(library: Path, seconds: float) -> None:
    """Sizes, and the memory of a run."""
    facts = read_facts(library)
    weights = facts["weights"]["bytes"]
    dims = {"batch_size": 1, "sequence_length": 128}
    rows = [
        ("compile time", f"{seconds:.1f} s"),
        ("code of the library: kernels, driver, runtime", size_text(library.stat().st_size - weights)),
        ("weights", size_text(weights)),
        ("memory of a run, one text of 128 tokens", size_text(scratch_bytes(facts, dims))),
    ]
    table("Bundle", ("", f"{library.parent}, for {facts['target']}"), rows)


def run_on_board(library: Path, source: Path) -> bool:
    """Whether the program of the bundle gives what the library for this machine gives; True where it cannot run."""
    program = library.with_name("nomul-run")
    emulator = emulator_of(program)
    if emulator is None:
        say("qemu-aarch64 is not installed (Debian: apt-get install qemu-user), so the program was built but not run")
        return is_static_program(program)
    subprocess.run([*emulator, program, "--selftest"], check=True)
    ids, mask = WordPiece().batch(SENTENCES)
    given = run_program([*emulator, str(program)], ids, mask)
    with nomul.compile(source, dims=DIMS) as artifact:
        expected = artifact(ids, mask)[EMBEDDING]
        apart = difference(expected, given)
        say(f"{len(SENTENCES)} sentences on the Pi and on {artifact.target}, level {artifact.level}:")
    say(f"largest difference {apart.absolute:.1e}, relative to the largest number {apart.relative:.1e}")
    return apart.absolute <= TOLERANCE


def emulator_of(program: Path) -> list[str] | None:
    """The words before the program that run it: none on such a board, qemu elsewhere; None where there is no qemu."""
    if platform.machine() == "aarch64":
        return []
    qemu = shutil.which("qemu-aarch64")
    if qemu is None:
        return None
    known = subprocess.run([qemu, "-cpu", "help"], capture_output=True, text=True, check=False).stdout
    return [qemu, "-cpu", "cortex-a76" if "cortex-a76" in known else "max"]


def is_static_program(program: Path) -> bool:
    """What can be told of an ELF file without running it: 64-bit ARM, and no program interpreter is named."""
    data = program.read_bytes()
    found = data[:5] == b"\x7fELF\2" and int.from_bytes(data[18:20], "little") == AARCH64 and b"ld-linux" not in data
    say(f"{program}: {'a static program for 64-bit ARM' if found else 'NOT a static program for 64-bit ARM'}")
    return found


def run_program(command: Sequence[str], ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The embeddings that nomul-run writes."""
    np.save(BUILD / "input_ids.npy", ids)
    np.save(BUILD / "attention_mask.npy", mask)
    inputs = [f"{name}={BUILD / name}.npy" for name in ("input_ids", "attention_mask")]
    name = read_facts(BUILD / "rpi5" / "model.so")["outputs"][EMBEDDING]["name"]
    subprocess.run([*command, *inputs, "--output", f"{name}={BUILD / 'embeddings.npy'}"], check=True)
    embeddings: np.ndarray = np.load(BUILD / "embeddings.npy")
    return embeddings


def check_library(library: Path, seconds: float) -> bool:
    """Whether macOS would load it."""
    data = library.read_bytes()
    found = problems(data, library.name)
    say(f"{library}: {size_text(len(data))} for Apple M1 in {seconds:.1f} s")
    for problem in found:
        say(f"  wrong: {problem}")
    if not found:
        say("  arm64, exports nm_query alone, needs libSystem alone, macOS 11 or newer, signed ad hoc: all right")
    return not found


if __name__ == "__main__":
    sys.exit(main())
