"""Runs what the README shows first, as a newcomer would, but for the size of the cluster."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_first_program_runs_on_one_node(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(import copycat\n.*?)```", text, flags=re.DOTALL)
    assert found is not None
    program = found.group(1)
    for shown, here in (("7458", "0"), ("7459", "0"), ("replicas=3", "replicas=1")):
        assert shown in program
        program = program.replace(shown, here)
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{26}\n", result.stdout)
    assert (tmp_path / "copycat-db").is_dir()
