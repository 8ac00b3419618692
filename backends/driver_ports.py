"""The part of model.c about ports: tables of dims and ports, and how shapes and dims follow from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nomul.backends import c_text
from nomul.backends.driver_sizes import IntRanges
from nomul.backends.plan import Plan, Port
from nomul.ir.dim import Dim
from nomul.ir.errors import NomulError

MAX_RANK, MAX_DIMS, MAX_PORTS = 16, 32, 4096  # as in nomul.h and nomul_rt.h


class DimNames:
    """How C spells each dim: `index` in arrays of dims (DIM_S), `local` as a local variable (dim_S)."""

    def __init__(self, ranges: IntRanges) -> None:
        self.ranges = ranges
        self.index = c_text.unique_identifiers(ranges, "DIM_")
        self.local = c_text.unique_identifiers(ranges, "dim_")

    def text(self, dim: Dim) -> str:
        return c_text.expression(dim, self.local, self.ranges)

    def locals(self, dims: Sequence[Dim], source: str = "dims") -> str:
        """Declarations of the local variables that `dims` use."""
        used = {name for dim in dims for name in dim.names()}
        lines = [f"  const int64_t {self.local[n]} = {source}[{self.index[n]}];\n" for n in self.ranges if n in used]
        return "".join(lines)


def check_limits(plan: Plan) -> None:
    """Raises NomulError for more ports, axes or dims than the C interface has room for."""
    ports = (*plan.inputs, *plan.outputs)
    for port in ports:
        if len(port.shape) > MAX_RANK:
            message = f"port '{port.name}' has {len(port.shape)} axes; the C interface takes at most {MAX_RANK}"
            raise NomulError("NM503", message)
    if len(plan.dims) > MAX_DIMS:
        raise NomulError("NM503", f"{len(plan.dims)} named dims; the C interface takes at most {MAX_DIMS}")
    if max(len(plan.inputs), len(plan.outputs)) > MAX_PORTS:
        raise NomulError("NM503", f"more than {MAX_PORTS} inputs or outputs")


def emit_ports(plan: Plan, names: DimNames) -> str:
    """Tables and functions; ends with a blank line."""
    rows = [f"{{{c_text.string(name)}, {low}, {high}}}" for name, (low, high) in names.ranges.items()]
    enum = ", ".join([*names.index.values(), "DIM_COUNT"])
    return "\n".join(
        [
            f"enum {{ {enum} }};",
            c_text.table("nm_dim dim_table", rows),
            _port_table("input", plan.inputs),
            _port_table("output", plan.outputs),
            "/* Reads each dim off an input's shape. */",
            _bind_function(plan, names),
            _shape_function("input", plan.inputs, names),
            _shape_function("output", plan.outputs, names),
        ]
    )


def _port_table(kind: str, ports: Sequence[Port]) -> str:
    shapes, rows = [], []
    for number, port in enumerate(ports):
        sizes = [-1 if size.value is None else size.value for size in port.shape]
        if sizes:
            numbers = ", ".join(map(c_text.integer, sizes))
            shapes.append(f"static const int64_t {kind}_{number}_shape[] = {{{numbers}}};\n")
        text = c_text.string(f"[{', '.join(map(str, port.shape))}]")
        shape = f"{kind}_{number}_shape" if sizes else "NULL"
        dtype = f"NM_{port.dtype.value.upper()}"
        rows.append(f"{{{c_text.string(port.name)}, {text}, {shape}, {len(sizes)}, {dtype}}}")
    return "".join(shapes) + c_text.table(f"nm_port {kind}_table", rows)


def _shape_function(kind: str, ports: Sequence[Port], names: DimNames) -> str:
    cases = []
    for number, port in enumerate(ports):
        stores = " ".join(f"shape[{axis}] = {names.text(size)};" for axis, size in enumerate(port.shape))
        cases.append(f"    case {number}: {stores} break;\n" if stores else "")
    local = names.locals([size for port in ports for size in port.shape])
    return (
        f"static void {kind}_shape(const int64_t *dims, uint32_t {kind}, int64_t *shape) {{\n"
        f"  (void)dims, (void)shape;\n{local}"
        f"  switch ({kind}) {{\n{''.join(cases)}    default: break;\n  }}\n}}\n"
    )


@dataclass(frozen=True)
class _Binding:
    """Axis `axis` of input `port` has the size factor * dim + rest; the names of rest are bound earlier."""

    dim: str
    port: int
    axis: int
    factor: int
    rest: Dim


def _bind_function(plan: Plan, names: DimNames) -> str:
    stored = {name: f"dims[{index}]" for name, index in names.index.items()}
    lines = ["  nm_status status = NM_OK;\n"]
    for binding in _bindings(plan.inputs, names.ranges):
        value = f"inputs[{binding.port}].shape[{binding.axis}]"
        if binding.rest != 0:
            value = f"({value} - ({c_text.expression(binding.rest, stored, names.ranges)}))"
        if binding.factor != 1:
            value = f"{value} / {c_text.integer(binding.factor)}"
        lines.append(f"  if (status == NM_OK) status = nm_bind_dim(dims, {names.index[binding.dim]}, {value});\n")
    body = "".join(lines)
    return (
        "static nm_status bind(const nm_tensor *inputs, int64_t *dims) {\n"
        f"  (void)inputs, (void)dims;\n{body}  return status;\n}}\n"
    )


def _bindings(inputs: Sequence[Port], ranges: IntRanges) -> list[_Binding]:
    bindings: list[_Binding] = []
    bound: set[str] = set()
    while len(bound) < len(ranges):
        found = _next_binding(inputs, bound)
        if found is None:
            missing = ", ".join(name for name in ranges if name not in bound)
            raise NomulError("NM501", f"no input's shape tells the size of {missing}")
        bindings.append(found)
        bound.add(found.dim)
    return bindings


def _next_binding(inputs: Sequence[Port], bound: set[str]) -> _Binding | None:
    """A bare dim if there is one, otherwise an axis that is linear in its only unbound dim."""
    linear = None
    for port, axis, size in ((p, a, s) for p, one in enumerate(inputs) for a, s in enumerate(one.shape)):
        unbound = size.names() - bound
        if len(unbound) != 1:
            continue
        name = next(iter(unbound))
        factor = dict(size.terms).get((name,), 0)
        rest = size - Dim.of(name) * factor
        if factor == 0 or name in rest.names():
            continue
        binding = _Binding(name, port, axis, factor, rest)
        if factor == 1 and rest == 0:
            return binding
        linear = linear or binding
    return linear
