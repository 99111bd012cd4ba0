"""What a view answers over HTTP: to whom, with which headers, within which bounds."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from copycat import endpoint, web
from copycat.errors import AddressInUse, Closed, KeyFileInvalid, UsageError
from copycat.testing.nodes import PATIENCE_S, ListCopy, NodeCluster, wait_until
from copycat.web.answers import SAFE

PATHS = ("status", "members", "groups", "history", "events")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeCluster]:
    with NodeCluster(tmp_path_factory.mktemp("nodes"), "memory", "memory") as made:
        for center in ("ams", "fra", "fra"):
            made.node(data_center=center, rack="r1")
        made.start(0)
        made.group(made.nodes[0])
        yield made


@pytest.fixture(scope="module")
def view(cluster: NodeCluster) -> Iterator[web.View]:
    with web.serve(cluster.nodes[0], 0) as made:
        yield made


class Reply:
    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self.body = answer.read()

    def json(self) -> Any:
        return json.loads(self.body)


def get(view: web.View, path: str, method: str = "GET", **headers: str) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", view.port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, headers=headers)
        return Reply(connection.getresponse())
    finally:
        connection.close()


def ask(view: web.View, path: str) -> Any:
    reply = get(view, f"/api/v1/{path}", Authorization=f"Bearer {view.token}")
    assert reply.status == 200, reply.body
    assert reply.json()["format"] == 1
    return reply.json()


def exchange(view: web.View, sent: bytes) -> bytes:
    """Send just this, and read to the end."""
    with socket.create_connection(("127.0.0.1", view.port), timeout=PATIENCE_S) as raw:
        raw.sendall(sent)
        got = b""
        try:
            while piece := raw.recv(65_536):
                got += piece
        except ConnectionResetError:
            pass  # what was not read of the request any more
        return got


# --- who is let in ---


@pytest.mark.parametrize("path", ["/", "/api/v1/status", "/api/v1/groups", "/api/v1/nonsense", "/nonsense"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic TOKEN"},
        {"Cookie": "copycat-view-PORT=wrong"},
        {"Cookie": "copycat-view-PORT=TOKEN"},
        {"Cookie": ";;;=\x7f"},
        {"Authorization": "Bearer \udcff\udcfe".encode("utf-8", "surrogateescape").decode("latin-1")},
    ],
)
def test_without_the_token_nothing_is_shown(view: web.View, path: str, headers: dict[str, str]) -> None:
    told = {name: text.replace("PORT", str(view.port)).replace("TOKEN", view.token) for name, text in headers.items()}
    reply = get(view, path, **told)
    assert reply.status == 401
    assert reply.headers["WWW-Authenticate"].startswith("Bearer")
    assert b"node_id" not in reply.body
    assert view.token.encode() not in reply.body


def test_a_browser_shows_the_token_once_and_gets_a_cookie_that_no_script_and_no_other_site_can_use(
    view: web.View,
) -> None:
    reply = get(view, f"/?token={view.token}")
    assert (reply.status, reply.headers["Location"], reply.body) == (303, "/", b"")
    cookie, *attributes = reply.headers["Set-Cookie"].split("; ")
    assert set(attributes) == {"Path=/", "HttpOnly", "SameSite=Strict"}
    assert view.token not in cookie
    assert get(view, "/", Cookie=cookie).status == 200
    assert get(view, "/api/v1/status", Cookie=f"other=1; {cookie}").status == 200
    assert get(view, "/api/v1/status", Cookie=cookie + "0").status == 401


@pytest.mark.parametrize("query", ["token=", "token=wrong", "token", "nonsense=1", "token=%FF%FE", "a=1&b=2", "&&"])
def test_a_wrong_token_in_the_address_is_refused(view: web.View, query: str) -> None:
    reply = get(view, f"/?{query}")
    assert reply.status == 403
    assert "Set-Cookie" not in reply.headers


def test_a_cookie_of_another_view_is_not_enough(cluster: NodeCluster, view: web.View) -> None:
    with web.serve(cluster.nodes[1], 0) as other:
        assert other.token != view.token
        cookie = get(other, f"/?token={other.token}").headers["Set-Cookie"].partition(";")[0]
        value = cookie.partition("=")[2]
        assert get(view, "/", Cookie=f"copycat-view-{view.port}={value}").status == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:8458", 200),
        ("127.8.9.1", 200),
        ("[::1]:8458", 200),
        ("db1.example.com", 200),
        ("evil.example.com:8458", 421),
        ("127.0.0.1.evil.example.com", 421),
        ("10.0.0.1", 421),
        ("localhost:1@evil", 421),
        ("", 421),
    ],
)
def test_only_its_own_names_are_answered(cluster: NodeCluster, host: str, status: int) -> None:
    with web.serve(cluster.nodes[0], 0, names=["db1.example.com"]) as view:
        for path in ("/", "/view.js", "/api/v1/status"):
            reply = get(view, path, Host=host, Authorization=f"Bearer {view.token}")
            assert reply.status == status, path


def test_a_request_without_host_is_refused(view: web.View) -> None:
    assert b" 421 " in exchange(view, b"GET / HTTP/1.0\r\n\r\n").partition(b"\r\n")[0]


# --- with which headers ---


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/view.css", 200),
        ("GET", "/view.js", 200),
        ("GET", "/plots.js", 200),
        ("GET", "/icon.svg", 200),
        ("GET", "/api/v1/status", 200),
        ("GET", "/api/v1/status?nonsense=1", 400),
        ("GET", "/nonsense", 404),
        ("GET", "/static/../../../etc/passwd", 404),
        ("GET", "/view.js/", 404),
        ("POST", "/", 405),
        ("POST", "/api/v1/status", 405),
        ("PUT", "/api/v1/groups", 405),
        ("DELETE", "/api/v1/groups", 405),
        ("OPTIONS", "/", 405),
        ("NONSENSE", "/", 501),
        ("HEAD", "/", 200),
    ],
)
def test_every_answer_has_the_headers_that_keep_a_browser_safe(
    view: web.View, method: str, path: str, status: int
) -> None:
    reply = get(view, path, method, Authorization=f"Bearer {view.token}")
    assert reply.status == status
    for name, value in SAFE:
        assert reply.headers.get_all(name) == [value], name
    assert reply.headers["Content-Type"]
    assert "Python" not in str(reply.headers)
    if status == 405:
        assert reply.headers["Allow"] == "GET, HEAD"
    if method == "HEAD":
        assert reply.body == b""
        assert int(reply.headers["Content-Length"]) > 0


def test_what_browsers_are_told_forbids_all_that_the_page_does_not_need() -> None:
    safe = dict(SAFE)
    policy = dict(part.strip().partition(" ")[::2] for part in safe["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert set(policy.values()) == {"'none'", "'self'"}  # no inline script or style, nobody else's
    assert safe["X-Content-Type-Options"] == "nosniff"
    assert safe["Cache-Control"] == "no-store"
    assert safe["Referrer-Policy"] == "no-referrer"


def test_the_page_loads_nothing_from_elsewhere_and_has_no_script_within() -> None:
    static = Path(web.__file__).parent / "static"
    for path in static.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text, path.name
        assert "https:" not in text, path.name
        assert "innerHTML" not in text, path.name
        assert "style=" not in text, path.name
        assert " on" + "click=" not in text, path.name


# --- what is told ---


def test_members_and_groups_are_told(cluster: NodeCluster, view: web.View) -> None:
    wait_until(lambda: ask(view, "groups")["total"] == 1, "the group is shown")
    (group,) = ask(view, "groups")["groups"]
    assert {peer["node_id"] for peer in group["voters"]} == {node.node_id for node in cluster.nodes}
    nodes = ask(view, "groups")["nodes"]
    assert {name: known["address"] for name, known in nodes.items()} == {
        node.node_id: node.address for node in cluster.nodes
    }
    assert {known["state"] for known in nodes.values()} == {"alive"}
    members = ask(view, "members")
    assert [one["data_center"] for one in members["members"]] == ["ams", "fra", "fra"]
    assert (members["matched"], members["total"]) == (3, 3)
    status = ask(view, "status")
    assert (status["healthy"], status["reasons"]) == (True, [])
    assert status["status"]["node_id"] == cluster.nodes[0].node_id


def test_members_and_groups_are_searched_sorted_and_cut(cluster: NodeCluster, view: web.View) -> None:
    found = ask(view, "members?search=FR&limit=1&offset=1")
    assert (len(found["members"]), found["matched"], found["total"]) == (1, 2, 3)
    wait_until(lambda: ask(view, "groups")["total"] == 1, "the group is shown")
    group = ask(view, "groups")["groups"][0]["id"]
    assert ask(view, f"groups?search={group[-8:].lower()}")["matched"] == 1
    assert ask(view, f"groups?search={cluster.nodes[1].node_id}")["matched"] == 1
    assert ask(view, "groups?search=nothing-like-it")["matched"] == 0
    assert ask(view, "groups?show=troubled")["groups"] == []


@pytest.mark.parametrize(
    "query",
    [
        *(
            "limit=0",
            "limit=201",
            "limit=-1",
            "limit=x",
            "limit",
            "limit=%00",
            "limit=" + "1" * 40,
            "offset=99999999999",
        ),
        *("sort=nonsense", "show=nonsense", "search=a&search=b", "search=" + "a" * 101, "nonsense=1"),
        "&".join(f"f{number}=1" for number in range(11)),
    ],
)
def test_a_query_that_makes_no_sense_is_refused_and_not_repeated(view: web.View, query: str) -> None:
    reply = get(view, f"/api/v1/groups?{query}", Authorization=f"Bearer {view.token}")
    assert reply.status == 400
    assert set(reply.json()) == {"format", "error", "message"}
    assert b"nonsense" not in reply.body


def test_events_tell_of_members_and_leaders(cluster: NodeCluster, view: web.View) -> None:
    def kinds() -> set[tuple[str, str | None]]:
        return {(event["kind"], event["group"]) for event in ask(view, "events")["events"]}

    group = ask(view, "groups")["groups"][0]["id"]
    wait_until(lambda: ("joined", None) in kinds() and ("leader", group) in kinds(), "both are told")
    events = ask(view, "events")
    numbers = [event["number"] for event in events["events"]]
    assert numbers == sorted(numbers)
    assert events["last"] == numbers[-1]
    assert ask(view, f"events?after={events['last']}")["events"] == []
    for event in events["events"]:
        assert event["node_id"] is None or event["node_id"] in {node.node_id for node in cluster.nodes}


def test_history_tells_what_was_committed(cluster: NodeCluster, view: web.View) -> None:
    (group,) = cluster.nodes[0].groups()
    copy = ListCopy(cluster.nodes[0], group)

    def told() -> bool:
        points = ask(view, "history")["points"]
        return any(point["rates"].get("commits") and "commit" in point["latencies"] for point in points)

    copy.sub.propose.send_many([b"x"] * 50)
    copy.sub.flush(PATIENCE_S)
    wait_until(told, "the commits are in the history")
    last = ask(view, "history")["points"][-1]["number"]
    assert all(point["number"] > last for point in ask(view, f"history?after={last}")["points"])
    copy.sub.close()


def test_a_node_that_has_ended_is_reported(tmp_path: Path) -> None:
    with NodeCluster(tmp_path, "memory", "memory") as cluster:
        node = cluster.node()
        with web.serve(node, 0) as view:
            node.shutdown()
            reply = get(view, "/api/v1/members", Authorization=f"Bearer {view.token}")
            assert (reply.status, reply.json()["error"]) == (503, "Closed")
            assert get(view, "/", Authorization=f"Bearer {view.token}").status == 200


def test_only_what_changes_nothing_can_be_looked_at(cluster: NodeCluster) -> None:
    node = cluster.nodes[0]
    for name in ("forget", "leave", "recover", "transfer_leader", "replicas", "gossip_keys", "nonsense"):
        with pytest.raises(UsageError, match="what can be looked at"):
            node.look(name)
    assert node.look("status")["node_id"] == node.node_id


# --- within which bounds ---


def test_a_head_that_is_too_long_is_refused(view: web.View) -> None:
    long_line = b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert b" 414 " in exchange(view, long_line).partition(b"\r\n")[0]
    long_head = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: " + b"a" * 20_000 + b"\r\n\r\n"
    assert b" 431 " in exchange(view, long_head).partition(b"\r\n")[0]
    many = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"H%d: 1\r\n" % n for n in range(500)) + b"\r\n"
    assert b" 431 " in exchange(view, many).partition(b"\r\n")[0]


@pytest.mark.parametrize(
    "sent", [b"\r\n\r\n", b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x00\xa5\x01\x00\r\n"]
)
def test_what_is_no_request_gets_an_error_that_repeats_nothing_of_it(view: web.View, sent: bytes) -> None:
    answer = exchange(view, sent)
    assert answer == b"" or b"Content-Security-Policy: default-src 'none'" in answer
    assert b"nonsense" not in answer


def test_connections_are_bounded_and_places_come_back(view: web.View, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = [socket.create_connection(("127.0.0.1", view.port), PATIENCE_S) for _ in range(endpoint.CONNECTIONS_MAX)]
    try:
        for one in waiting:
            one.sendall(b"GET / HTTP/1.1\r\n")  # and never goes on
        wait_until(lambda: exchange_or_none(view) is None, "no place is left")
        monkeypatch.setattr(endpoint, "CONNECTION_S_MAX", 0.0)
        wait_until(lambda: exchange_or_none(view) is not None, "those that dawdle have lost their places")
    finally:
        for one in waiting:
            one.close()


def exchange_or_none(view: web.View) -> bytes | None:
    """The page's style, or None if the connection was closed without a word."""
    try:
        return exchange(view, b"GET /view.css HTTP/1.1\r\nHost: localhost\r\n\r\n") or None
    except OSError:
        return None


