"""Printer and parser: single forms, error messages in full, weights files, docs. Random ones are in tests/fuzz."""

from __future__ import annotations

import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from test_ir_graph import chain

from nomul.ir.docs import EXAMPLE, document
from nomul.ir.encodings import get_encoding
from nomul.ir.errors import NomulError
from nomul.ir.graph import Constant, Module, Weight
from nomul.ir.op import all_ops
from nomul.ir.parser import parse_module
from nomul.ir.syntax import parse_line
from nomul.ir.text import (
    literal_text,
    name_text,
    node_text,
    operand_column,
    print_module,
    string_text,
    type_text,
    word_text,
)
from nomul.ir.types import DType, Tensor
from nomul.ir.weights_file import load_weights, save_weights


def _read_literal(text: str) -> Constant:
    line = parse_line(f"%x = ew.neg {text} : f32[]")
    return line.operands[0].what


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
def test_every_sixteen_bit_literal_reads_back(dtype: DType) -> None:
    with np.errstate(invalid="ignore"):  # signalling NaNs
        numbers = np.arange(0, 65536, 7, dtype=np.uint16).view(dtype.numpy).astype(np.float64)
    for number in numbers:
        constant = _read_literal(literal_text(Constant(float(number), dtype)))
        assert constant.dtype is dtype
        assert constant.value == number or np.isnan(number)


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (0.1, DType.F32, "0.1"),
        (2.0, DType.F32, "2.0"),
        (-0.0, DType.F32, "-0.0"),
        (1e-5, DType.F32, "1e-05"),
        (3e38, DType.F32, "3e+38"),
        (float("inf"), DType.F32, "inf"),
        (float("-inf"), DType.F16, "-inf:f16"),
        (float("nan"), DType.F64, "nan:f64"),
        (0.1, DType.F64, "0.1:f64"),
        (0.1, DType.BF16, "0.1:bf16"),
        (True, DType.BOOL, "true"),
        (-(2**63), DType.I64, "-9223372036854775808"),
        (255, DType.U8, "255:u8"),
    ],
)
def test_literals(value: float, dtype: DType, text: str) -> None:
    constant = Constant(value, dtype)
    assert literal_text(constant) == text
    again = _read_literal(text)
    assert again.dtype is dtype and str(again.value) == str(constant.value)


def test_names() -> None:
    assert name_text("layers.0_x") == "layers.0_x" and name_text("0") == "0"
    assert name_text("a:0") == '"a:0"' and name_text("") == '""' and name_text("é") == '"é"'
    assert word_text("S") == "S" and word_text("0") == '"0"' and word_text("inf") == '"inf"'
    assert string_text("ü\n\ud800") == '"\\u00fc\\n\\ud800"'


def test_types() -> None:
    assert type_text(Tensor.of("f32", "batch size", 2)) == 'f32["batch size", 2]'
    assert type_text(Tensor(DType.F32, (), get_encoding("f16"))) == "f32[] as f16"


def test_operand_columns() -> None:
    node = chain().main.nodes[1]
    assert [node_text(node)[operand_column(node, i)] for i in (0, 1)] == ["%", "@"]


def test_attributes_equal_to_their_default_are_left_out() -> None:
    node = "  %y = ew.leaky_relu %x {slope=0.01} : f32[2]"
    text = f"nomul.ir 1\nfunc @main(%x: f32[2]) -> (f32[2]) {{\n{node}\n  return %y\n}}\n"
    printed = print_module(parse_module(text))
    assert "  %y = ew.leaky_relu %x : f32[2]\n" in printed
    negative_zero = text.replace("leaky_relu", "hard_sigmoid").replace("slope=0.01", "alpha=-0.0")
    assert "{alpha=-0.0}" in print_module(parse_module(negative_zero))


def test_windows_line_ends_and_tabs() -> None:
    text = print_module(chain())
    assert print_module(parse_module(text.replace("\n", "\r\n").replace("  %", "\t%"))) == text


def test_a_whole_error_message() -> None:
    text = EXAMPLE.replace("nn.linear %x, @l0.wq", "nn.liner %x, @l0.wq")
    with pytest.raises(NomulError) as caught:
        parse_module(text)
    line = next(line for line in text.splitlines() if "nn.liner" in line)
    assert str(caught.value) == "\n".join(
        [
            "error[NM322]: unknown op 'nn.liner'",
            f"     6 | {line}",
            "       |        ^",
            "  help: did you mean nn.linear?",
        ]
    )


def test_errors_behind_a_bad_line_are_told_but_not_their_consequences() -> None:
    text = EXAMPLE.replace("nn.linear %x, @l0.wq", "nn.liner %x, @l0.wq").replace("{k=1, axis=1}", "{k=1, axis=7}")
    with pytest.raises(NomulError) as caught:
        parse_module(text)
    assert [problem.code for problem in caught.value.problems] == ["NM322", "NM304"]


