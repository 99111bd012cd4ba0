"""The history of what clients saw: what is written can be read, and what doesn't fit is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from copycat.testing.history import History, check, operations, read_lines


def line(process: str, call: int, kind: str, time: int, f: str = "write", value: str | None = None) -> dict[str, Any]:
    operation = {"f": f, "register": "x", "value": value}
    return {"process": process, "call": call, "type": kind, "operation": operation, "time": time}


def test_what_one_process_writes_is_read_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.history"
    history = History(str(path), "a")
    history.begin(1, "write", "x", "a:1")
    history.end(1, "ok")
    history.begin(-1, "read", "x", None)
    history.end(-1, "ok", "read", "x", "a:1")
    with path.open("ab") as file:
        file.write(b'{"process": "a", "call": 2, "type": "inv')  # cut by a kill
    lines = read_lines(path)
    assert [(each["call"], each["type"]) for each in lines] == [(1, "invoke"), (1, "ok"), (-1, "invoke"), (-1, "ok")]
    write, read = operations(lines)["x"]
    assert (write.is_write, write.value, read.is_write, read.value) == (True, "a:1", False, "a:1")
    assert write.invoked <= write.answered <= read.invoked <= read.answered
    assert check(lines) == (1, 0)


def test_a_stale_read_is_found() -> None:
    lines = [line("a", 1, "invoke", 1, value="a:1"), line("a", 1, "ok", 2)]
    lines += [line("b", -1, "invoke", 3, "read"), line("b", -1, "ok", 4, "read", None)]
    with pytest.raises(AssertionError, match="register x is not linearizable"):
        check(lines)


def test_a_write_that_failed_must_not_be_seen_and_an_unknown_one_may() -> None:
    for outcome, fits in (("fail", False), ("unknown", True), (None, True)):
        lines = [line("a", 1, "invoke", 1, value="a:1")]
        lines += [line("a", 1, outcome, 2)] if outcome else []
        lines += [line("b", -1, "invoke", 3, "read"), line("b", -1, "ok", 4, "read", "a:1")]
        if fits:
            assert check(lines) == (1, 0)
        else:
            with pytest.raises(AssertionError, match="not linearizable"):
                check(lines)
