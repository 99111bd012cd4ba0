"""The two ends of the pipe between the demo and its nodes, without a cluster: refusals, deaths and goodbyes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from copycat.cli.worker_process import WorkerGone, WorkerProcess, WorkerRefused

TIMEOUT_S = 30.0


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[WorkerProcess]:
    made = WorkerProcess("n1", tmp_path / "stderr.log")
    yield made
    made.kill()


def test_a_typed_error_is_an_answer(worker: WorkerProcess) -> None:
    with pytest.raises(WorkerRefused, match="Closed: no map is open") as refused:
        worker.ask("status")
    assert refused.value.kind == "Closed"
    with pytest.raises(WorkerRefused, match="InvalidConfig"):
        worker.ask("open", config={"copycat_port": -1})


def test_who_waits_is_told_when_the_process_is_killed(worker: WorkerProcess) -> None:
    os.kill(worker.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(worker.ask, "status")
        worker.kill()
        with pytest.raises(WorkerGone):
            asked.result(TIMEOUT_S)
    with pytest.raises(WorkerGone):
        worker.ask("status")


def test_a_bug_ends_the_process_and_leaves_its_trace(worker: WorkerProcess) -> None:
    with pytest.raises(WorkerGone):
        worker.ask("handed", wrong_argument=1)
    assert "wrong_argument" in worker.last_words


def test_closing_is_graceful_and_may_be_repeated(worker: WorkerProcess) -> None:
    process = psutil.Process(worker.pid)
    worker.close()
    worker.close()
    assert not process.is_running()
    assert worker.last_words == ""


def test_a_worker_whose_commander_died_ends_by_itself(worker: WorkerProcess) -> None:
    process = psutil.Process(worker.pid)
    assert worker._process.stdin is not None
    worker._process.stdin.close()  # what the operating system does for a process that died
    process.wait(TIMEOUT_S)
    assert not process.is_running()
