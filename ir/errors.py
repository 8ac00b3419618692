"""The one exception that users see: a code, a message, the source layer, the text line with a caret, and a hint."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and where.

    code: `NMxxx`, explained by `nomul explain`.  loc: source layer (module path or ONNX node) or None.
    text: the guilty line of an IR file or None; column: 0-based caret position in it.  before, after: lines around it.
    """

    code: str
    message: str
    loc: str | None = None
    help: str | None = None
    text: str | None = None
    line: int | None = None
    column: int | None = None
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def render(self) -> str:
        lines = [f"error[{self.code}]: {self.message}"]
        if self.loc:
            lines.append(f"  at: {' '.join(self.loc.split())}")
        if self.text is not None:
            lines += self._excerpt(self.text)
        if self.help:
            lines.append(f"  help: {self.help}")
        return "\n".join(lines)

    def _excerpt(self, guilty: str) -> list[str]:
        """The guilty line with a caret below it; among other lines the caret carries the message."""
        first = (self.line or 0) - len(self.before)
        shown = [*self.before, guilty, *self.after]
        numbers = [f"{first + i}" if self.line is not None else "" for i in range(len(shown))]
        lines = [f"  {number:>4} | {text}" for number, text in zip(numbers, shown, strict=True)]
        if self.column is not None:
            label = f" {self.message}" if len(shown) > 1 else ""
            lines.insert(len(self.before) + 1, f"  {'':>4} | {' ' * self.column}^{label}")
        return lines


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
