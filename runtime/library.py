"""Opens an artifact's shared library, after checks that keep a damaged or foreign file from crashing the process."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from _ctypes import dlclose
from ctypes import POINTER, byref, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any

from nomul.runtime import abi
from nomul.runtime.errors import RuntimeFault
from nomul.runtime.huge_pages import HugeCopy
from nomul.runtime.trailer import read_facts

_ELF_MACHINES = {62: ("x86_64", "amd64"), 183: ("aarch64", "arm64"), 40: ("armv7l", "armv8l"), 243: ("riscv64",)}
_MACHO_MACHINES = {0x01000007: ("x86_64",), 0x0100000C: ("arm64", "aarch64")}


class Library:
    """An open artifact. model: its interface; facts: the JSON of its trailer; weights: what runs read in place of
    embedded ones, its mapped weights file or a copy in huge pages.

    Raises RuntimeFault: NM601..NM603 (see trailer), NM604 (another machine), NM605 (not loadable), NM607 (weights),
    NM608 (huge pages)."""

    def __init__(self, path: Path, weights: Path | None, verify: bool, huge_pages: bool = False) -> None:
        self.facts = read_facts(path, verify)
        _check_machine(path, self.facts)
        try:
            self._handle: ctypes.CDLL | None = ctypes.CDLL(_own_spelling(path), mode=ctypes.RTLD_LOCAL)
            self.model: Any = _query(self._handle, path)
        except OSError as error:
            raise RuntimeFault("NM605", f"the system cannot load {path}: {error}") from error
        self.weights = c_void_p()
        self.weights_size = c_size_t()
        self._copy: HugeCopy | None = None
        if self.model.weights_external:
            self._map(weights or Path(f"{path}.weights"), verify)
        if huge_pages:
            self._copy = self._copied()

    def _map(self, path: Path, verify: bool) -> None:
        status = self.model.map_weights(os.fsencode(path), byref(self.weights), byref(self.weights_size))
        if status == abi.OK and verify:
            env = abi.NmEnv(size=ctypes.sizeof(abi.NmEnv), weights=self.weights, weights_size=self.weights_size)
            status = self.model.check_weights(byref(env))
        if status != abi.OK:
            message = f"weights file {path}: {abi.describe(self.model, status)}"
            self.close()
            raise RuntimeFault("NM607", message, "it is written beside the library; keep the two together")

    def _copied(self) -> HugeCopy:
        """The weights in huge pages, from now on those of all runs."""
        try:
            copy = HugeCopy(self.weights.value or self.model.weights, self.model.weights_size)
        except RuntimeFault:
            self.close()
            raise
        self._unmap()
        self.weights, self.weights_size = c_void_p(copy.address), c_size_t(self.model.weights_size)
        return copy

    def _unmap(self) -> None:
        if self.weights and self._copy is None:
            self.model.unmap_weights(self.weights, self.weights_size)
        self.weights = c_void_p()

    def close(self) -> None:
        """Unmaps and unloads; harmless if done twice. No run may be under way and no pool may be left."""
        if self._handle is None:
            return
        self._unmap()
        self._copy = None
        handle, self._handle, self.model = self._handle, None, None
        dlclose(handle._handle)


def _own_spelling(path: Path) -> str:
    """The path with dots and slashes that spell the file's number: glibc hands out a library that is open already
    for a name that it knows, also where another file has taken that name since."""
    whole = os.path.abspath(path)
    dots = "".join("/." if bit == "1" else "/" for bit in f"{os.stat(whole).st_ino:b}")
    return f"{os.path.dirname(whole)}{dots}/{os.path.basename(whole)}"


def _query(handle: ctypes.CDLL, path: Path) -> Any:
    try:
        query = handle.nm_query
    except AttributeError as error:
        raise RuntimeFault("NM605", f"{path} has no nm_query") from error
    query.argtypes = [c_uint32]
    query.restype = POINTER(abi.NmModel)
    found = query(abi.ABI)
    if not found or found.contents.size != ctypes.sizeof(abi.NmModel):
        help = "compile it again with this nomul"
        raise RuntimeFault("NM605", f"{path} speaks another version of the C interface than {abi.ABI}", help)
    return found.contents


def _check_machine(path: Path, facts: dict[str, Any]) -> None:
    with path.open("rb") as file:
        head = file.read(20)
    is_elf = head[:4] == b"\x7fELF" and head[4:6] in (b"\x01\x01", b"\x02\x01")
    is_macho = head[:4] == b"\xcf\xfa\xed\xfe"
    machines = _ELF_MACHINES.get(int.from_bytes(head[18:20], "little"), ()) if is_elf else ()
    if is_macho:
        machines = _MACHO_MACHINES.get(int.from_bytes(head[4:8], "little"), ())
    right_system = is_macho if sys.platform == "darwin" else is_elf
    if not right_system or _machine() not in machines:
        made_for = facts.get("target", "another machine")
        here = f"{_machine()} {platform.system()}"
        raise RuntimeFault("NM604", f"{path} is for {made_for}; this is {here}", "compile with another --target")


def _machine() -> str:
    """The processor as this process sees it: a 32-bit Python on a 64-bit ARM system runs 32-bit code."""
    machine = platform.machine().lower()
    return "armv8l" if sys.maxsize < 2**32 and machine in ("aarch64", "arm64") else machine
