"""Finds the files of the reference suite, and those of this project beside it, and makes one test of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from .suite import KINDS, find

_HERE = Path(__file__).resolve().parent
_REFERENCE = _HERE.parents[2] / "shared" / "etcd-raft-interaction"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``scripts_file`` and its like: every file of that kind. Without a folder, those of this project alone."""
    given = metafunc.config.getoption("--interaction-dir")
    base = Path(given) if given else _REFERENCE
    for kind in KINDS:
        fixture = f"{kind}_file"
        if fixture not in metafunc.fixturenames:
            continue
        cases = [pytest.param(path, id=f"own-{path.stem}") for path in find(_HERE)[kind] if path.suffix == ".txt"]
        if base.is_dir():
            found = find(base)
            if not any(found.values()):
                raise pytest.UsageError(f"there is no interaction script in {base}")
            cases += [pytest.param(path, id=path.stem) for path in found[kind]]
        else:
            skip = pytest.mark.skip(reason=f"no interaction scripts in {base}: give --interaction-dir")
            cases.append(pytest.param(None, id="absent", marks=skip))
        if not cases:
            cases.append(pytest.param(None, id="none", marks=pytest.mark.skip(reason=f"no {kind} files in {base}")))
        metafunc.parametrize(fixture, cases)
