"""The documentation as a site: it builds without a warning and loads nothing from elsewhere, and what looks for that sees it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CHECK = ROOT / "tools" / "site" / "check.py"
BUILDS = all(importlib.util.find_spec(name) is not None for name in ("mkdocs", "mkdocstrings"))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(not BUILDS, reason="mkdocs is not installed: the site was not built (tox -e docs does)")
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    built = run("-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site"))
    assert built.returncode == 0, built.stdout + built.stderr
    checked = run(str(CHECK), str(tmp_path / "site"))
    assert (checked.returncode, checked.stdout) == (0, "")
    reference = (tmp_path / "site" / "reference" / "copycat.html").read_text(encoding="utf-8")
    assert "subscribe_to_data_structure" in reference
    assert ":class:" not in reference  # roles have become links
    assert (tmp_path / "site" / "source" / "examples" / "expiring_set.py.txt").is_file()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("page.html", '<script src="https://cdn.example.com/a.js"></script>'),
        ("page.html", '<link rel="stylesheet" href="//cdn.example.com/a.css">'),
        ("page.html", '<img src="http://example.com/a.png">'),
        ("page.html", "<style>body { background: url('https://example.com/a.png') }</style>"),
        ("style.css", '@import "https://fonts.example.com/a.css";'),
    ],
)
def test_what_is_loaded_from_elsewhere_is_found(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / "index.html").write_text('<a href="https://example.com">a link</a><link rel="icon" href="icon.png">')
    assert run(str(CHECK), str(tmp_path)).returncode == 0
    (tmp_path / name).write_text(content)
    checked = run(str(CHECK), str(tmp_path))
    assert checked.returncode == 1
    assert checked.stdout.startswith(f"{name}: ")


def test_a_folder_that_is_no_site_is_not_called_one(tmp_path: Path) -> None:
    assert run(str(CHECK), str(tmp_path)).returncode == 2
