"""Runs coroutines on each kind of event loop, in debug mode, and looks at what they leave behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs a coroutine to its end; then no task and no thread may be left that was not there before."""
    if request.param == "uvloop":  # noqa: SIM108
        new_loop = pytest.importorskip("uvloop").new_event_loop
    else:
        new_loop = asyncio.new_event_loop
    loop = new_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 5.0
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))

    def go(coroutine: Coroutine[Any, Any, Any]) -> Any:
        before = set(threading.enumerate())
        result = loop.run_until_complete(asyncio.wait_for(coroutine, 60.0))
        assert asyncio.all_tasks(loop) == set()
        assert [thread.name for thread in threading.enumerate() if thread not in before] == []
        return result

    yield go
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    assert complaints == []


@pytest.fixture
def make_memory_config(make_config: Callable[..., Any]) -> Callable[..., Any]:
    """Configurations of nodes without sockets and disks."""
    return lambda **fields: make_config(**{"transport": "memory", "storage": "memory", **fields})
