"""The same commands to this server and to Redis: the same answers, errors in the same words, in both versions of the protocol."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.examples.redis_server.conftest import Client

UNORDERED = {"SMEMBERS", "SINTER", "SUNION", "SDIFF", "HKEYS", "HVALS", "KEYS", "SPOP", "SRANDMEMBER"}

SCRIPTS: dict[str, list[tuple[str, ...]]] = {}
for _line in (Path(__file__).parent / "scripts.txt").read_text().splitlines():
    if _line.startswith("["):
        _script = SCRIPTS[_line.strip("[]")] = []
    elif _line:
        _script.append(tuple(shlex.split(_line)))


def comparable(command: tuple[Any, ...], answer: Any) -> Any:
    """Without the order where there is none."""
    name = str(command[0]).upper()
    if isinstance(answer, tuple):
        return answer[0], comparable(command, answer[1])
    if name in UNORDERED and isinstance(answer, list):
        return sorted(answer)
    if name == "HSCAN" and isinstance(answer, list):
        return answer[0], sorted(zip(answer[1][::2], answer[1][1::2], strict=True))
    if name in ("SSCAN", "SCAN") and isinstance(answer, list):
        return answer[0], sorted(answer[1])
    if name in ("HGETALL", "CONFIG") and isinstance(answer, list):
        return sorted(zip(answer[::2], answer[1::2], strict=True))
    return answer


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_has_the_same_answers(both: tuple[Client, Client], name: str, protocol: int) -> None:
    for client in both:
        client.ask("HELLO", protocol)
    differences = []
    for command in SCRIPTS[name]:
        ours, theirs = (comparable(command, client.ask(*command)) for client in both)
        if ours != theirs:
            differences.append(f"{' '.join(command)}: {ours!r}, and Redis says {theirs!r}")
    assert not differences, "\n".join(differences)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_pipeline_is_answered_in_its_order(both: tuple[Client, Client], name: str) -> None:
    commands: list[tuple[str, ...]] = SCRIPTS[name]
    ours, theirs = (client.ask_all(commands) for client in both)
    for command, mine, real in zip(commands, ours, theirs, strict=True):
        assert comparable(command, mine) == comparable(command, real), command


# --- whatever comes into one's mind ---

KEY = st.sampled_from(["a", "b", "c"])
VALUE = st.sampled_from(["", "0", "1", "-1", "7", "x", "yy", "3.5", "9223372036854775807", "a b"])
INDEX = st.integers(-4, 4).map(str)
COMMAND = st.one_of(
    st.tuples(
        st.sampled_from(["GET", "INCR", "DECR", "STRLEN", "GETDEL", "TYPE", "TTL", "PERSIST", "DEL", "EXISTS"]), KEY
    ),
    st.tuples(st.sampled_from(["LPOP", "RPOP", "LLEN", "SCARD", "SMEMBERS", "HLEN", "HGETALL", "HKEYS", "HVALS"]), KEY),
    st.tuples(st.sampled_from(["SET", "SETNX", "APPEND", "GETSET", "INCRBY", "DECRBY", "INCRBYFLOAT"]), KEY, VALUE),
    st.tuples(
        st.sampled_from(["LPUSH", "RPUSH", "LPUSHX", "RPUSHX", "SADD", "SREM", "SISMEMBER", "HDEL", "HGET"]), KEY, VALUE
    ),
    st.tuples(st.sampled_from(["RENAME", "RENAMENX", "SINTER", "SUNION", "SDIFF", "RPOPLPUSH"]), KEY, KEY),
    st.tuples(st.sampled_from(["SINTERSTORE", "SUNIONSTORE", "SDIFFSTORE"]), KEY, KEY, KEY),
    st.tuples(st.sampled_from(["HSET", "HSETNX", "HINCRBY", "HINCRBYFLOAT"]), KEY, VALUE, VALUE),
    st.tuples(st.sampled_from(["LRANGE", "LTRIM", "GETRANGE"]), KEY, INDEX, INDEX),
    st.tuples(st.sampled_from(["LINDEX", "SETEX", "LREM", "SETRANGE", "LSET"]), KEY, INDEX, VALUE),
    st.tuples(st.just("EXPIRE"), KEY, st.sampled_from(["100", "0", "-1", "x"])),
    st.tuples(st.just("SMOVE"), KEY, KEY, VALUE),
    st.tuples(st.just("LMOVE"), KEY, KEY, st.sampled_from(["LEFT", "RIGHT"]), st.sampled_from(["LEFT", "RIGHT"])),
    st.tuples(st.just("MSET"), KEY, VALUE, KEY, VALUE),
    st.sampled_from([("MULTI",), ("EXEC",), ("DISCARD",), ("DBSIZE",), ("UNWATCH",)]),
    st.tuples(st.just("WATCH"), KEY),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(commands=st.lists(COMMAND, min_size=20, max_size=80))
def test_whatever_is_asked_has_the_same_answer(both: tuple[Client, Client], commands: list[tuple[str, ...]]) -> None:
    ours, theirs = ([*client.ask_all([("RESET",), ("FLUSHALL",), *commands])] for client in both)
    inside = False
    for command, mine, real in zip([("RESET",), ("FLUSHALL",), *commands], ours, theirs, strict=True):
        if command[0] == "EXEC" and inside:
            mine, real = (
                sorted(map(str, map(_flat, answer))) if isinstance(answer, list) else answer for answer in (mine, real)
            )
        inside = command[0] == "MULTI" or (inside and command[0] not in ("EXEC", "DISCARD"))
        assert comparable(command, mine) == comparable(command, real), command


def _flat(answer: Any) -> Any:
    return sorted(map(str, answer)) if isinstance(answer, list) else answer
