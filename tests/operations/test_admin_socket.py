"""The admin socket: what it lets in, what it does with garbage, and that nothing of it stays behind."""

from __future__ import annotations

import os
import socket
import stat
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from copycat.admin import CONNECTIONS_MAX, AdminServer
from copycat.administration import Arguments
from copycat.adminwire import ANSWER_BYTES_MAX, REQUEST_BYTES_MAX, VERSION, FrameReader, pack_frame, socket_address
from copycat.cli.asking import AdminClient, NodeNotRunning
from copycat.codec import pack
from copycat.errors import Closed, CodecError, LeftForGood, Timeout, UsageError
from copycat.node import CopyCat
from copycat.testing.nodes import PATIENCE_S, ListCopy, NodeCluster, wait_until


class Desk:
    """Answers ``echo`` at once, ``wait`` when told, and anything else with an error."""

    def __init__(self) -> None:
        self.waiting: list[Future[Any]] = []

    def handle(self, name: str, values: dict[str, Any]) -> Future[Any]:
        answer: Future[Any] = Future()
        if name == "echo":
            answer.set_result(values)
        elif name == "wait":
            self.waiting.append(answer)
        elif name == "closed":
            answer.set_exception(Closed("no more"))
        elif name == "huge":
            answer.set_result(bytes(ANSWER_BYTES_MAX))
        else:
            raise UsageError(f"no {name}")
        return answer


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def server(tmp_path: Path, desk: Desk):  # type: ignore[no-untyped-def]
    server = AdminServer(tmp_path, desk.handle)
    server.start()
    yield server
    server.close()
    assert not (tmp_path / "admin").exists()


def raw(data_dir: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(PATIENCE_S)
    with socket_address(data_dir) as address:
        sock.connect(address)
    return sock


def test_answers_and_errors_come_back_as_what_they_are(tmp_path: Path, server: AdminServer) -> None:
    with AdminClient(tmp_path) as client:
        assert client.ask("echo", what=[1, "two", None]) == {"what": [1, "two", None]}
        with pytest.raises(Closed, match="no more"):
            client.ask("closed")
        with pytest.raises(UsageError, match="no nonsense"):
            client.ask("nonsense")
        with pytest.raises(UsageError, match="too long"):
            client.ask("huge")
        assert client.ask("echo") == {}
    assert server.rejected == 0


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        (REQUEST_BYTES_MAX + 1).to_bytes(4, "big"),
        b"\x00\x00\x00\x01\xc1",
        pack_frame({"version": VERSION + 1, "do": "echo"}),
        pack_frame({"version": VERSION, "do": 7}),
        pack_frame({"version": VERSION, "do": "echo", "with": []}),
        len(pack([1])).to_bytes(4, "big") + pack([1]),
    ],
)
def test_garbage_is_counted_and_its_connection_closed(tmp_path: Path, server: AdminServer, garbage: bytes) -> None:
    with raw(tmp_path) as sock:
        sock.sendall(garbage)
        assert sock.recv(1) == b""
    assert server.rejected == 1
    with AdminClient(tmp_path) as client:
        assert client.ask("echo") == {}


def test_a_request_may_come_in_pieces_and_several_at_once(tmp_path: Path, server: AdminServer) -> None:
    frames = pack_frame({"version": VERSION, "do": "echo", "with": {"n": 1}}) * 3
    reader = FrameReader(1 << 20)
    answers = []
    with raw(tmp_path) as sock:
        for at in range(len(frames)):
            sock.sendall(frames[at : at + 1])
        while len(answers) < 3:
            reader.feed(sock.recv(1 << 16))
            while (answer := reader.take()) is not None:
                answers.append(answer["ok"])
    assert answers == [{"n": 1}] * 3


def test_who_waits_delays_nobody_else(tmp_path: Path, server: AdminServer, desk: Desk) -> None:
    got: list[Any] = []
    with AdminClient(tmp_path) as slow, AdminClient(tmp_path) as quick:
        thread = threading.Thread(target=lambda: got.append(slow.ask("wait", PATIENCE_S)))
        thread.start()
        wait_until(lambda: bool(desk.waiting), "the slow one has asked")
        assert quick.ask("echo") == {}
        desk.waiting[0].set_result("at last")
        thread.join(PATIENCE_S)
    assert got == ["at last"]


def test_no_more_than_so_many_are_let_in(tmp_path: Path, server: AdminServer) -> None:
    inside = [AdminClient(tmp_path) for _ in range(CONNECTIONS_MAX)]
    for client in inside:
        client.ask("echo")
    with AdminClient(tmp_path) as one_too_many, pytest.raises(NodeNotRunning):
        one_too_many.ask("echo")
    assert server.rejected == 1
    for client in inside:
        client.close()

    def is_let_in() -> bool:
        with AdminClient(tmp_path) as client:
            try:
                return bool(client.ask("echo") == {})
            except NodeNotRunning:
                return False

    wait_until(is_let_in, "there is room again")


def test_a_silent_node_is_a_time_out(tmp_path: Path, server: AdminServer) -> None:
    with AdminClient(tmp_path, timeout_s=0.1) as client, pytest.raises(Timeout, match="did not answer"):
        client.ask("wait")


def test_a_path_that_is_too_long_for_a_socket_works_all_the_same(tmp_path: Path, desk: Desk) -> None:
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    server = AdminServer(deep, desk.handle)
    server.start()
    try:
        assert stat.S_ISSOCK((deep / "admin" / "socket").stat().st_mode)
        with AdminClient(deep) as client:
            assert client.ask("echo") == {}
    finally:
        server.close()
    assert list(deep.iterdir()) == []


