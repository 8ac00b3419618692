"""`nomul fmt`: the printer's form, with comments where they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomul.cli import main
from nomul.ir.errors import NomulError
from nomul.ir.format import format_text
from nomul.ir.parser import parse_module
from nomul.ir.text import print_module

FILETESTS = Path(__file__).parents[1] / "filetests"
LOOSE = """\

; a model
nomul.ir   1


weight @w:f32[4,2]   ; two rows
; how long
dim S in [1,9] ; at most nine
func @main(%x :f32[S,2])->(f32[S,4]){
  ; the product

  %y   = nn.linear %x,@w : f32[S, 4] loc("a ; b")   ; no bias
  return %y
}

; the end

"""
TIGHT = """\
; a model
nomul.ir 1
; how long
dim S in [1, 9]  ; at most nine

weight @w : f32[4, 2]  ; two rows
func @main(%x: f32[S, 2]) -> (f32[S, 4]) {
  ; the product

  %y = nn.linear %x, @w : f32[S, 4]                                     loc("a ; b")  ; no bias
  return %y
}

; the end
"""


def test_comments_stay_and_statements_are_sorted() -> None:
    assert format_text(LOOSE) == TIGHT
    assert format_text(TIGHT) == TIGHT


def test_faults_are_told_and_not_formatted() -> None:
    with pytest.raises(NomulError) as error:
        format_text(LOOSE.replace("nn.linear", "nn.liner"))
    assert (error.value.problems[0].code, error.value.problems[0].line) == ("NM322", 12)


@pytest.mark.parametrize("path", sorted(FILETESTS.rglob("*.nir")), ids=lambda path: path.stem)
def test_filetests_keep_their_meaning(path: Path) -> None:
    text = path.read_text(encoding="utf-8").split("; ==== expected", 1)[0]
    try:
        module = parse_module(text)
    except NomulError:
        return
    formatted = format_text(text)
    assert print_module(parse_module(formatted)) == print_module(module)
    assert [line for line in formatted.splitlines() if line.startswith(";")] == [
        line.rstrip() for line in text.splitlines() if line.startswith(";")
    ]
    assert format_text(formatted) == formatted


def test_the_command_changes_or_only_looks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.nir"
    path.write_text(LOOSE)
    assert main(["fmt", "--check", str(path)]) == 1
    assert path.read_text() == LOOSE and f"would change {path}" in capsys.readouterr().out
    assert main(["fmt", str(path)]) == 0
    assert path.read_text() == TIGHT and f"changed {path}" in capsys.readouterr().out
    assert main(["fmt", "--check", str(path)]) == 0
    assert capsys.readouterr().out == ""
    assert main(["fmt", str(tmp_path / "none.nir")]) == 1
    assert "error[NM003]" in capsys.readouterr().err
