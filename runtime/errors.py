"""The exception of the loader. `runtime` stands alone, so it does not share `nomul.ir.errors`."""

from __future__ import annotations


class RuntimeFault(Exception):
    """Something about an artifact or its arguments that the user can mend. code: `NM6xx`; help: what to do, or None."""

    def __init__(self, code: str, message: str, help: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.help = help

    def __str__(self) -> str:
        text = f"error[{self.code}]: {self.message}"
        return f"{text}\n  help: {self.help}" if self.help else text
