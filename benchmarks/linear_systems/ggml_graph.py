"""llama.cpp: graphs of ggml_mul_mat through the libraries inside llama-cpp-python (requirements-peers.txt).

Weights are in the order that llama.cpp would bring them into on this machine."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from ctypes import c_bool, c_char_p, c_float, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from linear_case import Loaded, Shape, System, Work

TYPES = {"TQ1_0": 34, "TQ2_0": 35, "Q2_K": 10, "Q4_0": 2, "Q8_0": 8}  # enum ggml_type
F32 = 0
BLOCK = 256  # weights; the largest of these types
TENSORS = 512  # of one context at most


class _InitParams(ctypes.Structure):
    """struct ggml_init_params."""

    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


class _TypeTraits(ctypes.Structure):
    """The first members of struct ggml_type_traits."""

    _fields_ = [
        ("type_name", c_char_p),
        ("blck_size", c_int64),
        ("blck_size_interleave", c_int64),
        ("type_size", c_size_t),
        ("is_quantized", c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_int64)),
    ]


class _TensorHead(ctypes.Structure):
    """The first members of struct ggml_tensor."""

    _fields_ = [("type", c_int), ("buffer", c_void_p)]


_Log = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)
_silent = _Log(lambda level, text, user: None)  # ggml keeps the pointer

_BASE: dict[str, tuple[Any, ...]] = {
    "ggml_log_set": (None, _Log, c_void_p),
    "ggml_init": (c_void_p, _InitParams),
    "ggml_tensor_overhead": (c_size_t,),
    "ggml_graph_overhead": (c_size_t,),
    "ggml_new_tensor_2d": (c_void_p, c_void_p, c_int, c_int64, c_int64),
    "ggml_mul_mat": (c_void_p, c_void_p, c_void_p, c_void_p),
    "ggml_new_graph": (c_void_p, c_void_p),
    "ggml_build_forward_expand": (None, c_void_p, c_void_p),
    "ggml_row_size": (c_size_t, c_int, c_int64),
    "ggml_get_data": (c_void_p, c_void_p),
    "ggml_get_type_traits": (ctypes.POINTER(_TypeTraits), c_int),
    "ggml_quantize_chunk": (c_size_t, c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, ctypes.POINTER(c_float)),
    "ggml_backend_alloc_ctx_tensors": (c_void_p, c_void_p, c_void_p),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, c_void_p, c_void_p),
    "ggml_backend_buft_alloc_buffer": (c_void_p, c_void_p, c_size_t),
    "ggml_backend_get_default_buffer_type": (c_void_p, c_void_p),
    "ggml_backend_tensor_set": (None, c_void_p, c_void_p, c_size_t, c_size_t),
    "ggml_backend_graph_compute": (c_int, c_void_p, c_void_p),
    "ggml_backend_reg_dev_get": (c_void_p, c_void_p, c_size_t),
    "ggml_backend_reg_get_proc_address": (c_void_p, c_void_p, c_char_p),
    "ggml_backend_dev_supports_op": (c_bool, c_void_p, c_void_p),
}
_CPU: dict[str, tuple[Any, ...]] = {
    "ggml_backend_cpu_init": (c_void_p,),
    "ggml_backend_cpu_set_n_threads": (None, c_void_p, c_int),
    "ggml_backend_cpu_reg": (c_void_p,),
}


def systems() -> Iterator[System]:
    """Ternary weights of 1.7 and 2.1 bits, then integers with scales of 2.6, 4.5 and 8.5 bits."""
    for name, number in TYPES.items():
        yield System("llama.cpp", name, lambda work, number=number: _load(work, number), 0.03)  # type: ignore[misc]


def _load(work: Work, number: int) -> Loaded:
    ggml, shape = _library(), work.shape
    if shape.k % BLOCK:
        raise ValueError(f"{shape.k} inputs are no multiple of {BLOCK}")
    packed, dense = _quantised(shape, number)
    copies = work.copies(packed.nbytes)
    graphs = _Graphs(ggml, work, number, packed, copies)
    return Loaded(packed.nbytes, copies, dense, graphs.run, graphs.order)


@cache
def _library() -> dict[str, Callable[..., Any]]:
    """The functions by name. Raises ModuleNotFoundError without the package."""
    found = find_spec("llama_cpp")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("llama-cpp-python is not installed: pip install -r requirements-peers.txt")
    folder = Path(found.origin).parent / "lib"
    functions: dict[str, Callable[..., Any]] = {}
    for name, declared in (("ggml-base", _BASE), ("ggml-cpu", _CPU)):
        library = ctypes.CDLL(str(folder / f"lib{name}.so"), mode=ctypes.RTLD_GLOBAL)
        for symbol, (result, *arguments) in declared.items():
            function = getattr(library, symbol)
            function.restype, function.argtypes = result, arguments
            functions[symbol] = function
    functions["ggml_log_set"](_silent, None)
    return functions


@cache
def _quantised(shape: Shape, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of all weights [n, row], and the rows that repeat as floats."""
    ggml = _library()
    rows, k = shape.matrix.shape
    packed = np.zeros((rows, ggml["ggml_row_size"](number, k)), np.uint8)
    dense = np.zeros_like(shape.matrix)
    ggml["ggml_quantize_chunk"](number, shape.matrix.ctypes.data, packed.ctypes.data, 0, rows, k, None)
    ggml["ggml_get_type_traits"](number).contents.to_float(packed.ctypes.data, dense.ctypes.data, dense.size)
    return shape.whole(packed), dense


