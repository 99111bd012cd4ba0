"""The measuring tool, at a size for every day: large snapshots pass through both nodes in bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "snapshot_transfer"
MIB_EACH = 64
GROWTH_MIB_MAX = 110
"""LevelDB's buffers, and some: far less than the two snapshots would add to those."""
LOAD_OVERHEAD_MIB_MAX = 32
PATIENCE_S = 900

pytestmark = pytest.mark.slow


def test_two_large_snapshots_at_once_pass_in_bounded_memory() -> None:
    ended = subprocess.run(
        [sys.executable, str(TOOL), "--mib", str(MIB_EACH)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["receiver_growth_mib"] < GROWTH_MIB_MAX, found
    assert found["sender_growth_mib"] < GROWTH_MIB_MAX, found
    assert found["load_overhead_mib"] < LOAD_OVERHEAD_MIB_MAX, "a consumer that loads holds the snapshot more than once"
