#!/usr/bin/env python3
"""Draws docs/diagrams/*.dot with Graphviz's ``dot``, and says which were made from another text (--check does only that).

A picture begins with a hash of the text that it was made from. So whether it is stale can be told without ``dot``, and does not
depend on its version.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "diagrams"
MARK = "<!-- made by tools/diagrams.py from {name}, {digest} -->"


def mark_of(source: Path) -> str:
    return MARK.format(name=source.name, digest=hashlib.sha256(source.read_bytes()).hexdigest())


def draw(source: Path) -> str:
    """The picture of a text; raises CalledProcessError if ``dot`` does not understand it."""
    made = subprocess.run(["dot", "-Tsvg", str(source)], capture_output=True, text=True, check=True).stdout
    body = made[made.index("<svg") :]
    body = re.sub(r"<!--.*?-->\n?", "", body, flags=re.DOTALL)  # names of nodes, and which version drew it
    return f"{mark_of(source)}\n{body}"


def stale() -> list[str]:
    """Names of texts without a picture made from just them, and of pictures without a text."""
    sources = {path.stem: path for path in FOLDER.glob("*.dot")}
    pictures = {path.stem: path for path in FOLDER.glob("*.svg")}
    found = [path.name for name, path in pictures.items() if name not in sources]
    for name, path in sources.items():
        picture = pictures.get(name)
        if picture is None or not picture.read_text(encoding="utf-8").startswith(mark_of(path)):
            found.append(path.name)
    return sorted(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say what is stale")
    if not parser.parse_args().check:
        for source in sorted(FOLDER.glob("*.dot")):
            source.with_suffix(".svg").write_text(draw(source), encoding="utf-8")
    found = stale()
    for name in found:
        print(f"{name}: the picture is not made from this text; run tools/diagrams.py")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
