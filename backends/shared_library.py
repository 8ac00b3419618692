"""Links the shared library of a model: ELF for Linux and Android, Mach-O for macOS, with its facts inside.

The facts stand behind an ELF file, as a trailer; a Mach-O file is signed up to its end, so there in a section.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nomul.backends.macho import finish
from nomul.backends.zig import compile_source, is_android, zig, zig_target
from nomul.runtime.trailer import FACTS_SECTION, append_trailer, pack_facts

HUGE_PAGES = ["-Wl,-z,max-page-size=2097152"]  # for ELF: bytes are as far from 2 MiB in memory as in the file
_EXPORTS = "{ global: nm_query; local: *; };\n"
_FACTS_ASSEMBLY = f"""\
.section {",".join(FACTS_SECTION)},regular,no_dead_strip
.incbin "facts"
"""


def is_macho(triple: str) -> bool:
    """Whether files for this triple of zig's are Mach-O; all others are ELF."""
    return "-macos" in triple


def link_objects(
    folder: Path, objects: Sequence[str], triple: str, name: str, facts: Mapping[str, Any], huge_pages: bool = False
) -> Path:
    """The library, linked from objects in `folder` and written there.

    name: of the file that it is to be, which programs that are linked with it look for.  facts: JSON.  huge_pages:
    whether Linux shall be able to map an ELF file by such.  Raises NomulError (NM510)."""
    if is_macho(triple):
        return _link_macho(folder, objects, triple, name, facts)
    library = _link_elf(folder, objects, triple, name, huge_pages)
    append_trailer(library, facts)
    return library


def _link_elf(folder: Path, objects: Sequence[str], triple: str, name: str, huge_pages: bool) -> Path:
    (folder / "exports.map").write_text(_EXPORTS)
    contents = ["-Wl,--gc-sections", "-Wl,--build-id=none", "-Wl,--version-script=exports.map", "-s"]
    flags = ["-shared", "-Xlinker", "-soname", "-Xlinker", name, *contents, "-Wl,-z,relro,-z,now"]
    flags += HUGE_PAGES if huge_pages else []
    libraries = ["-lpthread", "-Wl,-z,defs"]
    if is_android(triple):
        libraries = ["-nostdlib", "-Wl,--no-as-needed", _bionic(folder, triple)]
    zig(["cc", *zig_target(triple), *flags, *objects, *libraries, "-o", "linked"], folder)
    return folder / "linked"


def _bionic(folder: Path, triple: str) -> str:
    """A libc.so to link with, so that the library asks for Android's: the NDK's, too, are names without code.

    An empty one does, since a shared library may leave symbols open; pthread_create and all else are in there."""
    (folder / "bionic").mkdir(exist_ok=True)
    (folder / "bionic" / "empty.c").touch()
    flags = ["-shared", "-nostdlib", "-Wl,-soname,libc.so", "-Wl,--build-id=none"]
    zig(["cc", *zig_target(triple), *flags, "empty.c", "-o", "libc.so"], folder / "bionic")
    return "bionic/libc.so"


def _link_macho(folder: Path, objects: Sequence[str], triple: str, name: str, facts: Mapping[str, Any]) -> Path:
    (folder / "facts").write_bytes(pack_facts(facts))
    (folder / "facts.S").write_text(_FACTS_ASSEMBLY)
    parts = [*objects, compile_source("facts.S", triple, (), folder)]
    names = ["-Xlinker", "-install_name", "-Xlinker", f"@rpath/{name}"]
    flags = ["-dynamiclib", *names, "-Wl,-dead_strip", "-Wl,-x"]
    library = folder / "model.dylib"  # also what the signature calls it
    zig(["cc", *zig_target(triple), *flags, *parts, "-o", library.name], folder)
    library.write_bytes(finish(library.read_bytes(), "_nm_query"))
    return library
