"""tools/mutate_core.py can break all the rules it lists: each place is still there, once, and stays Python when broken."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def _load_tool() -> Any:
    spec = importlib.util.spec_from_file_location("mutate_core", ROOT / "tools" / "mutate_core.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutate_core"] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def test_every_rule_has_its_place() -> None:
    mutations = _load_tool().MUTATIONS
    assert len({mutation.rule for mutation in mutations}) == len(mutations) >= 15
    for mutation in mutations:
        source = (ROOT / "copycat" / "raft" / f"{mutation.module}.py").read_text(encoding="utf-8")
        assert source.count(mutation.before) == 1, mutation.rule
        broken = source.replace(mutation.before, mutation.after)
        assert broken != source
        ast.parse(broken)