class _Graphs:
    """Weights in a buffer, and for each number of rows the graph of all layers. order: of the weights' bytes."""

    def __init__(
        self, ggml: dict[str, Callable[..., Any]], work: Work, number: int, packed: np.ndarray, copies: int
    ) -> None:
        self._ggml, self._shape = ggml, work.shape
        self._backend = ggml["ggml_backend_cpu_init"]()
        ggml["ggml_backend_cpu_set_n_threads"](self._backend, work.threads)
        context = self._context()
        new = ggml["ggml_new_tensor_2d"]
        self._weights = [new(context, number, work.shape.k, work.shape.n) for _ in range(copies)]
        kind, self.order = self._buffer_type(number)
        ggml["ggml_backend_alloc_ctx_tensors_from_buft"](context, kind)
        for weight in self._weights:
            ggml["ggml_backend_tensor_set"](weight, packed.ctypes.data, 0, packed.nbytes)
        self._known: dict[int, tuple[int, list[np.ndarray], list[np.ndarray]]] = {}

    def run(self, values: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        rows = len(values[0])
        if rows not in self._known:
            self._known[rows] = self._graph(rows)
            for mine, given in zip(self._known[rows][1], values, strict=True):
                mine[...] = given
        graph, _, results = self._known[rows]
        if self._ggml["ggml_backend_graph_compute"](self._backend, graph):
            raise ValueError("llama.cpp cannot compute the graph")
        return results

    def _graph(self, rows: int) -> tuple[int, list[np.ndarray], list[np.ndarray]]:
        """The graph, and views of its inputs and results."""
        ggml, context = self._ggml, self._context()
        inputs = [ggml["ggml_new_tensor_2d"](context, F32, self._shape.k, rows) for _ in self._weights]
        results = [ggml["ggml_mul_mat"](context, w, x) for w, x in zip(self._weights, inputs, strict=True)]
        graph = ggml["ggml_new_graph"](context)
        for result in results:
            ggml["ggml_build_forward_expand"](graph, result)
        ggml["ggml_backend_alloc_ctx_tensors"](context, self._backend)
        views = [self._view(tensor, rows, self._shape.k) for tensor in inputs]
        return graph, views, [self._view(tensor, rows, self._shape.n) for tensor in results]

    def _view(self, tensor: int, rows: int, width: int) -> np.ndarray:
        place = self._ggml["ggml_get_data"](tensor)
        return np.ctypeslib.as_array((c_float * (rows * width)).from_address(place)).reshape(rows, width)

    def _context(self) -> int:
        """For the descriptions of tensors and of a graph, not for their data."""
        size = self._ggml["ggml_tensor_overhead"]() * TENSORS + self._ggml["ggml_graph_overhead"]()
        return int(self._ggml["ggml_init"](_InitParams(size, None, True)))

    def _buffer_type(self, number: int) -> tuple[int, str]:
        """The one that llama.cpp would take: the first that brings these weights into an order for this machine."""
        ggml = self._ggml
        registry = ggml["ggml_backend_cpu_reg"]()
        device = ggml["ggml_backend_reg_dev_get"](registry, 0)
        address = ggml["ggml_backend_reg_get_proc_address"](registry, b"ggml_backend_dev_get_extra_bufts")
        extra = ctypes.CFUNCTYPE(ctypes.POINTER(c_void_p), c_void_p)(address)(device) if address else [None]
        for kind in takewhile(bool, extra):
            context = self._context()
            weight = ggml["ggml_new_tensor_2d"](context, number, self._shape.k, self._shape.n)
            _TensorHead.from_address(weight).buffer = ggml["ggml_backend_buft_alloc_buffer"](kind, 0)
            inputs = ggml["ggml_new_tensor_2d"](context, F32, self._shape.k, 1)
            if ggml["ggml_backend_dev_supports_op"](device, ggml["ggml_mul_mat"](context, weight, inputs)):
                return kind, "repacked"
        return ggml["ggml_backend_get_default_buffer_type"](self._backend), "as stored"
