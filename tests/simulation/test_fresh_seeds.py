"""Seeds that nobody has run before, 60 virtual seconds each: a few with every run of the suite, many on demand.

    COPYCAT_TEST_SEEDS=300 tools/test tests/simulation/test_fresh_seeds.py
    COPYCAT_TEST_SEEDS=0:300 tools/test tests/simulation/test_fresh_seeds.py

runs so many, or the same ones each time, on all processors, for at most five minutes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

SIMULATE = Path(__file__).resolve().parents[2] / "tools" / "simulate"
FEW = 4


def test_fresh_seeds_keep_every_promise(capfd) -> None:
    wanted = os.environ.get("COPYCAT_TEST_SEEDS", "")
    jobs, minutes = (os.cpu_count() or 1, 5.0) if wanted else (1, 0.5)
    seeds = ("--seeds", wanted) if ":" in wanted else ("--fresh", wanted or str(FEW))
    command = [sys.executable, str(SIMULATE), *seeds, "--jobs", str(jobs), "--minutes", str(minutes)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    with capfd.disabled():
        print(f"\n{done.stdout}")  # how many, how fast; what failed, and how to see it again
    assert done.returncode == 0, done.stdout
    ran = re.search(r"(\d+) of \d+ seeds", done.stdout)
    assert ran is not None
    assert int(ran[1]) > 0
