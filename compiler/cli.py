"""The `nomul` command: finds the sub-commands in `compiler/commands/`, and turns errors into text and exit codes.

A sub-command is one module with HELP, `configure(parser)` and `run(arguments) -> exit code`; its name is the module's.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from nomul.ir.errors import NomulError
from nomul.ir.registry import modules_of
from nomul.runtime.errors import RuntimeFault
from nomul.version import package_version

EXIT_OK, EXIT_ERROR, EXIT_INTERRUPTED = 0, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, 1 for an error that was printed, 130 for Ctrl-C; argparse exits with 2."""
    arguments = build_parser().parse_args(argv)
    warnings.showwarning = _show_warning
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except Exception as error:
        if getattr(arguments, "traceback", False):
            traceback.print_exc()
        print(describe(error), file=sys.stderr)
        return EXIT_ERROR


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    """A warning as one line, without the place in our source that Python would name."""
    print(f"warning: {message}", file=sys.stderr)


def describe(error: Exception) -> str:
    """What the user reads: users' errors as they are, anything else as an internal error that asks for a report."""
    if isinstance(error, NomulError | RuntimeFault):
        return str(error)
    if isinstance(error, OSError):
        return str(NomulError("NM001", f"{error.filename or 'file'}: {error.strerror or error}"))
    if isinstance(error, MemoryError):
        return str(NomulError("NM002", "out of memory", help="close other programs, or use a machine with more"))
    message = f"internal error: {type(error).__name__}: {error}"
    return str(NomulError("NM000", message, help="this is a bug of nomul; run again with --traceback and report it"))


def build_parser() -> argparse.ArgumentParser:
    """The parser with every sub-command."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--traceback", action="store_true", help="show the Python traceback of an error")
    parser = argparse.ArgumentParser(
        prog="nomul", description="Compile PyTorch and ONNX models to one small shared library.", parents=[common]
    )
    parser.add_argument("--version", action="version", version=f"nomul {package_version()}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, module in sorted(all_commands().items()):
        own = subparsers.add_parser(name, help=module.HELP, description=module.__doc__, parents=[common])
        module.configure(own)
        own.set_defaults(run=module.run)
    return parser


def all_commands() -> dict[str, ModuleType]:
    """Sub-commands by name."""
    return {module.__name__.rpartition(".")[2].rstrip("_"): module for module in modules_of("nomul.commands")}


if __name__ == "__main__":
    sys.exit(main())
