"""What the site needs beside its pages: files of the project that pages link to, parts of the README, and colours for code.

Pages are written to be read in the repository, so they link to ``../examples/hash_map.py`` and the like. The site has a copy of
each such file under ``source/``. A line ``<!-- README.md: TITLE -->`` stands for that section of the README, so that nothing is
said twice.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).resolve().parent.parent.parent
LINK = re.compile(r"\]\(([^)\s#:]+)(#[^)\s]*)?\)")
PART = re.compile(r"<!-- README\.md: (.+?) -->")
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
TEXT = {".py", ".yaml", ".toml", ".service", ".json", ".dot", ""}  # what browsers should show, not keep


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    for page in [file for file in files.documentation_pages() if file.src_uri.endswith(".md")]:
        text = with_parts(Path(str(page.abs_src_path)).read_text(encoding="utf-8"))
        for target, _anchor in LINK.findall(text):
            path = beyond(page.src_uri, target)
            if path is not None and path not in PAGES and files.get_file_from_path(copy_of(path)) is None:
                content = (ROOT / path).read_bytes()
                files.append(File.generated(config, copy_of(path), content=content))
    changelog = relinked("README.md", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    files.append(File.generated(config, "changelog.md", content=changelog))
    files.append(File.generated(config, "code.css", content=style_of_code()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    return (
        relinked(f"docs/{page.file.src_uri}", with_parts(markdown)) if page.file.src_uri != "changelog.md" else markdown
    )


def with_parts(text: str) -> str:
    """The page with the README's sections in their places, and links in them as if they were the page's own."""

    def part(found: re.Match[str]) -> str:
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        section = re.search(rf"^## {re.escape(found[1])}\n(.*?)(?=^## |\Z)", readme, flags=re.DOTALL | re.MULTILINE)
        if section is None:
            raise LookupError(f"README.md has no section {found[1]!r}")
        return LINK.sub(lambda link: f"]({posixpath.relpath(link[1], 'docs')}{link[2] or ''})", section[1])

    return PART.sub(part, text)


def beyond(page: str, target: str) -> str | None:
    """Where in the project a page's link leads to, if that is beyond the pages."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path.startswith("docs/") else path


def copy_of(path: str) -> str:
    suffix = posixpath.splitext(path)[1]
    return f"source/{path}.txt" if suffix in TEXT else f"source/{path}"


def relinked(path: str, text: str) -> str:
    """A page of the project, with its links as they are in the site. ``path`` is the page's own, within the project."""
    folder = posixpath.dirname(path)
    place = posixpath.relpath(folder, "docs") if folder else "."

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, found[1]))
        there = target[len("docs/") :] if target.startswith("docs/") else PAGES.get(target, copy_of(target))
        return f"]({posixpath.relpath(there, place)}{found[2] or ''})"

    return LINK.sub(link, text)


def style_of_code() -> str:
    """Light and dark, as the theme marks them; the diagrams are drawn on white."""
    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs("[data-bs-theme=dark] .highlight")
    more = """
.highlight pre { padding: 0.7rem 0.9rem; border-radius: 0.4rem; overflow-x: auto; }
.highlight, [data-bs-theme=dark] .highlight { background: transparent; }
img[src$=".svg"] { background: #fff; border-radius: 0.4rem; padding: 0.6rem; max-width: 100%; }
table { display: block; overflow-x: auto; margin-bottom: 1rem; }
th, td { padding: 0.25rem 0.9rem 0.25rem 0; vertical-align: top; border-top: 1px solid var(--bs-border-color); }
.doc-contents { margin-left: 1.2rem; }
"""
    return f"{light}\n{dark}\n{more}"
