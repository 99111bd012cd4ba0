"""The commands as processes: a node that starts and leaves, and the demo, whole and interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import psutil
import pytest

TIMEOUT_S = 90.0
WAIT_S = 60.0

pytestmark = pytest.mark.slow


@contextmanager
def command(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """``copycat ...`` as a process, killed in the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "copycat.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        # A shell that runs the tests in the background hands on that interrupts are ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    watchdog = threading.Timer(TIMEOUT_S, process.kill)
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


@contextmanager
def node(data_dir: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """``copycat node`` on free ports, once it is ready, and what its one line said."""
    ports = ("--copycat-port", "0", "--gossip-port", "0", "--gossip-profile", "local")
    with command("node", "--data-dir", str(data_dir), *ports, *arguments) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("ready "):
            pytest.fail(f"not ready: {line!r}, {process.communicate()[1]}")
        yield process, dict(re.findall(r"(\w+)=(\S+)", line))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_node_says_when_it_is_ready_and_leaves_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    with node(tmp_path) as (process, said):
        assert len(said["node_id"]) == 26
        assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", said["address"])
        process.send_signal(number)
        output, errors = process.communicate(timeout=WAIT_S)
        assert (process.returncode, output) == (0, ""), errors
        assert "Traceback" not in errors


def test_a_node_serves_its_metrics_and_its_health_when_it_is_told_a_port(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")
    with node(tmp_path, "--metrics-port", "0") as (process, said):
        with urlopen(said["metrics"], timeout=WAIT_S) as answer:
            assert (
                f'copycat_node_info{{data_center="",node_id="{said["node_id"]}",rack=""}} 1.0' in answer.read().decode()
            )
        with urlopen(said["metrics"].replace("/metrics", "/health"), timeout=WAIT_S) as answer:
            assert answer.read() == b"well\n"
        process.terminate()
        assert process.wait(WAIT_S) == 0


def test_a_node_shows_itself_to_who_has_its_token_when_it_is_told_a_port(tmp_path: Path) -> None:
    with node(tmp_path, "--web-port", "0", "--web-token-file", str(tmp_path / "token")) as (process, said):
        token = (tmp_path / "token").read_text().strip()
        asked = Request(said["web"] + "api/v1/status", headers={"Authorization": f"Bearer {token}"})
        with urlopen(asked, timeout=WAIT_S) as answer:
            assert json.load(answer)["status"]["node_id"] == said["node_id"]
        process.terminate()
        output, errors = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0
        assert token not in output + errors + str(said)


def test_a_node_keeps_its_id_over_a_restart(tmp_path: Path) -> None:
    ids = set()
    for _ in range(2):
        with node(tmp_path) as (process, said):
            ids.add(said["node_id"])
            process.terminate()
            assert process.wait(WAIT_S) == 0
    assert len(ids) == 1


def test_a_node_whose_port_is_taken_says_so_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = ("--copycat-port", str(other.getsockname()[1]), "--gossip-port", "0", "--log-level", "error")
        with command("node", "--data-dir", str(tmp_path), *taken) as process:
            output, errors = process.communicate(timeout=WAIT_S)
    assert (process.returncode, output) == (2, "")
    assert errors.startswith("copycat: AddressInUse: ")
    assert errors.count("\n") == 1


def test_a_node_that_finds_no_seed_says_so_and_fails(tmp_path: Path) -> None:
    arguments = (
        "--peers-to-contact",
        "127.0.0.1:9",
        "--join-timeout-s",
        "0.3",
        "--copycat-port",
        "0",
        "--gossip-port",
        "0",
    )
    with command("node", "--data-dir", str(tmp_path), "--log-level", "error", *arguments) as process:
        output, errors = process.communicate(timeout=WAIT_S)
    assert (process.returncode, output) == (1, "")
    assert errors.startswith("copycat: SeedUnreachable: ")


def children_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_the_demo_keeps_every_promise_and_leaves_nothing_behind(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("\n".join(f"line {number}\n" for number in range(400)))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with command("demo", str(text), TMPDIR=str(scratch)) as process:
        output, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, output + errors
    assert "every line was handed out exactly once" in output
    assert errors == ""
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    with command("demo", TMPDIR=str(tmp_path)) as process:
        assert process.stdout is not None
        while "killing the leader" not in (line := process.stdout.readline()):
            assert line, "the demo ended too early"
        workers = children_of(process)
        assert workers
        process.send_signal(number)
        process.communicate(timeout=WAIT_S)
        assert process.returncode == 128 + number
        _, alive = psutil.wait_procs(workers, timeout=WAIT_S)
    assert alive == []
    assert list(tmp_path.iterdir()) == []
