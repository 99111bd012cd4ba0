#!/usr/bin/env python3
"""Says what a built site would load from elsewhere: it must be readable where there is no network.

Links that a reader clicks are fine.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

ELSEWHERE = re.compile(r"^(?:[a-z]+:)?//", re.IGNORECASE)
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "link": "href",
    "object": "data",
}
IN_STYLE = re.compile(r"""(?:url\(\s*['"]?|@import\s+['"])((?:[a-z]+:)?//[^'")\s]+)""", re.IGNORECASE)


class Loads(HTMLParser):
    """Addresses beyond the site that a page makes a browser fetch."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") == "canonical":
            return
        address = given.get(LOADED.get(tag, ""))
        if address and ELSEWHERE.match(address):
            self.found.append(address)


def loads_of(site: Path) -> list[str]:
    """Each as ``file: address``."""
    found = []
    for path in sorted(site.rglob("*")):
        if path.suffix == ".html":
            text = path.read_text(encoding="utf-8")
            addresses = [*Loads(text).found, *IN_STYLE.findall(text)]
        elif path.suffix in (".css", ".svg"):
            addresses = IN_STYLE.findall(path.read_text(encoding="utf-8"))
        else:
            continue
        found += [f"{path.relative_to(site)}: {address}" for address in addresses]
    return found


def main() -> int:
    site = Path(sys.argv[1])
    if not (site / "index.html").is_file():
        print(f"{site} is no site")
        return 2
    found = loads_of(site)
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
