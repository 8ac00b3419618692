"""`load(path)` gives an Artifact: a compiled model that one calls like a function, over the C interface of nomul.h."""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from ctypes import POINTER, byref, c_int64, c_void_p
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from nomul.runtime import abi
from nomul.runtime.errors import RuntimeFault
from nomul.runtime.library import Library
from nomul.runtime.tensors import Port, arrange, as_array, numpy_dtype
from nomul.runtime.trailer import library_at

PathLike = str | os.PathLike[str]
_DTYPE_CODES = {name: code for code, name in abi.DTYPES.items()}


def load(path: PathLike, *, weights: PathLike | None = None, verify: bool = True, huge_pages: bool = False) -> Artifact:
    """Opens a compiled model: a library, or the bundle that holds it.

    weights: the weights file, where it is not `<library>.weights`; verify: check all bytes.  huge_pages (Linux): read
    weights from a private copy in huge pages, which is quicker where they do not fit the caches and costs their size.

    Raises RuntimeFault for a file that is missing, damaged, for another machine, or no artifact."""
    library = library_at(Path(path))
    return Artifact(Library(library, Path(weights) if weights is not None else None, verify, huge_pages), library)


class Artifact:
    """A loaded model. `artifact(x, y)` or `artifact(x=..., y=...)` returns a tuple of numpy arrays.

    Threads may share it. name, target: as compiled; inputs, outputs: its ports; dims: name -> (least, largest);
    levels: names of its instruction sets, best first; facts: what the compiler noted in the file."""

    def __init__(self, library: Library, path: Path) -> None:
        model = library.model
        self.path = path
        self.facts: dict[str, Any] = library.facts
        self.name: str = model.name.decode()
        self.target: str = model.target.decode()
        self.inputs = tuple(_port(model.inputs[i]) for i in range(model.input_count))
        self.outputs = tuple(_port(model.outputs[i]) for i in range(model.output_count))
        dims = [model.dims[i] for i in range(model.dim_count)]
        self.dims: dict[str, tuple[int, int]] = {dim.name.decode(): (dim.min, dim.max) for dim in dims}
        self.levels = tuple(model.levels[i].name.decode() for i in range(model.level_count))
        self._library = library
        self._model = model
        self._level = 0
        self._lanes = _Lanes(library)
        weakref.finalize(self, self._lanes.close)

    def __repr__(self) -> str:
        ports = f"({', '.join(map(str, self.inputs))}) -> ({', '.join(map(str, self.outputs))})"
        return f"<nomul artifact {self.name} for {self.target}: {ports}>"

    def __enter__(self) -> Artifact:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stops the threads and unloads the library. Raises RuntimeFault NM612 while a run is under way."""
        if not self._lanes.close():
            raise RuntimeFault("NM612", f"{self.name} is running in another thread")

    # -- levels ------------------------------------------------------------------------------------------------
    @property
    def level(self) -> str:
        """The instruction set that runs use. Raises RuntimeFault NM606 if this CPU has none of them."""
        number = self._level or self._lanes.open_model().best_level()
        if number == 0:
            raise RuntimeFault("NM606", f"this CPU lacks {self._model.missing_cpu().decode()}, which {self.name} needs")
        name: str = self.levels[number - 1]
        return name

    def force_level(self, name: str | None) -> None:
        """Uses the level `name` from now on; None: the best again. Raises RuntimeFault NM613 or NM606."""
        if name is None:
            self._level = 0
            return
        if name not in self.levels:
            raise RuntimeFault("NM613", f"{self.name} has no level '{name}'", f"levels: {', '.join(self.levels)}")
        number = self.levels.index(name) + 1
        missing = self._lanes.open_model().missing_feature(number)
        if missing:
            raise RuntimeFault("NM606", f"this CPU lacks {missing.decode()}, which level '{name}' needs")
        self._level = number

    def scratch_bytes(self, dims: Mapping[str, int], threads: int = 1) -> int:
        """Bytes of scratch of a run for these sizes of all dims. Raises RuntimeFault NM610 for sizes out of range."""
        sizes = (c_int64 * abi.MAX_DIMS)(*(dims[name] for name in self.dims))
        needed: int = self._lanes.open_model().scratch_size(sizes, threads)
        if needed == 0 and self.dims:
            raise RuntimeFault("NM610", f"{dict(dims)} is outside the ranges {self.dims} of {self.name}")
        return needed

    # -- running -----------------------------------------------------------------------------------------------
    def __call__(self, *values: Any, threads: int = 1, **named: Any) -> tuple[np.ndarray, ...]:
        """Runs the model. values, named: numpy arrays, torch or other DLPack tensors in main memory, or plain numbers.

        Raises RuntimeFault NM610 (an argument), NM611 (the library refuses, with its reason), NM606, NM612."""
        return self._run(values, named, threads, None)

    def profile(self, *values: Any, threads: int = 1, repeat: int = 5, **named: Any) -> list[tuple[str, float]]:
        """The steps in order: what each does, and its least time in seconds over `repeat` runs."""
        self._run(values, named, threads, None)
        runs = [_StepTimes() for _ in range(repeat)]
        for times in runs:
            self._run(values, named, threads, times)
        comments = self.facts.get("steps", [])
        return list(zip(comments, np.min([times.seconds for times in runs], axis=0).tolist(), strict=True))

    def _run(
        self, values: Sequence[Any], named: dict[str, Any], threads: int, times: _StepTimes | None
    ) -> tuple[np.ndarray, ...]:
        chosen = arrange(self.inputs, tuple(values), named)
        arrays = [as_array(value, port) for value, port in zip(chosen, self.inputs, strict=True)]
        if not 1 <= threads <= abi.MAX_THREADS:
            raise RuntimeFault("NM610", f"threads is {threads}; it must be from 1 to {abi.MAX_THREADS}")
        lane = self._lanes.take(threads)
        try:
            return self._run_in(lane, arrays, times)
        finally:
            self._lanes.give_back(lane)

    def _run_in(self, lane: _Lane, arrays: list[np.ndarray], times: _StepTimes | None) -> tuple[np.ndarray, ...]:
        dims = (c_int64 * abi.MAX_DIMS)()
        inputs = _tensors(arrays, self.inputs)
        self._check(self._model.bind(inputs, dims), arrays)
        results = [self._empty_output(number, dims) for number in range(len(self.outputs))]
        env = lane.env(self._model.scratch_size(dims, lane.threads), self._level)
        if times is not None:
            env.after_step = times.callback
            times.start()
        self._check(self._model.run(byref(env), inputs, _tensors(results, self.outputs)), arrays)
        return tuple(results)

    def _empty_output(self, number: int, dims: Any) -> np.ndarray:
        shape = (c_int64 * abi.MAX_RANK)()
        self._check(self._model.output_shape(dims, number, shape), [])
        port = self.outputs[number]
        return np.empty(shape[: len(port.shape)], numpy_dtype(port.dtype))

    def _check(self, status: int, arrays: list[np.ndarray]) -> None:
        if status == abi.OK:
            return
        given = [f"{port.name}: {list(array.shape)}" for port, array in zip(self.inputs, arrays, strict=False)]
        ports = f"inputs: {', '.join(map(str, self.inputs))}; given {', '.join(given)}" if given else None
        raise RuntimeFault("NM611", abi.describe(self._model, status), ports)


class _StepTimes:
    """Takes the time after each step of one run."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = 0.0
        self.callback = abi.AfterStep(self._after_step)

    def start(self) -> None:
        self._last = time.perf_counter()

    def _after_step(self, user: int | None, step: int) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


