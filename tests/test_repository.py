"""Rules that the whole repository keeps: who imports whom, how long files and functions are, what every file says."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("ir", "passes", "backends", "runtime", "compiler")
MAY_IMPORT = {
    "ir": {"ir"},
    "passes": {"ir", "passes"},
    "backends": {"ir", "backends", "runtime"},
    "runtime": {"runtime"},
    "compiler": set(STAGES),
}
IR_LIBRARIES = {"nomul", "numpy", "lark", "networkx", "ml_dtypes", "safetensors", *sys.stdlib_module_names}
HOMES = {  # heavy libraries, and the only folders that may import them
    "tvm": ("backends",),
    "torch": ("compiler/frontend/torch",),
    "onnx": ("compiler/frontend/onnx",),
    "onnxruntime": ("compiler/compare.py",),
    "ziglang": (),  # run as a program: python -m ziglang
}
FILE_LINES, FUNCTION_LINES = 400, 40
LONG_FILES: dict[str, str] = {}  # path -> reason
LONG_FUNCTIONS: dict[str, str] = {}  # path:function -> reason

SOURCES = sorted(path for stage in STAGES for path in (ROOT / stage).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
OTHERS = sorted(path for folder in ("examples", "benchmarks") for path in (ROOT / folder).rglob("*.py"))


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imports(path: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, inside functions too."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_name(path)}:{node.lineno} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _stage(module: str) -> str | None:
    """The stage that a `nomul` module belongs to; None for another library."""
    first, _, rest = module.partition(".")
    if first != "nomul":
        return None
    second = rest.partition(".")[0]
    return second if second in STAGES[:-1] else "compiler"


def test_stages_import_only_what_lies_below_them() -> None:
    wrong = []
    for path in SOURCES:
        allowed = MAY_IMPORT[path.relative_to(ROOT).parts[0]]
        wrong += [(_name(path), name) for name in _imports(path) if (stage := _stage(name)) and stage not in allowed]
    assert wrong == []


def test_libraries_are_imported_at_home_only() -> None:
    wrong = []
    for path in SOURCES:
        for name in _imports(path):
            library = name.partition(".")[0]
            strange = _name(path).startswith("ir/") and library not in IR_LIBRARIES
            if strange or not _name(path).startswith(HOMES.get(library, "")):
                wrong.append((_name(path), library))
    assert wrong == []


def test_importing_nomul_loads_no_heavy_library() -> None:
    script = f"import nomul, sys; print([n for n in {[*HOMES, 'transformers']!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Without signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def _long_ones() -> tuple[dict[str, int], dict[str, int]]:
    """Files and functions over the budget, with their lengths; a test's table of cases may be a long function."""
    files, functions = {}, {}
    for path in [*SOURCES, *TESTS, *OTHERS]:
        length = len(path.read_text(encoding="utf-8").splitlines())
        if length > FILE_LINES:
            files[_name(path)] = length
        for node in ast.walk(_tree(path)):
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if is_function and path not in TESTS and _lines(node) > FUNCTION_LINES:
                functions[f"{_name(path)}:{node.name}"] = _lines(node)
    return files, functions


def test_files_and_functions_are_short() -> None:
    """An exception has a reason, and goes when it is not needed any more."""
    files, functions = _long_ones()
    assert (sorted(files), sorted(functions)) == (sorted(LONG_FILES), sorted(LONG_FUNCTIONS)), (files, functions)


def test_every_file_says_what_lives_in_it() -> None:
    silent = [
        path for path in SOURCES if path.read_text(encoding="utf-8").strip() and not ast.get_docstring(_tree(path))
    ]
    assert [_name(path) for path in silent] == []


def test_nothing_is_left_unfinished() -> None:
    """No marks of unfinished work, no path of one machine."""
    marks = ["TO" + "DO", "FIX" + "ME", "X" + "XX", "/ho" + "me/", "/wor" + "k/", "/ro" + "ot/"]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    for name in tracked:
        path = ROOT / name
        if name and path.is_file() and path.suffix in {".py", ".md", ".c", ".h", ".toml", ".lark", ".nir", ""}:
            text = path.read_text(encoding="utf-8")
            assert [mark for mark in marks if mark in text] == [], name


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports test files by their base name."""
    names = [path.name for path in TESTS if path.name != "conftest.py"]
    assert sorted(set(names)) == sorted(names)


def test_every_encoding_has_a_kernel_for_linear_layers() -> None:
    from nomul.backends.registry import all_kernels
    from nomul.ir.encodings import all_encodings

    served = {kernel.encoding for kernel in all_kernels().values() if kernel.op == "nn.linear"}
    assert set(all_encodings()) <= served
