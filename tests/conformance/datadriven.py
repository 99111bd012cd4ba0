"""The files: cases of a directive, an input, and the output that is expected.

A file that can't be understood is an error, never a case that is left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_ARGUMENT = re.compile(r"(?P<key>[^\s=]+)(?:=(?:\((?P<values>[^()]*)\)|(?P<value>\S*)))?(?=\s|$)")
_LOG_LINE = re.compile(r"^\s*(DEBUG|INFO|WARN|ERROR|FATAL|PANIC) ")


class NotUnderstood(Exception):
    """A file, or a command in it, that this harness does not know how to run."""


@dataclass(slots=True)
class Argument:
    """``key``, ``key=value`` or ``key=(v1,v2)``; a bare key has no values."""

    key: str
    values: list[str] = field(default_factory=list)
    bare: bool = False


@dataclass(slots=True)
class Case:
    line: int
    command: str
    arguments: list[Argument]
    input: str
    expected: str

    def bare(self) -> list[str]:
        return [argument.key for argument in self.arguments if argument.bare]

    def take(self, *known: str) -> dict[str, list[str]]:
        """The arguments with values; all of them must be ``known``. Of one given more than once, all values."""
        given: dict[str, list[str]] = {}
        for argument in self.arguments:
            if not argument.bare:
                given.setdefault(argument.key, []).extend(argument.values)
        unknown = set(given) - set(known)
        if unknown:
            raise NotUnderstood(f"line {self.line}: {self.command} has no option {', '.join(sorted(unknown))}")
        return given

    def one(self, key: str, default: str | None = None) -> str:
        """The only value of an option."""
        values = [value for argument in self.arguments if argument.key == key for value in argument.values]
        if not values and default is not None:
            return default
        if len(values) != 1:
            raise NotUnderstood(f"line {self.line}: {self.command} needs one {key}")
        return values[0]

    def number(self, text: str) -> int:
        if not (text.isascii() and text.isdigit()):
            raise NotUnderstood(f"line {self.line}: {text!r} is no number")
        return int(text)


def parse(path: Path) -> list[Case]:
    lines = path.read_text(encoding="utf-8").split("\n")
    cases: list[Case] = []
    position = 0
    while position < len(lines):
        directive = lines[position]
        if not directive.strip() or directive.startswith("#"):
            position += 1
            continue
        start = position + 1
        position += 1
        given: list[str] = []
        while position < len(lines) and lines[position] != "----":
            given.append(lines[position])
            position += 1
        if position == len(lines):
            raise NotUnderstood(f"{path.name}, line {start}: no ---- follows")
        position += 1
        expected: list[str] = []
        while position < len(lines) and lines[position].strip():
            expected.append(lines[position])
            position += 1
        command, arguments = parse_directive(directive, start)
        cases.append(Case(start, command, arguments, "\n".join(given).strip(), "\n".join(expected)))
    if not cases:
        raise NotUnderstood(f"{path.name} has no cases")
    return cases


def parse_directive(directive: str, line: int) -> tuple[str, list[Argument]]:
    command, _, rest = directive.strip().partition(" ")
    arguments: list[Argument] = []
    rest = rest.strip()
    while rest:
        match = _ARGUMENT.match(rest)
        if match is None:
            raise NotUnderstood(f"line {line}: can't read {rest!r}")
        if match["values"] is not None:
            values = [value.strip() for value in match["values"].split(",")] if match["values"].strip() else []
            arguments.append(Argument(match["key"], values))
        elif match["value"] is not None:
            arguments.append(Argument(match["key"], [match["value"].strip()]))
        else:
            arguments.append(Argument(match["key"], bare=True))
        rest = rest[match.end() :].strip()
    return command, arguments


def normalise(output: str) -> list[str]:
    """What is compared: no log lines, no final newline, and a lone ``ok`` is nothing."""
    lines = [line for line in output.split("\n") if not _LOG_LINE.match(line)]
    text = "\n".join(lines)
    text = text.removesuffix("\n")
    return [] if text in ("", "ok") else text.split("\n")
