"""The one exception that users see: a code, a message, the source layer, the text line with a caret, and a hint."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and where.

    code: `NMxxx`, explained by `nomul explain`.  loc: source layer (module path or ONNX node) or None.
    text: the guilty line of an IR file or None; column: 0-based caret position in it.
    """

    code: str
    message: str
    loc: str | None = None
    help: str | None = None
    text: str | None = None
    line: int | None = None
    column: int | None = None

    def render(self) -> str:
        lines = [f"error[{self.code}]: {self.message}"]
        if self.loc:
            lines.append(f"  at: {self.loc}")
        if self.text is not None:
            number = f"{self.line}" if self.line is not None else ""
            lines.append(f"  {number:>4} | {self.text}")
            if self.column is not None:
                lines.append(f"  {'':>4} | {' ' * self.column}^")
        if self.help:
            lines.append(f"  help: {self.help}")
        return "\n".join(lines)


@dataclass
class NomulError(Exception):
    """Raised for everything that a user can mend. Holds one or more problems, all of one stage.

    `NomulError(code, message, loc=..., help=...)` for one, `NomulError.many(problems)` for several.
    """

    code: str
    message: str
    loc: str | None = None
    help: str | None = None
    problems: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.message)
        if not self.problems:
            self.problems = [Problem(self.code, self.message, self.loc, self.help)]

    @classmethod
    def many(cls, problems: list[Problem]) -> NomulError:
        first = problems[0]
        return cls(first.code, first.message, first.loc, first.help, list(problems))

    def __str__(self) -> str:
        return "\n".join(problem.render() for problem in self.problems)
