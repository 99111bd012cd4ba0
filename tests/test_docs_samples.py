"""Runs the Python on every page, as a reader would who copies it from top to bottom, and holds what else can go stale to account.

A page's blocks are one program, on ports that are free. Those that are something else say so in the line above: taken from an
example, or for three processes, which has a test of its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType

import click
import pytest

from copycat.cli.commands import root

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PORTS = ("7458", "7459", "8458", "9464")
PATIENCE_S = 60.0
BLOCK = re.compile(r"(?:^<!-- ([^>]+) -->\n)?^ *```python\n(.*?)^ *```", flags=re.DOTALL | re.MULTILINE)
THREE_PROCESSES = "run as three processes"
ELSEWHERE = {
    "simulation.md": "tests/simulation/test_structures.py",
    "writing-a-storage.md": "below: it needs a storage to speak of",
    "writing-a-transport.md": "below: it is a file of tests",
}


def blocks_of(page: str) -> list[tuple[str, str]]:
    """Mark and code of each Python block, the code moved to the left."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [(mark, textwrap.dedent(code)) for mark, code in BLOCK.findall(text)]


def pages() -> list[str]:
    return sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def pages_to_run() -> list[str]:
    return [page for page in pages() if page not in ELSEWHERE and any(not mark for mark, _ in blocks_of(page))]


def test_every_block_of_python_is_found() -> None:
    """The pattern sees all; else a block in some other shape would not be run, and nobody would know."""
    for page in pages():
        text = (DOCS / page).read_text(encoding="utf-8")
        assert len(blocks_of(page)) == len(re.findall(r"^\s*```python", text, flags=re.MULTILINE)), page
        for mark, _ in blocks_of(page):
            assert not mark or mark == THREE_PROCESSES or mark.startswith("examples/"), f"{page}: {mark}"
    assert {"start.md", "exactly-once.md", "web.md", "structures.md"} <= set(pages_to_run())


@pytest.mark.parametrize("page", pages_to_run())
def test_the_samples_of_a_page_run(page: str, tmp_path: Path) -> None:
    program = "\n".join(code for mark, code in blocks_of(page) if not mark)
    if "metrics.serve" in program:
        pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")
    for port in PORTS:
        program = program.replace(port, "0")
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout or "print" not in program


@pytest.mark.parametrize("page", pages())
def test_what_a_page_shows_of_an_example_is_there(page: str) -> None:
    for mark, code in blocks_of(page):
        if mark.startswith("examples/"):
            example = (ROOT / mark).read_text(encoding="utf-8")
            assert code.strip() in example, f"{page} shows what {mark} hasn't"


def test_the_sample_of_a_storage_is_a_suite_that_runs(tmp_path: Path) -> None:
    ((_, code),) = blocks_of("writing-a-storage.md")
    suite = f"from copycat.storage.leveldb import LevelDBStorage as MyStorage\n{code}"
    if importlib.util.find_spec("plyvel") is None:
        suite = suite.replace("leveldb import LevelDBStorage", "rocksdb import RocksDBStorage")
    run_suite(tmp_path, suite, "test_a_new_directory_is_empty")


def test_the_sample_of_a_transport_is_a_suite_that_runs(tmp_path: Path) -> None:
    ((_, code),) = blocks_of("writing-a-transport.md")
    run_suite(tmp_path, code, "test_")


def run_suite(folder: Path, suite: str, wanted: str) -> None:
    (folder / "test_mine.py").write_text(suite)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), "-k", wanted]
    result = subprocess.run([*command, "test_mine.py"], cwd=folder, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"\d+ passed", result.stdout)


# --- three processes ---


