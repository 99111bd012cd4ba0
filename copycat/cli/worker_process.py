"""The commanding end of :mod:`copycat.cli.worker`: starts one, asks it, and ends it in the ways that a process can end.

Nothing waits without a limit. A worker is the leader of its own process group, so that Ctrl-C at a terminal reaches only
the one in command, which then ends it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any

ANSWER_TIMEOUT_S = 15.0
CLOSE_TIMEOUT_S = 10.0
KILL_TIMEOUT_S = 10.0
GRACE_S = 5.0
"""What an answer may take beyond the time that the request itself was given."""


class WorkerGone(Exception):
    """The process ended, or was ended, before it answered."""


class WorkerRefused(Exception):
    """The worker answered with a typed error, whose name is ``kind``."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class WorkerProcess:
    """One worker. Every method may be called from any thread.

    ``log`` is the file that gets its stderr; ``module`` is what it runs, and obeys as :mod:`copycat.cli.worker` does.
    """

    def __init__(self, name: str, log: Path, module: str = "copycat.cli.worker") -> None:
        self.name = name
        self._log = log
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._last_id = 0
        self._gone = False
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(  # noqa: S603  # a module of this package
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                encoding="utf-8",
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, name=f"{name}-answers", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def last_words(self) -> str:
        """What it wrote on stderr, the end of it."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-4000:]

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its answer: for the request's own ``timeout``, if it has one, and a little longer.

        Raises :class:`WorkerRefused` for a typed error, :class:`WorkerGone` if the process ends first, and
        :class:`TimeoutError` if it just doesn't answer.
        """
        patience_s = arguments.get("timeout", ANSWER_TIMEOUT_S) + GRACE_S
        answered: Future[dict[str, Any]] = Future()
        with self._lock:
            if self._gone:
                raise WorkerGone(f"{self.name} has ended")
            self._last_id += 1
            number = self._last_id
            self._waiting[number] = answered
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(json.dumps({"id": number, "do": do, **arguments}) + "\n")
                self._process.stdin.flush()
            except OSError as error:
                del self._waiting[number]
                raise WorkerGone(f"{self.name} has ended") from error
        try:
            answer = answered.result(patience_s)
        except FutureTimeoutError:
            raise TimeoutError(f"{self.name} did not answer {do!r} within {patience_s:.1f} s") from None
        if "error" in answer:
            raise WorkerRefused(answer["error"], answer["message"])
        return answer

    def kill(self) -> None:
        """SIGKILL, as in a crash: nothing is said, written or handed over. Returns once the process is gone."""
        self._process.kill()
        self._process.wait(KILL_TIMEOUT_S)
        self._reader.join(KILL_TIMEOUT_S)
        self._release()

    def close(self) -> None:
        """Let it leave gracefully; kill it if it doesn't. May be called twice, and after :meth:`kill`."""
        try:
            self.ask("close")
            self._process.wait(CLOSE_TIMEOUT_S)
        except (WorkerGone, WorkerRefused, TimeoutError, subprocess.TimeoutExpired):
            pass
        self.kill()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            with self._lock:
                answered = self._waiting.pop(answer.pop("id"))
            answered.set_result(answer)
        with self._lock:
            self._gone = True
            unanswered, self._waiting = list(self._waiting.values()), {}
        for answered in unanswered:
            answered.set_exception(WorkerGone(f"{self.name} has ended before it answered"))

    def _release(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # a request was still in the buffer when the process went
                    pass
