"""One command line option and one TOML key for each field of :class:`~copycat.config.Config`, made by looking at it.

A field that is added to ``Config`` appears here, and in the help, by itself. What was given on the command line wins over
the file, and the file over the defaults. Values are judged by ``Config`` alone.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import sys
import types
import typing
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import click

from copycat.config import Config
from copycat.errors import InvalidConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

F = TypeVar("F", bound=Callable[..., Any])

FIELD_NAMES = tuple(field.name for field in dataclasses.fields(Config))


def field_docs() -> dict[str, str]:
    """The text under each field of ``Config``, by field name, in order; empty where there is none."""
    (definition,) = ast.parse(inspect.getsource(Config)).body
    assert isinstance(definition, ast.ClassDef)
    docs: dict[str, str] = dict.fromkeys(FIELD_NAMES, "")
    last = None
    for statement in definition.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            last = statement.target.id
        elif last and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            docs[last] = inspect.cleandoc(str(statement.value.value))
            last = None
        else:
            last = None
    return docs


def config_options(command: F) -> F:
    """Decorate a click command with ``--config`` and one option a field; it gets them as keyword arguments."""
    hints = typing.get_type_hints(Config)
    docs = field_docs()
    for field in reversed(dataclasses.fields(Config)):
        command = _option(field, hints[field.name], docs[field.name])(command)
    file_option = click.option(
        "--config",
        "config_file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="TOML file whose keys are the options below, with underscores; options given here win.",
    )
    return file_option(command)


def config_from(config_file: Path | None, given: dict[str, Any]) -> Config:
    """The configuration of a command line. ``given`` holds every field; None or empty means that it was not given.

    Raises :class:`~copycat.errors.InvalidConfig`.
    """
    values = {} if config_file is None else read_toml(config_file)
    values.update({name: value for name, value in given.items() if value is not None and value != ()})
    return Config(**values)


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of a TOML file, each the name of a field of ``Config``.

    Raises :class:`~copycat.errors.InvalidConfig` if it can't be read, is no TOML, or has a key that is no field.
    """
    try:
        with path.open("rb") as file:
            values: dict[str, Any] = tomllib.load(file)
    except OSError as error:
        raise InvalidConfig(f"{path} can't be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"{path} is no TOML: {error}") from error
    for key in values:
        if key not in FIELD_NAMES:
            close = get_close_matches(key, FIELD_NAMES, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; the keys are {', '.join(FIELD_NAMES)}"
            raise InvalidConfig(f"{path} has the unknown key {key!r}{hint}")
    return values


def _option(field: dataclasses.Field[Any], hint: Any, doc: str) -> Callable[[F], F]:
    name = "--" + field.name.replace("_", "-")
    shown = field.default.value if isinstance(field.default, enum.Enum) else field.default
    text = doc if shown in (None, "", ()) else f"{doc}  [default: {shown}]"
    if isinstance(field.default, tuple):
        return click.option(name, multiple=True, metavar="TEXT", callback=_split, help=f"{text} May be repeated.")
    kind = _plain_type(field, hint)
    if kind is bool:
        return click.option(f"{name}/--no-{name[2:]}", default=None, help=text)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return click.option(name, type=click.Choice([member.value for member in kind]), default=None, help=text)
    return click.option(name, type=kind, default=None, help=text)


def _plain_type(field: dataclasses.Field[Any], hint: Any) -> Any:
    """What an option's text is turned into: the default's type, or for None the first plain type that is allowed."""
    if field.default is not None and field.default is not dataclasses.MISSING:
        return type(field.default)
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for candidate in (bool, int, float, str):
        if candidate in allowed:
            return candidate
    raise TypeError(f"Config.{field.name} can't be given on a command line: {hint}")


def _split(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part for value in values for part in value.split())
