"""The core behaves, message for message, as the reference scripts say."""

from __future__ import annotations

from pathlib import Path

from .datadriven import normalise, parse
from .environment import Environment


def test_script(scripts_file: Path) -> None:
    environment = Environment(seed=1)
    for case in parse(scripts_file):
        printed = normalise(environment.run(case))
        assert printed == normalise(case.expected), f"{scripts_file.name}, line {case.line}: {case.command}"
