"""``import copycat`` is light: it loads nothing of an extra, no plug, and neither Raft nor gossip before they are used."""

from __future__ import annotations

import json
import subprocess
import sys

EXTRAS = {"click", "rich", "plyvel", "rocksdict", "prometheus_client", "uvloop", "pytest", "hypothesis"}
LATER = {
    "zmq",
    "psutil",
    "asyncio",
    "http",
    "copycat.node",
    "copycat.raft",
    "copycat.gossip",
    "copycat.cli",
    "copycat.aio",
}


def modules_after(statement: str) -> set[str]:
    code = f"import json, sys; {statement}; print(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(ran.stdout))


def test_importing_the_library_loads_no_extra_and_no_engine() -> None:
    loaded = modules_after("import copycat") - modules_after("pass")
    assert "copycat.config" in loaded
    assert loaded & (EXTRAS | LATER) == set()


def test_using_the_library_loads_no_extra() -> None:
    loaded = modules_after("import copycat; copycat.CopyCat; import copycat.metrics, copycat.structures")
    assert "copycat.engine" in loaded
    assert loaded & (EXTRAS | {"http"}) == set()


def test_importing_the_library_loads_a_handful_of_its_modules() -> None:
    """How long that takes depends on the machine; what takes it is this list."""
    loaded = {name for name in modules_after("import copycat") if name.split(".")[0] == "copycat"}
    assert loaded == {"copycat", "copycat.config", "copycat.errors", "copycat.ids", "copycat.ports"}
