"""Lets the site show docstrings: roles such as ``:class:`~copycat.errors.Full``` become code, with a link if there is one."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|meth|func|mod|data|attr):`(~?)([\w.]+)`")


def markdown_of(docstring: str) -> str:
    """The same text, with what only Sphinx understands put in other words."""

    def linked(found: re.Match[str]) -> str:
        short, target = found.groups()
        shown = target.rpartition(".")[2] if short else target
        return f'<autoref identifier="{target}" optional><code>{shown}</code></autoref>'

    return ROLE.sub(linked, docstring)


class Roles(griffe.Extension):
    """Called for every object that is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown_of(obj.docstring.value)