class _Lane:
    """Scratch and thread pool for one run at a time."""

    def __init__(self, library: Library, threads: int) -> None:
        self.threads = threads
        self._library = library
        self._pool = c_void_p()
        self._scratch = _aligned(0)
        if threads > 1:
            model = library.model
            self._pool_memory = _aligned(model.pool_size(threads))
            memory = self._pool_memory
            status = model.pool_start(memory.ctypes.data, memory.nbytes, threads, byref(self._pool))
            if status != abi.OK:
                raise RuntimeFault("NM611", f"cannot start {threads} threads: {abi.describe(model, status)}")

    def env(self, scratch_size: int, level: int) -> abi.NmEnv:
        if self._scratch.nbytes < scratch_size:
            self._scratch = _aligned(scratch_size)
        library = self._library
        return abi.NmEnv(
            size=ctypes.sizeof(abi.NmEnv),
            level=level,
            scratch=self._scratch.ctypes.data,
            scratch_size=self._scratch.nbytes,
            weights=library.weights,
            weights_size=library.weights_size,
            pool=self._pool,
        )

    def stop(self) -> None:
        if self._pool:
            self._library.model.pool_stop(self._pool)


class _Lanes:
    """The lanes of an artifact: a run takes an idle one with its number of threads, or a new one."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._lock = threading.Lock()
        self._idle: dict[int, list[_Lane]] = {}
        self._process = os.getpid()
        self._closed = False
        self._in_use = 0

    def open_model(self) -> Any:
        if self._closed:
            raise RuntimeFault("NM612", "this artifact is closed")
        return self._library.model

    def take(self, threads: int) -> _Lane:
        with self._lock:
            self.open_model()
            self._forget_parent()
            idle = self._idle.get(threads)
            lane = idle.pop() if idle else _Lane(self._library, threads)
            self._in_use += 1
            return lane

    def give_back(self, lane: _Lane) -> None:
        with self._lock:
            self._idle.setdefault(lane.threads, []).append(lane)
            self._in_use -= 1

    def _forget_parent(self) -> None:
        """After a fork the child has the memory of its parent's pools, but not their threads."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._idle.clear()
            self._in_use = 0

    def close(self) -> bool:
        """Stops all threads and unloads the library; False, and nothing happens, while a run is under way."""
        with self._lock:
            self._forget_parent()
            if self._in_use:
                return False
            self._closed = True
            for lane in (lane for idle in self._idle.values() for lane in idle):
                lane.stop()
            self._idle.clear()
            self._library.close()
            return True


def _port(port: abi.NmPort) -> Port:
    sizes = port.shape_text.decode()[1:-1].split(", ") if port.rank else []
    shape = tuple(int(size) if size.isdecimal() else size for size in sizes)
    return Port(port.name.decode(), abi.DTYPES[port.dtype], shape)


def _aligned(size: int) -> np.ndarray:
    memory = np.empty(size + abi.ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % abi.ALIGNMENT
    return memory[start : start + size]


def _tensors(arrays: list[np.ndarray], ports: tuple[Port, ...]) -> Any:
    tensors = (abi.NmTensor * len(arrays))()
    for tensor, array, port in zip(tensors, arrays, ports, strict=True):
        shape = (c_int64 * max(1, array.ndim))(*array.shape)
        tensor.data = array.ctypes.data
        tensor.shape = ctypes.cast(shape, POINTER(c_int64))  # keeps `shape` alive
        tensor.rank = array.ndim
        tensor.dtype = _DTYPE_CODES[port.dtype]
    return tensors
