"""Checks and simplifies the JSON of a saved program, so that deserialising it can run no code from the file.

torch evaluates size expressions (sympify), generates Python source from node names, resolves operator names through
attributes of the torch module, and imports classes named in tree specifications. Each of these strings must have one of
the few forms that torch.export.save writes; everything that is not needed is dropped.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from nomul.frontend.common import BAD_SOURCE
from nomul.ir.errors import NomulError

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,400}")
_TARGET = re.compile(
    r"torch\.ops\.(aten|prims)\.\w+\.\w+"
    r"|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|tag_activation_checkpoint)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pos|pow|getitem|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|math\.(ceil|floor|trunc|sqrt)"
    r"|torch\._?sym_(float|int|max|min|not|ite|sum|sqrt)"
)
_NAMES = ("name", "as_name", "user_input_name")
_KEPT_METADATA = ("stack_trace", "nn_module_stack")
_FUNCTIONS = frozenset(
    (
        "Symbol",
        "Integer",
        "Float",
        "Rational",
        "Add",
        "Mul",
        "Pow",
        "Max",
        "Min",
        "Mod",
        "FloorDiv",
        "CeilDiv",
        "CleanDiv",
        "PythonMod",
        "ModularIndexing",
        "Where",
        "CeilToInt",
        "FloorToInt",
        "TruncToInt",
        "TruncToFloat",
        "RoundToInt",
        "ToFloat",
        "Identity",
        "IntTrueDiv",
        "FloatTrueDiv",
        "PowByNatural",
        "FloatPow",
        "Eq",
        "Ne",
        "Lt",
        "Le",
        "Gt",
        "Ge",
        "Equality",
        "Unequality",
        "StrictLessThan",
        "LessThan",
        "StrictGreaterThan",
        "GreaterThan",
        "And",
        "Or",
        "Not",
    )
)
_ARGUMENTS = re.compile(
    r"as_(none|name|expr|graph|device|layout|memory_format|scalar_type|complex|nested_tensors|int_lists"
    r"|(sym_)?(int|float|bool)s?|strings?|(optional_)?tensors?)"
)
_POWERS = ("Pow", "PowByNatural", "FloatPow")
_MAX_TEXT, _MAX_POWERS, _MAX_EXPONENT = 20_000, 8, 4


def clean_program(program: Any) -> Any:
    """The program's JSON, checked and simplified. Raises NomulError (NM200) for a string of any other form."""
    program["guards_code"] = []
    graph_module = program["graph_module"]
    graph_module["metadata"] = {}
    graph_module["treespec_namedtuple_fields"] = {}
    graph_module["module_call_graph"] = [_entry(graph_module["module_call_graph"])]
    return _clean(program)


def _entry(entries: list[Any]) -> Any:
    """The call of the model itself; those of its parts are not needed."""
    root = next((entry for entry in entries if entry["fqn"] == ""), None)
    if root is None or root["signature"] is None:
        return {"fqn": "", "signature": None}
    signature = dict(root["signature"])
    for key in ("in_spec", "out_spec"):
        version, spec = json.loads(signature[key])
        signature[key] = json.dumps([version, _tree(spec)])
    return {"fqn": "", "signature": signature}


def _tree(spec: Any) -> Any:
    """A tree specification of tuples, lists and dicts only. A class whose fields are known becomes a dict of them."""
    if spec["type"] is None:
        return {"type": None, "context": None, "children_spec": []}
    children = [_tree(child) for child in spec["children_spec"]]
    if spec["type"] in ("builtins.tuple", "builtins.list"):
        return {"type": spec["type"], "context": "null", "children_spec": children}
    keys = _keys(spec["context"])
    if len(keys) == len(children) and all(isinstance(key, str) for key in keys):
        return {"type": "builtins.dict", "context": json.dumps(keys), "children_spec": children}
    return {"type": "builtins.list", "context": "null", "children_spec": children}


def _keys(context: Any) -> list[Any]:
    """Keys of a dict, or field names of a class, which are the first list in its context."""
    try:
        keys = json.loads(context) if isinstance(context, str) else context
    except ValueError:
        return []
    while isinstance(keys, list) and keys and isinstance(keys[0], list):
        keys = keys[0]
    return keys if isinstance(keys, list) else []


def _clean(value: Any, key: str = "") -> Any:
    if isinstance(value, list):
        return [_clean(item, key) for item in value]
    if not isinstance(value, dict):
        return _text(value, key) if isinstance(value, str) else value
    if key in ("device", "as_device"):
        return {"type": "cpu", "index": None}
    if key == "metadata":
        return {name: text for name, text in value.items() if name in _KEPT_METADATA and isinstance(text, str)}
    for name in value:
        if name.startswith("as_"):
            _match(_ARGUMENTS, name, "kind of argument")
    if key in ("tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values", "range_constraints"):
        for name in value:
            _match(_IDENTIFIER, name, "name")
    return {name: _clean(item, name) for name, item in value.items()}


def _text(text: str, key: str) -> str:
    if key in _NAMES and text:
        return _match(_IDENTIFIER, text, "name")
    if key == "target":
        return _match(_TARGET, text, "operator")
    if key == "expr_str":
        return check_expression(text)
    return text


def _match(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise NomulError(BAD_SOURCE, f"the program holds the {what} {text[:80]!r}, which torch.export does not write")
    return text


def check_expression(text: str) -> str:
    """A size expression: calls of known functions on numbers and symbols, with small powers. Raises NomulError."""
    try:
        tree = ast.parse(text, mode="eval") if len(text) <= _MAX_TEXT else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    if tree is None or not _allowed(tree.body):
        raise NomulError(BAD_SOURCE, f"the program holds the size {text[:80]!r}, which torch.export does not write")
    powers = sum(isinstance(node, ast.Name) and node.id in _POWERS for node in ast.walk(tree))
    if powers > _MAX_POWERS:
        raise NomulError(BAD_SOURCE, "a size of the program has too many powers")
    return text


def _allowed(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, bool) or (isinstance(node.value, int | float) and abs(node.value) < 1 << 64)
    if isinstance(node, ast.Name):  # a plain symbol
        return re.fullmatch(r"[suz]f?\d+", node.id) is not None
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and _allowed(node.operand)
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Add | ast.Sub | ast.Mult) and _allowed(node.left) and _allowed(node.right)
    return isinstance(node, ast.Call) and _allowed_call(node)


def _allowed_call(node: ast.Call) -> bool:
    if not isinstance(node.func, ast.Name) or node.func.id not in _FUNCTIONS:
        return False
    if not all(keyword.arg and isinstance(keyword.value, ast.Constant) for keyword in node.keywords):
        return False
    name, args = node.func.id, node.args
    if name in ("Symbol", "Float"):  # Symbol('s77', integer=True), Float('0.5', precision=53)
        return len(args) == 1 and _quoted(args[0])
    if name in _POWERS and not (len(args) == 2 and _small(args[1])):
        return False
    return all(_allowed(arg) for arg in args)


def _quoted(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"[\w.+-]{1,40}", node.value) is not None
    )


def _small(node: ast.AST) -> bool:
    """A small integer exponent, plain or as Integer(n)."""
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Integer"
        and len(node.args) == 1
    ):
        node = node.args[0]
    return isinstance(node, ast.Constant) and isinstance(node.value, int) and 0 <= node.value <= _MAX_EXPONENT
