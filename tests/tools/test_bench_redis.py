"""The comparison with Redis runs, and prints what it should; what it prints means nothing in so short a time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "bench_redis.py"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not here (Debian: redis-server)")
def test_the_short_form_measures_both() -> None:
    command = [sys.executable, str(TOOL), "--short", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    ours, theirs = json.loads(done.stdout)
    assert [each["subject"] for each in (ours, theirs)] == ["example", "Redis"]
    assert all(each["writes_per_s"] > 0 and each["p99_ms"] >= each["p50_ms"] > 0 for each in (ours, theirs))
