"""The parser under atheris (coverage-guided; `pip install atheris`), beginning with all filetests:

    python tests/fuzz/fuzz_text.py [-max_total_time=600] [-max_len=1500] [more options of libFuzzer] [CORPUS_FOLDER]

It stops at the first text that breaks a promise (`text_promises.py`) or takes longer than 5 seconds, and writes it to
a file. Each run prints executions and coverage.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

with atheris.instrument_imports(include=["nomul.ir", "lark"]):
    from fuzz.text_promises import hold

    from nomul.ir.op import all_ops
    from nomul.ir.parser import parse_module

WORDS = r"""nomul.ir 1|level exec|after fuse.fuse|dim S in [1, 9]|weight @w : | from \"k\"|func @main(|) -> (|return |
loc(\"a\")|f32[S]|as ternary<planes=2, group=32>|//2|inf|nan|none""".replace("\n", "").split("|")


def one(data: bytes) -> None:
    hold(data.decode("utf-8", "replace"))


def main() -> None:
    parse_module("nomul.ir 1\nfunc @main(%x: f32[1]) -> (f32[1]) {\n  return %x\n}\n")  # build the tables first
    with tempfile.TemporaryDirectory() as folder:
        seeds = Path(folder) / "seeds"
        seeds.mkdir()
        for path in (TESTS / "filetests").rglob("*.nir"):
            text = path.read_text(encoding="utf-8").split("; ==== expected", 1)[0]
            kept = "\n".join(line.partition("; error")[0] for line in text.split("\n") if not line.startswith(";"))
            (seeds / f"{path.parent.name}.{path.stem}").write_text(kept, encoding="utf-8")
        words = Path(folder) / "words"
        words.write_text("".join(f'"{word}"\n' for word in (*WORDS, *all_ops())), encoding="utf-8")
        options = [f"-dict={words}", "-timeout=5", "-max_len=1500", "-max_total_time=600", *sys.argv[1:], str(seeds)]
        atheris.Setup([sys.argv[0], *options], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