# --- starting and ending ---


def test_the_token_is_in_a_file_for_its_owner_alone_and_stays_the_same(tmp_path: Path, disk_storage_name: str) -> None:
    with NodeCluster(tmp_path, "memory", disk_storage_name) as cluster:
        node = cluster.node()
        with web.serve(node, 0) as view:
            assert view.token_file is not None
            assert view.token_file.parent == Path(node.config.data_dir)
            assert stat.S_IMODE(view.token_file.stat().st_mode) == 0o600
            assert view.token_file.read_text().strip() == view.token
            assert len(view.token) >= 40
            first = view.token
        with web.serve(node, 0) as view:
            assert view.token == first


@pytest.mark.parametrize(
    ("content", "mode"), [("a" * 40, 0o644), ("short", 0o600), ("", 0o600), ("two words " * 4, 0o600)]
)
def test_a_token_file_that_others_can_read_or_that_holds_none_is_refused(
    cluster: NodeCluster, tmp_path: Path, content: str, mode: int
) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(KeyFileInvalid):
        web.serve(cluster.nodes[0], 0, token_file=path)


def test_what_other_machines_could_reach_has_to_be_asked_for(
    cluster: NodeCluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for host in ("0.0.0.0", "", "::", "192.0.2.1"):
        with pytest.raises(UsageError, match="beyond_loopback"):
            web.serve(cluster.nodes[0], 0, host)
    monkeypatch.setattr("copycat.web.view.is_loopback", lambda host: False)  # tests listen on loopback alone
    caplog.set_level(logging.WARNING, logger="copycat")
    with web.serve(cluster.nodes[0], 0, beyond_loopback=True) as view:
        assert get(view, "/api/v1/status", Authorization=f"Bearer {view.token}").status == 200
    assert "is not encrypted" in caplog.text


def test_nothing_logs_or_shows_the_token(cluster: NodeCluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with web.serve(cluster.nodes[0], 0) as view:
        get(view, f"/?token={view.token}")
        get(view, "/api/v1/status", Authorization=f"Bearer {view.token}")
        assert view.token not in repr(view)
        assert view.token not in view.url
        assert view.token not in caplog.text


def test_a_port_that_is_taken_is_named(cluster: NodeCluster, view: web.View) -> None:
    with pytest.raises(AddressInUse, match=str(view.port)):
        web.serve(cluster.nodes[0], view.port)


def test_it_ends_without_leaving_a_thread(cluster: NodeCluster) -> None:
    def threads() -> set[threading.Thread]:
        return {one for one in threading.enumerate() if one.name.startswith("copycat-view")}

    before = threads()
    view = web.serve(cluster.nodes[0], 0)
    assert threads() - before
    view.close()
    view.close()
    assert threads() == before


def test_a_silent_node_is_waited_for_once_for_all(cluster: NodeCluster) -> None:
    from copycat.web.looks import Kept

    asked = []

    def fail() -> int:
        asked.append(1)
        raise Closed("the node has been shut down")

    kept: Kept[int] = Kept(fail)
    for _ in range(5):
        with pytest.raises(Closed):
            kept.get()
    assert len(asked) == 1
