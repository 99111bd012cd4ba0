"""tools/plant_bugs can plant all it lists: each place is still there, once, and what stands there then is still Python."""

from __future__ import annotations

import ast
import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

TOOL = Path(__file__).resolve().parents[2] / "tools" / "plant_bugs"


def load_tool() -> Any:
    loader = SourceFileLoader("plant_bugs", str(TOOL))
    spec = importlib.util.spec_from_loader("plant_bugs", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["plant_bugs"] = module  # dataclasses look for it there
    loader.exec_module(module)
    return module


def test_every_planted_bug_has_its_place() -> None:
    tool = load_tool()
    assert len(tool.BUGS) >= 20
    assert len({bug.name for bug in tool.BUGS}) == len(tool.BUGS)
    for bug in tool.BUGS:
        source = (tool.ROOT / "copycat" / f"{bug.module}.py").read_text(encoding="utf-8")
        assert source.count(bug.before) == 1, bug.name
        planted = source.replace(bug.before, bug.after)
        assert planted != source
        ast.parse(planted)
