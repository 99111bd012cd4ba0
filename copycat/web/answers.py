"""From a request to what it is answered with: the page, its parts, and the data, in the form that docs/web.md describes.

Order matters, and is the same for all: is the host's name ours; is it a part of the page, which is no secret; does
the one who asks know the token; what is asked for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl

from copycat.endpoint import Headers, Page, Request
from copycat.errors import CopyCatError, UsageError
from copycat.web.access import Guard
from copycat.web.history import History
from copycat.web.looks import (
    PAGE_MAX,
    SEARCH_CHARACTERS_MAX,
    Kept,
    Looked,
    all_groups,
    nodes_of,
    page_of_groups,
    page_of_members,
)

FORMAT = 1
OFFSET_MAX = 10_000_000
FIELDS_MAX = 10
HTML, JSON = "text/html; charset=utf-8", "application/json; charset=utf-8"
PARTS = {
    "/view.css": "text/css; charset=utf-8",
    "/view.js": "text/javascript; charset=utf-8",
    "/plots.js": "text/javascript; charset=utf-8",
    "/icon.svg": "image/svg+xml",
}
SAFE: Headers = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
    ("Cache-Control", "no-store"),
)
"""With every answer, also with those that refuse."""


class Answers:
    """Callable by any number of threads at once."""

    def __init__(self, node: Looked, guard: Guard, history: History, timeout: float) -> None:
        self._node = node
        self._guard = guard
        self._history = history
        self._timeout = timeout
        self.cookie_name = "copycat-view"
        static = files("copycat.web").joinpath("static")
        self._parts = {path: Page(static.joinpath(path[1:]).read_bytes(), kind) for path, kind in PARTS.items()}
        self._index = static.joinpath("index.html").read_bytes()
        self._login = static.joinpath("login.html").read_bytes()
        self._status: Kept[Any] = Kept(lambda: node.look("status", timeout=timeout))
        self._members: Kept[Any] = Kept(lambda: node.look("members", timeout=timeout))
        self._groups: Kept[Any] = Kept(lambda: all_groups(node, timeout))
        self._health: Kept[Any] = Kept(lambda: node.health(timeout))
        self._data: dict[str, Callable[[Query], dict[str, Any]]] = {
            "/api/v1/status": self._get_status,
            "/api/v1/members": self._get_members,
            "/api/v1/groups": self._get_groups,
            "/api/v1/history": self._get_history,
            "/api/v1/events": self._get_events,
        }

    def __call__(self, request: Request) -> Page:
        if not self._guard.is_own_name(request.headers.get("Host")):
            return Page(b"this view is not called that; see hosts in docs/web.md\n", status=421)
        part = self._parts.get(request.path)
        if part is not None:
            return part
        is_page = request.path == "/"
        if is_page and request.query:
            return self._show_token(request.query)
        headers = request.headers
        if not self._guard.lets_in(headers.get("Authorization"), headers.get("Cookie"), self.cookie_name):
            return self._ask_for_token(is_page)
        if is_page:
            return Page(self._index, HTML)
        return self._answer_data(request)

    def _ask_for_token(self, is_page: bool, status: int = 401) -> Page:
        asked: Headers = (("WWW-Authenticate", 'Bearer realm="CopyCat"'),)
        if is_page:
            return Page(self._login, HTML, status, asked)
        return problem(status, "Unauthorized", "a token is needed: Authorization: Bearer TOKEN", asked)

    def _show_token(self, query: str) -> Page:
        """The token in the address, once: it is taken from there, and becomes a cookie."""
        try:
            arguments = Query(query)
            token = arguments.text("token", 512)
            arguments.check_all_known()
        except UsageError:
            token = ""
        if not self._guard.knows(token):
            return self._ask_for_token(is_page=True, status=403)
        cookie = f"{self.cookie_name}={self._guard.cookie_value}; Path=/; HttpOnly; SameSite=Strict"
        return Page(b"", status=303, headers=(("Location", "/"), ("Set-Cookie", cookie)))

    # --- data ---

    def _answer_data(self, request: Request) -> Page:
        make = self._data.get(request.path)
        if make is None:
            return problem(404, "NotFound", f"there are {', '.join(self._data)}")
        try:
            query = Query(request.query)
            form = make(query)
        except UsageError as error:
            return problem(400, type(error).__name__, str(error))
        except (CopyCatError, TimeoutError) as error:
            return problem(503, type(error).__name__, str(error))
        return Page(_json({"format": FORMAT, **form}), JSON)

    def _get_status(self, query: Query) -> dict[str, Any]:
        query.check_all_known()
        health = self._health.get()
        return {"healthy": health.healthy, "reasons": list(health.reasons), "status": self._status.get()}

    def _get_members(self, query: Query) -> dict[str, Any]:
        search, offset, limit = query.page()
        query.check_all_known()
        return page_of_members(self._members.get(), search, offset, limit)

    def _get_groups(self, query: Query) -> dict[str, Any]:
        search, offset, limit = query.page()
        show, sort = query.text("show") or "all", query.text("sort") or "trouble"
        query.check_all_known()
        page = page_of_groups(self._groups.get(), search, show, sort, offset, limit)
        return {**page, "nodes": nodes_of(page["groups"], self._members.get())}

    def _get_history(self, query: Query) -> dict[str, Any]:
        after = query.number("after", 0)
        query.check_all_known()
        now = time.monotonic()
        points = [
            {
                "number": point.number,
                "age_s": round(now - point.at, 3),
                "rates": {name: round(rate, 3) for name, rate in point.rates.items()},
                "latencies": {name: {"p50": low, "p99": high} for name, (low, high) in point.latencies.items()},
            }
            for point in self._history.since(after)
        ]
        return {"points": points}

    def _get_events(self, query: Query) -> dict[str, Any]:
        after = query.number("after", 0)
        query.check_all_known()
        found: dict[str, Any] = self._node.look("events", timeout=self._timeout, after=after)
        return found


class Query:
    """What follows the question mark: each field is taken once. Raises :class:`~copycat.errors.UsageError`."""

    def __init__(self, text: str) -> None:
        try:
            pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), max_num_fields=FIELDS_MAX)
        except ValueError as error:
            raise UsageError(f"the query can't be understood: {error}") from None
        self._values = dict(pairs)
        if len(self._values) != len(pairs):
            raise UsageError("a field is there twice")

    def text(self, name: str, characters_max: int = SEARCH_CHARACTERS_MAX) -> str:
        value = self._values.pop(name, "")
        if len(value) > characters_max:
            raise UsageError(f"{name} has more than {characters_max} characters")
        return value

    def number(self, name: str, default: int) -> int:
        value = self._values.pop(name, str(default))
        if not (value.isascii() and value.isdigit() and len(value) <= 18):
            raise UsageError(f"{name} must be a whole number, 0 or more")
        return int(value)

    def page(self) -> tuple[str, int, int]:
        """``search``, ``offset`` and ``limit``."""
        search, offset, limit = self.text("search"), self.number("offset", 0), self.number("limit", 50)
        if not 1 <= limit <= PAGE_MAX or offset > OFFSET_MAX:
            raise UsageError(f"limit must be 1 to {PAGE_MAX}, and offset at most {OFFSET_MAX}")
        return search, offset, limit

    def check_all_known(self) -> None:
        if self._values:
            raise UsageError("there are fields that are not known here")


def problem(status: int, error: str, message: str, headers: Headers = ()) -> Page:
    """Data that says what is wrong."""
    return Page(_json({"format": FORMAT, "error": error, "message": message}), JSON, status, headers)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode() + b"\n"
