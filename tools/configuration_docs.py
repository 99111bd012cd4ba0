"""Writes docs/configuration.md from the fields of ``copycat.Config`` and the text beside them. ``--print`` only shows it."""

from __future__ import annotations

import dataclasses
import enum
import sys
from pathlib import Path

from copycat.cli.options import field_docs
from copycat.config import Config

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
HEAD = """# Configuration

Fields of `copycat.Config`. Each is an option of `copycat node` too (`--copycat-port`), and a key of the TOML file that its
`--config` reads. Names end in their unit: `_s` seconds, `_ms` milliseconds, `_bytes` bytes; `_max` marks a bound. A value that
can't work raises `copycat.errors.InvalidConfig` when the configuration is made.

This page is made by `tools/configuration_docs.py`; a test compares the two.

| field | default | meaning |
| --- | --- | --- |
"""


SAME_EVERYWHERE = {"storage": "leveldb"}
"""Defaults that depend on what is installed, as they are where all is."""


def page() -> str:
    docs = field_docs()
    rows = []
    for field in dataclasses.fields(Config):
        default = SAME_EVERYWHERE.get(field.name, field.default)
        default = default.value if isinstance(default, enum.Enum) else default
        meaning = " ".join(docs[field.name].replace("``", "`").split()).replace("|", "\\|")
        rows.append(f"| `{field.name}` | `{default!r}` | {meaning} |")
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--print"]:
        sys.stdout.write(page())
    else:
        PAGE.write_text(page(), encoding="utf-8")
