"""Commands about the connection and the server: nothing of them goes through the log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from copycat.examples.redis_server.commands import COMMANDS, Command, integer, pattern, words, wrong_count
from copycat.examples.redis_server.replies import OK, SYNTAX, CommandError, Pairs

if TYPE_CHECKING:
    from copycat.examples.redis_server.session import Session

VERSION = "7.0.15"
"""The Redis whose answers these are."""
IMMEDIATE = frozenset(["EXEC", "DISCARD", "MULTI", "WATCH", "QUIT", "RESET"])
"""Not put into a transaction."""

OWN: dict[str, Command] = {}
_Body = Callable[..., Any]


def _own(name: str, least: int, most: int | None = None) -> Callable[[_Body], _Body]:
    def register(body: _Body) -> _Body:
        limit = least if most is None else None if most < 0 else most
        OWN[name] = Command(name, body, least, limit, writes=False)
        return body

    return register


@_own("PING", 0, 1)
def ping(session: Session, *message: bytes) -> Any:
    return message[0] if message else "PONG"


@_own("ECHO", 1)
def echo(session: Session, message: bytes) -> bytes:
    return message


@_own("QUIT", 0, -1)
def leave(session: Session, *_: bytes) -> str:
    session.end()
    return OK


@_own("RESET", 0)
def reset(session: Session) -> str:
    session.reset()
    return "RESET"


@_own("SELECT", 1)
def select(session: Session, index: bytes) -> str:
    if integer(index) != 0:
        raise CommandError("ERR DB index is out of range")
    return OK


@_own("AUTH", 1, 2)
def authenticate(session: Session, *_: bytes) -> str:
    raise CommandError(
        "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is "
        "correct?"
    )


@_own("HELLO", 0, -1)
def hello(session: Session, *arguments: bytes) -> Pairs:
    protocol = session.protocol
    left = list(arguments)
    if left:
        protocol = integer(left.pop(0), "ERR Protocol version is not an integer or out of range")
        if protocol not in (2, 3):
            raise CommandError("NOPROTO unsupported protocol version")
    name: bytes | None = None
    while left:
        option = left.pop(0)
        word = option.upper()
        if word == b"SETNAME" and left:
            name = _checked_name(left.pop(0))
        elif word == b"AUTH" and len(left) >= 2:
            authenticate(session)
        else:
            raise CommandError(f"ERR Syntax error in HELLO option '{option.decode('latin-1')}'")
    session.protocol = protocol
    session.name = session.name if name is None else name
    flat: list[Any] = [b"server", b"redis", b"version", VERSION.encode(), b"proto", protocol]
    return Pairs([*flat, b"id", session.number, b"mode", b"standalone", b"role", b"master", b"modules", []])


def _checked_name(name: bytes) -> bytes:
    if any(not 33 <= each <= 126 for each in name):
        raise CommandError("ERR Client names cannot contain spaces, newlines or special characters.")
    return name


# --- transactions; EXEC is the session's own ---


@_own("MULTI", 0)
def multi(session: Session) -> str:
    return session.begin_transaction()


@_own("EXEC", 0)
def execute(session: Session) -> str:
    raise AssertionError("the session does it itself")


@_own("DISCARD", 0)
def discard(session: Session) -> str:
    return session.discard()


@_own("WATCH", 1, -1)
def watch(session: Session, *keys: bytes) -> str:
    return session.watch(keys)


@_own("UNWATCH", 0)
def unwatch(session: Session) -> str:
    return session.unwatch()


@_own("WAIT", 2)
def wait(session: Session, replicas: bytes, timeout: bytes) -> int:
    """Every write was on a majority before it was answered; so many of those are not this node."""
    integer(replicas)
    if integer(timeout, "ERR timeout is not an integer or out of range") < 0:
        raise CommandError("ERR timeout is negative")
    return session.server.voters() // 2


# --- what it is ---


@_own("TIME", 0)
def tell_time(session: Session) -> list[bytes]:
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    return [b"%d" % seconds, b"%d" % (rest // 1000)]


@_own("INFO", 0, -1)
def info(session: Session, *sections: bytes) -> bytes:
    wanted = {each.lower() for each in words(sections)} - {"default", "all", "everything"}
    parts = []
    for title, fields in session.server.info().items():
        if not wanted or title.lower() in wanted:
            parts.append(f"# {title}\r\n" + "".join([f"{name}:{value}\r\n" for name, value in fields.items()]))
    return "\r\n".join(parts).encode()


def _subcommand(group: str, given: bytes, table: dict[str, tuple[int, int | None, _Body]], count: int) -> _Body:
    name = given.decode("latin-1").upper()
    if name not in table:
        raise CommandError(f"ERR unknown subcommand '{given[:128].decode('latin-1')}'. Try {group} HELP.")
    least, most, body = table[name]
    if count < least or (most is not None and count > most):
        raise wrong_count(f"{group}|{name}")
    return body


@_own("CLIENT", 1, -1)
def client(session: Session, given: bytes, *arguments: bytes) -> Any:
    return _subcommand("CLIENT", given, _CLIENT, len(arguments))(session, *arguments)


def _set_name(session: Session, name: bytes) -> str:
    session.name = _checked_name(name)
    return OK


def _kill(session: Session, *_: bytes) -> str:
    raise CommandError("ERR this server does not end connections by CLIENT KILL")


def _agree(session: Session, *_: bytes) -> str:
    return OK


_CLIENT: dict[str, tuple[int, int | None, _Body]] = {
    "ID": (0, 0, lambda session: session.number),
    "GETNAME": (0, 0, lambda session: session.name or None),
    "SETNAME": (1, 1, _set_name),
    "SETINFO": (2, 2, _agree),
    "INFO": (0, 0, lambda session: session.describe().encode() + b"\n"),
    "LIST": (0, None, lambda session, *_: session.server.clients().encode()),
    "NO-EVICT": (1, 1, _agree),
    "NO-TOUCH": (1, 1, _agree),
    "KILL": (1, None, _kill),
}


@_own("CONFIG", 1, -1)
def config(session: Session, given: bytes, *arguments: bytes) -> Any:
    return _subcommand("CONFIG", given, _CONFIG, len(arguments))(session, *arguments)


def _get_config(session: Session, *globs: bytes) -> Pairs:
    found: dict[str, str] = {}
    for glob in globs:
        matches = pattern(glob.lower()).fullmatch
        found |= {name: value for name, value in session.server.settings().items() if matches(name.encode())}
    return Pairs([each.encode() for pair in found.items() for each in pair])


def _set_config(session: Session, *pairs: bytes) -> str:
    raise CommandError("ERR the options of this server are given when it is started")


_CONFIG: dict[str, tuple[int, int | None, _Body]] = {
    "GET": (1, None, _get_config),
    "SET": (2, None, _set_config),
    "RESETSTAT": (0, 0, _agree),
}


@_own("COMMAND", 0, -1)
def tell_commands(session: Session, *arguments: bytes) -> Any:
    if not arguments:
        return [_described(name) for name in _names()]
    return _subcommand("COMMAND", arguments[0], _COMMAND, len(arguments) - 1)(session, *arguments[1:])


def _names() -> list[str]:
    return sorted({*COMMANDS, *OWN})


def _described(name: str) -> list[Any] | None:
    """Name, arity, flags; keys are not told."""
    known = COMMANDS.get(name) or OWN.get(name)
    if known is None:
        return None
    arity = known.least + 1 if known.most == known.least else -known.least - 1
    flags = ["write" if known.writes else "readonly"] if name in COMMANDS else ["fast"]
    return [name.lower().encode(), arity, list(flags), 0, 0, 0, [], [], [], []]


def _list_commands(session: Session, *options: bytes) -> list[bytes]:
    if options:
        raise CommandError(SYNTAX)
    return [name.lower().encode() for name in _names()]


_COMMAND: dict[str, tuple[int, int | None, _Body]] = {
    "COUNT": (0, 0, lambda session: len(_names())),
    "LIST": (0, None, _list_commands),
    "INFO": (0, None, lambda session, *names: [_described(each) for each in words(names) or _names()]),
    "DOCS": (0, None, lambda session, *_: Pairs([])),
}
