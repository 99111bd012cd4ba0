"""What the command line prints and exits with when something is wrong, and what its log lines look like."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from pathlib import Path

import pytest

import copycat
from copycat.cli.commands import run
from copycat.cli.demo import default_file, read_lines
from copycat.cli.logs import KeyValueFormatter
from copycat.config import Config
from copycat.errors import Closed


def exit_code_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        run(list(arguments))
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("node", "--help"), ("demo", "-h")])
def test_help_and_version_exit_with_0(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(*arguments) == 0
    assert "copycat" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [("nonsense",), ("node", "--nonsense"), ("node", "--copycat-port", "many"), ("node", "--durability", "perhaps")],
)
def test_a_wrong_command_line_exits_with_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(*arguments) == 2
    assert "Error" in capsys.readouterr().err


def test_a_wrong_configuration_is_one_line_and_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of("node", "--copycat-port", "70000") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "copycat: InvalidConfig: copycat_port must be a port, 0 to 65535, not 70000\n"


def test_without_the_extra_the_command_names_it_and_exits_with_2() -> None:
    hide = "import sys; sys.modules['click'] = None; from copycat.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True)
    assert result.returncode == 2
    assert "pip install 'copycat[cli]'" in result.stderr
    assert "Traceback" not in result.stderr


class StoppedNode:
    """A node whose disk failed after it had started."""

    node_id = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    address = "127.0.0.1:7459"
    left = False

    def __init__(self, config: Config) -> None:
        pass

    def __enter__(self) -> StoppedNode:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def members(self) -> list[object]:
        raise Closed("the node has stopped: the disk is full")


def test_a_node_that_stops_by_itself_ends_the_process_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(copycat, "CopyCat", StoppedNode)
    monkeypatch.setattr("copycat.cli.node.HEALTH_CHECK_S", 0.001)
    assert exit_code_of("node") == 1
    captured = capsys.readouterr()
    assert captured.out == "ready node_id=01ARZ3NDEKTSV4RRFFQ69G5FAV address=127.0.0.1:7459\n"
    assert captured.err == "copycat: Closed: the node has stopped: the disk is full\n"


def test_a_command_leaves_no_handler_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copycat, "CopyCat", StoppedNode)
    library = logging.getLogger("copycat")
    before = list(library.handlers), library.propagate, library.level
    assert exit_code_of("node") == 1
    assert (library.handlers, library.propagate, library.level) == before


def test_a_log_record_is_one_line_with_its_structured_fields() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(KeyValueFormatter())
    logger = logging.Logger("copycat.example")
    logger.addHandler(handler)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logger.warning("a peer %s", "left", extra={"node_id": "01X", "reason": 'said "bye"'}, exc_info=True)
    (line,) = stream.getvalue().splitlines()
    assert ' level=warning logger=copycat.example message="a peer left" node_id=01X ' in line
    assert ' reason="said \\"bye\\"" ' in line
    assert ' error="ValueError: two\\nlines" ' in line


def test_the_demo_finds_a_text_of_some_thousand_lines() -> None:
    assert 1_000 < len(read_lines(default_file())) < 20_000


def test_the_demo_refuses_a_file_without_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").touch()
    assert exit_code_of("demo", str(tmp_path / "empty")) == 2
    assert "has 0 lines" in capsys.readouterr().err


def test_the_demo_refuses_a_file_that_is_absent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of("demo", str(tmp_path / "absent")) == 2
    assert "does not exist" in capsys.readouterr().err