class Terminal:
    """A process that answers each line with a line."""

    def __init__(self, folder: Path, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.said = self.hear()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def type(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.hear()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self._close()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(PATIENCE_S) == 0
        self._close()

    def _close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()


def voters_at(folder: Path) -> int:
    """Of the one group on the node with this directory."""
    command = [sys.executable, "-m", "copycat.cli", "groups", "--json", "--data-dir", str(folder)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout)
    return max((len(group["voters"]) for group in found), default=0)


def wait_until_it_is_on_three(folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while voters_at(folder) < 3:
        assert time.monotonic() < deadline, "the group did not grow to three voters"


def gossip_port_of(folder: Path) -> str:
    """Of the node with this directory, which was started on port 0."""
    command = [sys.executable, "-m", "copycat.cli", "status", "--json", "--data-dir", str(folder)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout)
    return str(found["address"])


@contextmanager
def three(folder: Path, directory: str, *command: str) -> Iterator[tuple[list[Terminal], list[str]]]:
    """Processes on free ports: two nodes can't both be called ``set-0``, so each has a folder of its own."""
    with ExitStack() as running:
        terminals: list[Terminal] = []
        addresses: list[str] = []
        for name in "abc":
            (folder / name).mkdir()
            others = [addresses[0], terminals[0].said.split()[-1]] if terminals else []
            terminals.append(running.enter_context(Terminal(folder / name, *command, "0", *others)))
            assert terminals[-1].said, "it did not start"
            addresses.append(gossip_port_of(folder / name / directory))
        yield terminals, addresses


def test_the_set_with_expiry_does_what_its_page_shows(tmp_path: Path) -> None:
    program = ("-m", "copycat.examples.expiring_set")
    assert len((ROOT / "examples" / "expiring_set.py").read_text().splitlines()) < 60
    with three(tmp_path, "set-0", *program) as ((a, b, c), addresses):
        assert a.type("apple 600") == "added"
        assert b.type("pear 0.5") == "added"
        assert b.type("apple 900") == "kept"
        wait_until(lambda: c.type("") == "apple", "the pear expires")
        assert a.type("") == "apple"
        wait_until_it_is_on_three(tmp_path / "c" / "set-0")
        group = a.said.split()[-1]
        a.kill()
        assert b.type("plum 600") == "added"
        assert c.type("") == "apple plum"
        with Terminal(tmp_path / "a", *program, "0", addresses[1], group) as again:
            assert again.type("") == "apple plum"
            for terminal in (again, b, c):
                terminal.end()


def test_the_set_with_expiry_comes_back_from_a_snapshot_and_can_not_be_turned_back() -> None:
    from copycat.examples.expiring_set import ExpiringSet

    first, second = (ExpiringSet.__new__(ExpiringSet) for _ in range(2))
    first.restore([100.0, {"apple": 160.0, "pear": 101.0}])
    second.restore(first.snapshot())  # type: ignore[arg-type]
    elements = ExpiringSet.elements.__wrapped__
    assert elements(second, 100.0) == ["apple", "pear"]
    assert elements(second, 101.0) == ["apple"]
    assert elements(second, 0.0) == ["apple", "pear"]  # a reader with a clock that is behind sees what the log has seen


def test_the_first_program_runs_on_three_processes(tmp_path: Path) -> None:
    (program,) = (code for mark, code in blocks_of("start.md") if mark == THREE_PROCESSES)
    (tmp_path / "node.py").write_text(program)
    with three(tmp_path, "node-0", str(tmp_path / "node.py")) as ((a, b, c), _):
        assert a.type("grass green") == "green"
        assert b.type("grass") == "green"
        assert c.type("grass blue") == "blue"
        assert a.type("grass") == "blue"
        wait_until_it_is_on_three(tmp_path / "c" / "node-0")
        a.kill()
        assert b.type("sky blue") == "blue"
        assert c.type("sky") == "blue"


def wait_until(holds: object, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"not in time: {what}"


# --- commands ---


def commands_shown() -> list[tuple[str, list[str]]]:
    """Every line of the shell that calls ``copycat``, whole, by page."""
    found = []
    for page in pages():
        text = (DOCS / page).read_text(encoding="utf-8").replace("\\\n", " ")
        for block in re.findall(r"```(?:sh|console)\n(.*?)```", text, flags=re.DOTALL):
            for line in block.splitlines():
                words = (
                    shlex.split(line.removeprefix("$ "), comments=True)
                    if line.startswith(("copycat ", "$ copycat "))
                    else []
                )
                if words:
                    found.append((page, words[1:]))
    return found


@pytest.mark.parametrize(("page", "words"), commands_shown())
def test_commands_that_pages_show_are_there(page: str, words: list[str]) -> None:
    command: click.Command = root
    while isinstance(command, click.Group):
        name = words.pop(0)
        assert name in command.commands, f"{page}: there is no command {name}"
        command = command.commands[name]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("-"):
            assert word.partition("=")[0] in known, f"{page}: {command.name} has no option {word}"


# --- diagrams, the reference, the site ---


@pytest.fixture(scope="module")
def diagrams() -> ModuleType:
    spec = importlib.util.spec_from_file_location("diagrams", ROOT / "tools" / "diagrams.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_every_diagram_is_made_from_its_text(diagrams: ModuleType) -> None:
    assert list((DOCS / "diagrams").glob("*.svg"))
    assert diagrams.stale() == []


def test_a_diagram_whose_text_changed_is_noticed(
    diagrams: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(DOCS / "diagrams", tmp_path / "diagrams")
    monkeypatch.setattr(diagrams, "FOLDER", tmp_path / "diagrams")
    assert diagrams.stale() == []
    with (tmp_path / "diagrams" / "parts.dot").open("a") as text:
        text.write("// changed\n")
    (tmp_path / "diagrams" / "nothing.svg").write_text("<svg/>")
    assert diagrams.stale() == ["nothing.svg", "parts.dot"]


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed: no diagram was drawn")
def test_diagrams_can_be_drawn(diagrams: ModuleType) -> None:
    for source in sorted((DOCS / "diagrams").glob("*.dot")):
        picture = diagrams.draw(source)
        assert picture.startswith(diagrams.mark_of(source))
        assert picture.rstrip().endswith("</svg>")


@pytest.mark.parametrize(
    "name",
    [
        "copycat",
        "copycat.errors",
        "copycat.structures",
        "copycat.aio",
        "copycat.metrics",
        "copycat.web",
        "copycat.ports",
    ],
)
def test_the_reference_has_every_public_name(name: str) -> None:
    module = importlib.import_module(name)
    text = (DOCS / "reference" / f"{name.rpartition('.')[2]}.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^::: ([\w.]+)$", text, flags=re.MULTILINE))
    own = [key for key, value in vars(module).items() if inspect.isclass(value) and value.__module__ == name]
    public = getattr(module, "__all__", None) or [key for key in own if not key.startswith("_")]
    documented_elsewhere = (
        {"errors", *vars(importlib.import_module("copycat.errors"))} if name != "copycat.errors" else set()
    )
    if name == "copycat.metrics":
        documented_elsewhere.add("Health")
    assert {f"{name}.{key}" for key in public if key not in documented_elsewhere} == shown


def test_every_page_has_its_place_in_the_site() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    placed = re.findall(r": ([\w/.-]+\.md)$", text, flags=re.MULTILINE)
    assert sorted(placed) == sorted([*pages(), "changelog.md"])
