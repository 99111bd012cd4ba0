"""Names are looked up without making anyone wait."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import pytest

from copycat.transports import resolver as module
from copycat.transports.resolver import Resolver

DEADLINE_S = 20.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def never(host: str, family: int) -> str | None:
    raise AssertionError(f"{host} was looked up")


@pytest.mark.parametrize(
    ("family", "host", "numeric"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "127.0.0.1", "::ffff:127.0.0.1"),
    ],
)
def test_a_number_is_its_own_answer(
    monkeypatch: pytest.MonkeyPatch, family: socket.AddressFamily, host: str, numeric: str
) -> None:
    monkeypatch.setattr(module, "resolve", never)
    assert Resolver(family, lambda: None).lookup(host) == numeric


def test_a_name_is_answered_later_and_the_answer_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, announced = threading.Event(), threading.Event()

    def slow(host: str, family: int) -> str | None:
        assert go_on.wait(DEADLINE_S)
        return "192.0.2.7"

    monkeypatch.setattr(module, "resolve", slow)
    resolver = Resolver(socket.AF_INET, announced.set)
    assert resolver.lookup("peer") is None
    assert resolver.lookup("peer") is None
    go_on.set()
    assert announced.wait(DEADLINE_S)
    assert resolver.lookup("peer") == "192.0.2.7"


def test_a_changed_name_is_followed_and_an_outage_keeps_the_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[str | None] = ["192.0.2.1", "192.0.2.2", None]
    asked: list[str] = []

    def scripted(host: str, family: int) -> str | None:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    monkeypatch.setattr(module, "resolve", scripted)
    monkeypatch.setattr(module, "ANSWER_S", 0.0)
    monkeypatch.setattr(module, "FAILURE_S", 0.0)
    resolver = Resolver(socket.AF_INET, lambda: None)
    until(lambda: resolver.lookup("peer") == "192.0.2.1" or len(asked) > 1)
    until(lambda: resolver.lookup("peer") == "192.0.2.2")
    until(lambda: resolver.lookup("peer") is not None and len(asked) > 4)
    assert resolver.lookup("peer") == "192.0.2.2"


def test_names_that_do_not_exist_are_none_and_asked_for_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def nobody(host: str, family: int) -> str | None:
        asked.append(host)
        return None

    monkeypatch.setattr(module, "resolve", nobody)
    resolver = Resolver(socket.AF_INET, lambda: None)
    until(lambda: resolver.lookup("nobody") is None and bool(asked) and "nobody" in resolver._answers)
    for _ in range(100):
        assert resolver.lookup("nobody") is None
    assert asked == ["nobody"]


def test_a_closed_resolver_announces_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asking, go_on = threading.Event(), threading.Event()
    announced: list[bool] = []

    def slow(host: str, family: int) -> str | None:
        asking.set()
        assert go_on.wait(DEADLINE_S)
        return "192.0.2.7"

    monkeypatch.setattr(module, "resolve", slow)
    resolver = Resolver(socket.AF_INET, lambda: announced.append(True))
    resolver.lookup("peer")
    assert asking.wait(DEADLINE_S)
    resolver.close()
    go_on.set()
    until(lambda: not resolver._running)
    assert not announced
    assert resolver.lookup("other") is None
    assert not resolver._running


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 300, "bad\0name", "..", "\udcff"])
def test_a_host_that_makes_no_sense_is_nobody(host: str) -> None:
    assert module.resolve(host, socket.AF_INET) is None
