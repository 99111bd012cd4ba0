"""What is logged: fixed sentences, fields that the docs list, and nothing that grows with the traffic."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from copycat.testing.nodes import ListCopy, NodeCluster

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("copycat", "transports", "storage")
LEVELS = ("debug", "info", "warning", "error", "critical", "exception")


def log_calls() -> Iterator[tuple[str, ast.Call]]:
    for path in (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))):
        for found in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(found, ast.Call)
                and isinstance(found.func, ast.Attribute)
                and isinstance(found.func.value, ast.Name)
                and found.func.value.id in ("log", "logger", "logging")
                and found.func.attr in (*LEVELS, "log", "warn", "fatal")
            ):
                yield f"{path.relative_to(ROOT)}:{found.lineno}", found


def fields(call: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    for keyword in call.keywords:
        if keyword.arg == "extra":
            assert isinstance(keyword.value, ast.Dict)
            for key, value in zip(keyword.value.keys, keyword.value.values, strict=True):
                assert isinstance(key, ast.Constant)
                assert isinstance(key.value, str)
                yield key.value, value


def documented() -> set[str]:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8").split("## Logs")[1]
    return {
        name for row in re.findall(r"^\| (`.+?`) \|", text, flags=re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }


CALLS = list(log_calls())


def test_a_message_is_a_fixed_sentence_of_the_module_s_own_logger() -> None:
    assert len(CALLS) > 20
    for place, call in CALLS:
        assert isinstance(call.func, ast.Attribute)
        assert call.func.attr in LEVELS, place
        assert ast.unparse(call.func.value) == "log", f"{place} logs through something else than log"
        assert isinstance(call.args[0], ast.Constant), f"{place} puts its message together"
        assert {keyword.arg for keyword in call.keywords} <= {"extra", "exc_info"}, place


def test_fields_are_the_ones_that_the_docs_list() -> None:
    used = set()
    reserved = vars(logging.makeLogRecord({})).keys() | {"message", "asctime", "taskName"}
    for place, call in CALLS:
        for name, value in fields(call):
            used.add(name)
            assert name in documented(), f"{place}: {name!r} is not in docs/metrics.md"
            assert name not in reserved, place
            if name == "group":
                assert ast.unparse(value).startswith("name_of("), (
                    f"{place}: a group is logged by the name that users know"
                )
    assert documented() - used == set()


@pytest.mark.parametrize("count", [100, 5_000])
def test_no_level_has_a_line_for_a_proposal_or_a_batch(tmp_path: Path, count: int) -> None:
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    library, keep = logging.getLogger("copycat"), Keep()
    level = library.level
    with NodeCluster(tmp_path, "memory", "memory") as cluster:
        nodes = cluster.start(3)
        copies = [ListCopy(node, group) for group in [cluster.group(nodes[0])] for node in nodes]
        copies[0].sub.propose.send(b"first")
        for copy in copies:
            copy.wait(1)
        library.addHandler(keep)
        library.setLevel(logging.DEBUG)
        try:
            for _ in range(count // 50):
                copies[1].sub.propose.send_many([b"x"] * 50)
            for copy in copies:
                copy.wait(1 + count)
        finally:
            library.removeHandler(keep)
            library.setLevel(level)
    assert len(records) < 50, [record.getMessage() for record in records[:60]]
