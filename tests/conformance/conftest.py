"""Finds the files of the reference suite and makes one test of each."""

from __future__ import annotations

from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_FOLDERS = ("scripts", "quorum", "confchange")


def _interaction_dir(config: pytest.Config) -> Path:
    given = config.getoption("--interaction-dir")
    return Path(given) if given else _ROOT.parent / "shared" / "etcd-raft-interaction"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``scripts_file`` and its like: every file of that folder, whatever its name; skipped without a folder."""
    for folder in _FOLDERS:
        fixture = f"{folder}_file"
        if fixture not in metafunc.fixturenames:
            continue
        base = _interaction_dir(metafunc.config)
        if not base.is_dir():
            skip = pytest.mark.skip(reason=f"no interaction scripts in {base}: give --interaction-dir")
            metafunc.parametrize(fixture, [pytest.param(None, marks=skip)], ids=["absent"])
            continue
        files = sorted(path for path in (base / folder).rglob("*") if path.is_file())
        metafunc.parametrize(fixture, files, ids=[path.stem for path in files])
