"""Whether a Mach-O library is what macOS will load on every Apple silicon Mac, told from its bytes alone."""

from __future__ import annotations

from nomul.runtime.macho import CODE_SIGNATURE, DYLIB, PAGE, SEGMENT, MachO

OLDEST_SYSTEM = (11, 0, 0)  # the first macOS for these machines
_MACOS = 1
_SYSTEM_LIBRARY = "/usr/lib/libSystem.B.dylib"
_WRITE, _EXECUTE = 2, 4


def problems(data: bytes, name: str) -> list[str]:
    """What is wrong with the library, one sentence each; nothing where all is right. name: of its file."""
    try:
        file = MachO(data)
    except ValueError as error:
        return [str(error)]
    found = []
    for check in (_kind, _name, _exports, _libraries, _system, _segments, _signature):
        try:
            found += check(file, name)
        except (ValueError, UnicodeDecodeError) as error:
            found.append(str(error))
    return found


def _when(condition: object, sentence: str) -> list[str]:
    return [sentence] if condition else []


def _kind(file: MachO, name: str) -> list[str]:
    return _when(file.file_type != DYLIB, "it is no shared library")


def _name(file: MachO, name: str) -> list[str]:
    found = file.install_name()
    return _when(found != f"@rpath/{name}", f"programs would look for it as {found}")


def _exports(file: MachO, name: str) -> list[str]:
    names = sorted(file.exports())
    return _when(names != ["_nm_query"], f"it exports {', '.join(names) or 'nothing'}, not _nm_query alone")


def _libraries(file: MachO, name: str) -> list[str]:
    names = file.libraries()
    return _when(names != [_SYSTEM_LIBRARY], f"it needs {', '.join(names) or 'nothing'}, not libSystem alone")


def _system(file: MachO, name: str) -> list[str]:
    platform, least = file.minimum_system()
    wrong = platform != _MACOS or least != OLDEST_SYSTEM
    return _when(wrong, f"it is for platform {platform} from version {'.'.join(map(str, least))} on, not macOS 11.0")


def _segments(file: MachO, name: str) -> list[str]:
    """Page-aligned, one behind the other up to the end of the file, none both writable and executable."""
    found: list[str] = []
    file_end = memory_end = 0
    for command in file.find(SEGMENT):
        address, size, offset, length, most, first = file.unpack("<QQQQII", command.offset + 24)
        aligned = (address | size) % PAGE == 0 and offset % PAGE == 0 and address >= memory_end and offset >= file_end
        found += _when(not aligned or length > size, f"the segment at {offset:#x} is misplaced")
        found += _when((most | first) & _WRITE and (most | first) & _EXECUTE, "code can be overwritten")
        file_end, memory_end = offset + length, address + size
    return found + _when(file_end != len(file.data), "the last segment does not end with the file")


def _signature(file: MachO, name: str) -> list[str]:
    signature = file.signature()
    start, size = file.unpack("<II", file.one(CODE_SIGNATURE).offset + 8)
    found = _when(not signature.is_adhoc, "its signature is not ad hoc")
    found += _when(start + size != len(file.data), "something follows the signature")
    return found + _when(not file.is_intact(), "a page differs from what was signed")
