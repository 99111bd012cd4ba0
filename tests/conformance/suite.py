"""Which file is run how: scripts drive whole groups, quorum and confchange tables test those parts alone.

In a folder that is called so, every file is of that kind. Anywhere else, also where all lie side by side, the commands
tell; what has none of a table's is a script, so that a file nobody understands fails as one.
"""

from __future__ import annotations

from pathlib import Path

from .datadriven import NotUnderstood, parse

KINDS = ("scripts", "quorum", "confchange")
_COMMANDS = {
    "committed": "quorum",
    "vote": "quorum",
    "simple": "confchange",
    "enter-joint": "confchange",
    "leave-joint": "confchange",
}
_ABOUT = ("README", "LICENSE", "LICENCE", "NOTICE")


def find(base: Path) -> dict[str, list[Path]]:
    """The files of each kind below ``base``, without those that are about the files."""
    found: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for path in sorted(base.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(base).parts)
        if path.is_file() and not hidden and path.stem.upper() not in _ABOUT:
            found[_kind(path, base)].append(path)
    return found


def _kind(path: Path, base: Path) -> str:
    for folder in path.relative_to(base).parts[:-1]:
        if folder in KINDS:
            return folder
    try:
        return _COMMANDS.get(parse(path)[0].command, "scripts")
    except (NotUnderstood, UnicodeDecodeError):
        return "scripts"
