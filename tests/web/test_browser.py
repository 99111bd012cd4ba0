"""The page in a real browser: Chromium without a screen, where there is one.

Each run is a browser of its own that opens the page with the token in the address, as a user would, lets some seconds of its
clock pass, and hands over what the page has become. What the page complains of goes to its console, and is counted here.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from copycat import web
from copycat.testing.nodes import ListCopy, NodeCluster

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_S = 180
PLACES = (("ams", "r1"), ("fra", "r1"), ("<b>fra</b>", "r2"))

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed: the page was not tried in a browser"
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeCluster]:
    with NodeCluster(tmp_path_factory.mktemp("nodes"), "zeromq", "memory") as made:
        for center, rack in PLACES:
            made.node(data_center=center, rack=rack)
        made.start(0)
        yield made


@pytest.fixture(scope="module")
def groups(cluster: NodeCluster) -> list[str]:
    return [str(cluster.group(node)) for node in cluster.nodes[:2]]


@pytest.fixture(scope="module")
def view(cluster: NodeCluster) -> Iterator[web.View]:
    with web.serve(cluster.nodes[0], 0) as made:
        yield made


class Page(HTMLParser):
    """What is in the page: text by the id of the element it is within, and attributes of elements by name."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self._ids: list[str] = []
        self.texts: dict[str, str] = {}
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "img"):
            self._ids.append(dict(attrs).get("id") or "")

    def handle_endtag(self, tag: str) -> None:
        self._ids.pop()

    def handle_data(self, data: str) -> None:
        for name in filter(None, self._ids):
            self.texts[name] = self.texts.get(name, "") + data


def browse(profile: Path, address: str, *options: str) -> str:
    """What the page has become after some seconds; nothing may have been complained of."""
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
        *("--enable-logging=stderr", "--virtual-time-budget=6000", f"--user-data-dir={profile}", *options, address),
    ]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE_S)
    said = done.stderr.decode(errors="replace")
    assert done.returncode == 0, said
    assert [line for line in said.splitlines() if "CONSOLE" in line] == []
    return done.stdout.decode()


def test_the_page_shows_members_groups_plots_and_events_and_complains_of_nothing(
    cluster: NodeCluster, groups: list[str], view: web.View, tmp_path: Path
) -> None:
    copy = ListCopy(cluster.nodes[0], groups[0])
    copy.sub.propose.send_many([b"x"] * 100)
    copy.wait(100)
    page = Page(browse(tmp_path, f"{view.url}?token={view.token}", "--window-size=1280,1600", "--dump-dom"))
    copy.sub.close()
    assert page.texts["health"] == "well"
    assert "3 of 3" in page.texts["tiles"]
    for node in cluster.nodes:
        assert node.node_id in page.texts["members"]
        assert node.address in page.texts["groups"]
    assert page.texts["members"].count("alive") == 3
    assert "<b>fra</b>" in page.texts["members"]  # text, although it looks like more
    for group in groups:
        assert group in page.texts["groups"]
    assert "new leader" in page.texts["events"]
    assert "member joined" in page.texts["events"]
    plots = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(plots) == 4
    for plot in plots:
        assert plot["role"] == "img"
        assert plot["aria-label"]
    assert view.token not in str(page.elements)


def size_and_first_pixel(png: bytes) -> tuple[int, int, str]:
    """Width, height, and the colour of the upper left corner, which the header fills."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    at, data = 8, b""
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += length + 12
    width, height = struct.unpack_from(">II", png, 16)
    return width, height, f"#{zlib.decompress(data)[1:4].hex()}"  # nothing is before the first pixel: it is as it is


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(("scheme", "colour"), [(0, "#1b2128"), (1, "#ffffff")], ids=["dark", "light"])
def test_the_page_is_drawn_on_a_phone_and_on_a_desk_in_the_dark_and_in_the_light(
    view: web.View, groups: list[str], tmp_path: Path, width: int, scheme: int, colour: str
) -> None:
    picture = tmp_path / "page.png"
    looks = (f"--window-size={width},900", f"--blink-settings=preferredColorScheme={scheme}")
    browse(tmp_path / "profile", f"{view.url}?token={view.token}", *looks, f"--screenshot={picture}")
    assert size_and_first_pixel(picture.read_bytes()) == (width, 900, colour)
    assert picture.stat().st_size > 15_000  # more than an empty ground


def test_without_the_token_a_form_asks_for_it(view: web.View, tmp_path: Path) -> None:
    page = Page(browse(tmp_path, view.url, "--dump-dom"))
    fields = [attributes for tag, attributes in page.elements if tag == "input"]
    assert [field["name"] for field in fields if "name" in field] == ["token"]
    assert "members" not in page.texts
