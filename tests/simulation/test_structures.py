"""Structures in simulated worlds: right ones pass, a wrong one is found, and so a user's own may be, as the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from copycat.structures import Counter
from copycat.testing.scenario import Scenario, draw
from copycat.testing.simulation import Simulation, run
from copycat.testing.specimens import SPECIMENS, Specimen

PAGE = Path(__file__).resolve().parents[2] / "docs" / "simulation.md"


def world_of(seed: int, specimen: Specimen) -> Scenario:
    return replace(draw(seed), nodes=3, groups=1, subscribers=1.0, specimens=(specimen,))


@pytest.mark.parametrize("name", sorted(SPECIMENS))
def test_a_ready_made_structure_is_linearizable_under_faults(name: str) -> None:
    simulation = Simulation(world_of(sorted(SPECIMENS).index(name), SPECIMENS[name]))
    report = simulation.run()
    assert report.failure is None, report.failure
    assert report.calls > 0


def test_a_structure_that_does_other_things_than_its_model_is_found() -> None:
    counter = SPECIMENS["Counter"]

    def step(value: int, name: str, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
        after, result = counter.model.step(value, name, arguments)
        return (after, result + 1) if name == "add" else (after, result)

    failure = run(world_of(1, replace(counter, model=replace(counter.model, step=step)))).failure
    assert failure is not None
    assert failure.kind == "not linearizable"


def test_copies_that_differ_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counter, "snapshot", lambda self: id(self))
    failure = run(world_of(1, SPECIMENS["Counter"])).failure
    assert failure is not None
    assert failure.kind == "copies differ"


def test_the_sample_of_the_page_runs(tmp_path: Path) -> None:
    program = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL))
    assert "Specimen(" in program
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr  # what the library's log says of the faults is on stderr, too
    assert result.stdout