def test_a_socket_that_a_crash_left_is_replaced_and_a_living_one_is_not(tmp_path: Path, desk: Desk) -> None:
    (tmp_path / "admin").mkdir()
    with socket.socket(socket.AF_UNIX) as stale, socket_address(tmp_path) as address:
        stale.bind(address)
    server = AdminServer(tmp_path, desk.handle)
    server.start()
    try:
        second = AdminServer(tmp_path, desk.handle)
        with pytest.raises(OSError, match="another node answers"):
            second.start()
        with AdminClient(tmp_path) as client:
            assert client.ask("echo") == {}
    finally:
        server.close()


def test_a_socket_that_only_a_child_of_a_crashed_process_holds_open_is_replaced(tmp_path: Path, desk: Desk) -> None:
    (tmp_path / "admin").mkdir()
    with socket.socket(socket.AF_UNIX) as held, socket_address(tmp_path) as address:
        held.bind(address)
        held.listen(1)
        server = AdminServer(tmp_path, desk.handle)
        server.start()
        try:
            with AdminClient(tmp_path) as client:
                assert client.ask("echo") == {}
        finally:
            server.close()


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path, desk: Desk) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "admin").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="no folder of this user"):
        AdminServer(tmp_path, desk.handle).start()


def test_frames_are_bounded() -> None:
    reader = FrameReader(10)
    reader.feed(b"\0\0\0\x0b")
    with pytest.raises(CodecError, match="11 bytes"):
        reader.take()


@pytest.mark.parametrize(
    "take",
    [
        lambda arguments: arguments.text("number"),
        lambda arguments: arguments.number("text"),
        lambda arguments: arguments.number("flag"),
        lambda arguments: arguments.text("absent"),
        lambda arguments: arguments.flag("number"),
        lambda arguments: arguments.seconds("negative", 1.0),
        lambda arguments: arguments.count("negative", 1),
        lambda arguments: arguments.check_all_known(),
    ],
)
def test_arguments_are_checked(take: Any) -> None:
    arguments = Arguments({"number": 1, "text": "one", "flag": True, "negative": -1})
    with pytest.raises(UsageError):
        take(arguments)


# --- on a whole node -------------------------------------------------------------------------------------------------


def test_a_node_without_one_says_so_to_whoever_asks(cluster: NodeCluster) -> None:
    (node,) = cluster.start(1, admin_socket=False)
    with pytest.raises(NodeNotRunning, match="let it have its admin_socket"):
        AdminClient(Path(node.config.data_dir))


def test_groups_come_in_pages(cluster: NodeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("copycat.administration.GROUPS_PER_PAGE_MAX", 3)
    (node,) = cluster.start(1)
    made = {str(cluster.group(node, replicas=1)) for _ in range(7)}
    with AdminClient(Path(node.config.data_dir)) as client:
        found = [group["id"] for group in client.groups()]
        assert found == sorted(made)
        page = client.ask("groups", limit=2)
        assert [group["id"] for group in page["groups"]] == found[:2]


def test_many_lives_leave_nothing_behind(cluster: NodeCluster) -> None:
    (node,) = cluster.start(1)
    data_dir = Path(node.config.data_dir)
    cluster.stop(node)
    names = sorted(os.listdir(data_dir))
    assert "admin" not in names
    with CopyCat(node.config):
        with AdminClient(data_dir) as client:
            assert client.ask("status")["node_id"] == node.node_id
        assert "admin" in os.listdir(data_dir)
    assert sorted(os.listdir(data_dir)) == names


def test_a_node_is_told_to_leave_and_leaves(cluster: NodeCluster) -> None:
    nodes = cluster.start(4, leave_timeout_s=1.0)
    group = cluster.group(nodes[0], replicas=3)
    ListCopy(nodes[0], group).sub.propose.submit(b"kept").result(PATIENCE_S)
    leaver = nodes[3]
    with AdminClient(Path(leaver.config.data_dir)) as client:
        client.ask("leave", PATIENCE_S, timeout=PATIENCE_S)
    assert leaver.left
    cluster.nodes.remove(leaver)
    leaver.shutdown()
    with pytest.raises(LeftForGood):
        CopyCat(leaver.config)
    assert ListCopy(nodes[1], group).wait(1) == [b"kept"]


def test_a_node_that_can_t_leave_says_why_and_stays(cluster: NodeCluster) -> None:
    (node,) = cluster.start(1, leave_timeout_s=0.5)
    cluster.group(node, replicas=1)
    with AdminClient(Path(node.config.data_dir)) as client:
        with pytest.raises(Timeout, match="could not be handed over"):
            client.ask("leave", PATIENCE_S, timeout=1.0)
        assert client.ask("status")["leaving"] is None


def test_a_node_that_shuts_down_answers_whoever_still_waits(cluster: NodeCluster) -> None:
    nodes = cluster.start(2)
    group = str(cluster.group(nodes[0], replicas=2))
    other = nodes[1]
    cluster.stop(other)
    caught: list[BaseException] = []
    with AdminClient(Path(nodes[0].config.data_dir)) as client:

        def wait() -> None:
            try:
                client.ask("transfer_leader", PATIENCE_S, id=group, node_id=other.node_id, timeout=PATIENCE_S)
            except BaseException as error:
                caught.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        wait_until(lambda: bool(nodes[0]._engine.errands._transfers), "it has asked")
        cluster.stop(nodes[0])
        thread.join(PATIENCE_S)
    assert isinstance(caught[0], Closed)