def test_lines_in_messages_are_harmless() -> None:
    with pytest.raises(NomulError) as caught:
        parse_module("nomul.ir 1\nfunc \x1b[31m" + "x" * 5000)
    assert "\x1b" not in str(caught.value).split("\n", 1)[1] and len(str(caught.value)) < 2000


def test_a_caret_stands_inside_what_is_shown() -> None:
    cases = {"weight @w : f32[2] \x1c": " ", f"weight @{'w' * 700} : f32[2,, 3]": ",", f"dim S in {'[' * 700}": "["}
    for line, guilty in cases.items():
        with pytest.raises(NomulError) as caught:
            parse_module(f"nomul.ir 1\n{line}\n")
        (problem,) = caught.value.problems
        assert problem.text is not None and problem.column is not None and len(problem.text) <= 406
        assert problem.text[problem.column] == guilty


@pytest.mark.parametrize("text", ["", "\n", "; nothing\n"])
def test_empty_files(text: str) -> None:
    with pytest.raises(NomulError, match="the file is empty"):
        parse_module(text)


# -- weights files -----------------------------------------------------------------------------------------------
def _weighted() -> Module:
    module, encoding = Module(), get_encoding("bf16")
    module.add_weight(Weight.dense("layers.0/w:0", np.arange(6, dtype=np.float32).reshape(3, 2).T))
    for number, dtype in enumerate(DType):
        module.add_weight(Weight.dense(f"kind{number}", np.ones(3, dtype.numpy)))
    module.add_weight(Weight.dense("scalar", np.array(2.5, np.float32)))
    module.add_weight(Weight.dense("none", np.zeros((0, 4), np.float32)))
    packed = encoding.pack(np.linspace(-1, 1, 8, dtype=np.float32))
    module.add_weight(Weight("half", Tensor(DType.F32, Tensor.of("f32", 8).shape, encoding), packed))
    return module


def _without_data(module: Module) -> Module:
    return parse_module(print_module(module))


def test_weights_come_back(tmp_path: Path) -> None:
    module, path = _weighted(), tmp_path / "w.safetensors"
    save_weights(module, path)
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]
    again = _without_data(module)
    load_weights(again, path)
    for name, weight in module.weights.items():
        assert again.weights[name].fields.keys() == weight.fields.keys()
        for field, array in weight.fields.items():
            np.testing.assert_array_equal(again.weights[name].fields[field], array)
            assert again.weights[name].fields[field].dtype == array.dtype
    assert again.weights["half"].fields["data"].dtype == ml_dtypes.bfloat16
    first = path.read_bytes()
    save_weights(again, path)
    assert path.read_bytes() == first


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    module, path = _weighted(), tmp_path / "w.safetensors"
    save_weights(module, path)
    text = print_module(module).replace("weight @scalar : f32[]", "weight @scalar : f32[2]\nweight @more : f32[2]")
    other = parse_module(text.replace("weight @half : f32[8] as bf16", "weight @half : f32[8]"))
    with pytest.raises(NomulError) as caught:
        load_weights(other, path)
    messages = [problem.message for problem in caught.value.problems]
    assert len(messages) == 3 and {problem.code for problem in caught.value.problems} == {"NM341"}
    assert any("@more is not in w.safetensors" in message for message in messages)
    assert all(not weight.fields for weight in other.weights.values())  # nothing half loaded


def test_weights_that_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(NomulError, match="has no data to save"):
        save_weights(_without_data(_weighted()), tmp_path / "w.safetensors")
    with pytest.raises(NomulError, match="cannot write") as caught:
        save_weights(_weighted(), tmp_path / "nowhere" / "w.safetensors")
    assert caught.value.code == "NM340"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["missing.safetensors", ".", "text"])
def test_files_that_are_no_weights(tmp_path: Path, place: str) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(NomulError, match="cannot read the weights file") as caught:
        load_weights(_without_data(_weighted()), tmp_path / place)
    assert caught.value.code == "NM340"


# -- docs --------------------------------------------------------------------------------------------------------
ROOT = Path(__file__).resolve().parents[2]


def test_docs_are_up_to_date() -> None:
    assert (ROOT / "docs" / "ir.md").read_text(encoding="utf-8") == document(), (
        "run: python -m nomul.ir.docs > docs/ir.md"
    )


def test_docs_name_every_op_and_show_valid_text() -> None:
    text = document()
    assert all(f"| `{name}` |" in text for name in all_ops())
    assert EXAMPLE in text
    parse_module(EXAMPLE)


def test_documented_codes_are_the_raised_ones() -> None:
    """Codes that ir/ raises stand in the explanations of `nomul explain`."""
    explained = (ROOT / "compiler" / "explain" / "ir.md").read_text(encoding="utf-8")
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "ir").glob("*.py")]
    raised = {code for source in sources for code in re.findall(r'"(NM\d{3})"', source)}
    assert raised == set(re.findall(r"^## (NM\d{3}) ", explained, re.MULTILINE))
