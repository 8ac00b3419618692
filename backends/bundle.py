"""The small text files of a bundle: for make, CMake, pkg-config, and for the reader who holds it for the first time."""

from __future__ import annotations

import re

_MAKEFILE = """\
# Builds main from main.c, statically (main) or with the shared library (main-shared). CC picks the compiler.
CC ?= cc
CFLAGS ?= -O2 -Wall -Wextra
all: main
main: main.c nomul.h libmodel.a
\t$(CC) -std=c11 $(CFLAGS) main.c libmodel.a -lpthread -o $@
main-shared: main.c nomul.h {library}
\t$(CC) -std=c11 $(CFLAGS) main.c ./{library} -Wl,-rpath,'{origin}' -o $@
clean:
\trm -f main main-shared
.PHONY: all clean
"""

_CMAKE = """\
# find_package({name} CONFIG REQUIRED), with this folder in CMAKE_PREFIX_PATH, gives {name}::shared and {name}::static.
include(CMakeFindDependencyMacro)
find_dependency(Threads)
if(NOT TARGET {name}::shared)
  add_library({name}::shared SHARED IMPORTED)
  set_target_properties({name}::shared PROPERTIES
    IMPORTED_LOCATION "${{CMAKE_CURRENT_LIST_DIR}}/{library}"
    IMPORTED_SONAME "{soname}"
    INTERFACE_INCLUDE_DIRECTORIES "${{CMAKE_CURRENT_LIST_DIR}}")
  add_library({name}::static STATIC IMPORTED)
  set_target_properties({name}::static PROPERTIES
    IMPORTED_LOCATION "${{CMAKE_CURRENT_LIST_DIR}}/libmodel.a"
    INTERFACE_LINK_LIBRARIES Threads::Threads
    INTERFACE_INCLUDE_DIRECTORIES "${{CMAKE_CURRENT_LIST_DIR}}")
endif()
"""

_PKG_CONFIG = """\
# With this folder in PKG_CONFIG_PATH: cc main.c $(pkg-config --cflags --libs {name}); for the archive in place of the
# shared library: cc main.c $(pkg-config --cflags {name}) $(pkg-config --variable=archive {name}) -lpthread
archive=${{pcfiledir}}/libmodel.a
Name: {name}
Description: a model compiled by nomul for {target}
Version: 1
Cflags: -I${{pcfiledir}}
Libs: ${{pcfiledir}}/{library} -Wl,-rpath,${{pcfiledir}}
"""

_README = """\
{title} for {target}: `nomul-run` is the model as a program, `{library}` and `nomul.h` are for programs of your own.

    {copy}
    {run}
    {build}
"""


def package_name(name: str) -> str:
    """The name of a model as CMake and pkg-config accept it."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name) or "model"


def text_files(name: str, target: str, triple: str, library: str) -> dict[str, str]:
    """File name -> text. name: of the model; library: file name of the shared library."""
    package = package_name(name)
    is_macos = "macos" in triple
    values = {
        "name": package,
        "target": target,
        "library": library,
        "soname": f"@rpath/{library}" if is_macos else library,
        "origin": "@loader_path" if is_macos else "$$ORIGIN",
        "title": name.replace("\n", " "),
    }
    return {
        "Makefile": _MAKEFILE.format(**values),
        f"{package}-config.cmake": _CMAKE.format(**values),
        f"{package}.pc": _PKG_CONFIG.format(**values),
        "README.md": _README.format(**values, **_commands(package, triple)),
    }


def _commands(package: str, triple: str) -> dict[str, str]:
    if "android" in triple:
        there = f"/data/local/tmp/{package}"
        return {
            "copy": f"adb push . {there}",
            "run": f"adb shell 'cd {there} && chmod +x nomul-run && ./nomul-run --selftest && ./nomul-run --bench'",
            "build": "make CC='python -m ziglang cc -target aarch64-linux-musl -static'    # main.c is an example in C",
        }
    host = "user@mac" if "macos" in triple else "user@board"
    return {
        "copy": f"scp -r . {host}:{package}",
        "run": f"ssh {host} '{package}/nomul-run --selftest && {package}/nomul-run --bench'",
        "build": f"ssh {host} 'cd {package} && make && ./main'    # main.c is an example in C",
    }
