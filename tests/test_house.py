"""The rules of the house, checked by reading the source: who may import whom, how long a module may be, what must be said.

A rule that only people remember is forgotten. When one of these fails, either the change or the rule is wrong;
docs/architecture.md has the reasons.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest

import copycat
from copycat.cli.options import field_docs
from copycat.config import Config

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "copycat": "copycat",
    "transports": "copycat.transports",
    "storage": "copycat.storage",
    "examples": "copycat.examples",
}
MODULE_LINES_MAX = 500

# From the ground up: a module imports from its own floor and those below it.
FLOORS = (
    ("errors",),
    (
        *("messages", "ids", "ports", "config", "registry", "codec", "protocol", "records", "keys", "status"),
        *("metrics", "endpoint", "happenings"),
    ),
    ("security",),
    ("raft", "gossip"),
    (
        *("channels", "sessions", "sequencer", "outbox", "reads", "feed", "proposer"),
        *("nodestore", "replicastore", "entrycache", "indexranges", "logindex", "pending", "snapshotslots"),
        *("genesis", "acceptor", "creation", "enrolment", "lookup", "hostset", "directory", "placement", "repair"),
    ),
    ("plausibility",),
    ("raftconfig", "subscription", "group", "farewell", "snapshots", "snapshot_making", "transfer", "traffic"),
    (
        *("hosting", "founding", "departures", "consumers", "exchange", "cluster", "stewardship", "errands"),
        *("locating", "recovery", "testimony", "ringchange", "backups", "restores"),
    ),
    ("engine", "measuring", "health"),
    ("admin", "adminwire", "administration"),
    ("runtime", "node", ""),
    ("structures", "aio", "web"),
    ("testing", "examples", "cli"),
)
PLUGS = ("transports", "storage")
PLUGS_MAY_IMPORT = ("errors", "messages", "ports", "codec")
PURE_MAY_IMPORT = ("errors", "messages")
PURE_MUST_NOT_IMPORT = frozenset(
    [
        "asyncio",
        "concurrent",
        "datetime",
        "io",
        "logging",
        "multiprocessing",
        "os",
        "pathlib",
        "queue",
        "sched",
        "secrets",
        "select",
        "selectors",
        "shutil",
        "signal",
        "socket",
        "subprocess",
        "tempfile",
        "threading",
        "time",
        "uuid",
    ]
)


@dataclass(frozen=True)
class Module:
    """A module of the library, and what it imports."""

    name: str
    path: Path

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @property
    def room(self) -> str:
        """The part of the name that the floors speak of: "raft" for copycat.raft.log, "" for copycat itself."""
        return room_of(self.name)

    def imports(self) -> Iterator[str]:
        """Full names of all modules imported, anywhere in the file; of copycat's own, the module rather than the name in it.

        What is imported for annotations alone (``if TYPE_CHECKING``) doesn't exist when the library runs, and doesn't count.
        """
        for_types = {
            id(found)
            for block in ast.walk(self.tree)
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
            for found in ast.walk(block)
        }
        for found in ast.walk(self.tree):
            if id(found) in for_types:
                continue
            if isinstance(found, ast.Import):
                yield from (alias.name for alias in found.names)
            elif isinstance(found, ast.ImportFrom):
                assert found.level == 0, f"{self.name} imports relatively"
                assert found.module is not None
                for alias in found.names:
                    inner = f"{found.module}.{alias.name}"
                    yield inner if inner in MODULES else found.module

    def own_imports(self) -> Iterator[str]:
        return (name for name in self.imports() if name == "copycat" or name.startswith("copycat."))


def room_of(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def find_modules() -> dict[str, Module]:
    modules = {}
    for folder, package in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = (package, *path.relative_to(ROOT / folder).with_suffix("").parts)
            name = ".".join(parts).removesuffix(".__init__")
            modules[name] = Module(name, path)
    return modules


MODULES = find_modules()
every_module = pytest.mark.parametrize("module", [pytest.param(module, id=name) for name, module in MODULES.items()])


def written_files() -> list[Path]:
    """Every text file under version control, or that would be."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


# --- who imports whom -----------------------------------------------------------------------------------------------


@every_module
def test_imports_go_down_or_stay_on_their_floor(module: Module) -> None:
    floor_of = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    if module.room in PLUGS:
        return  # they stand beside the house; see below
    assert module.room in floor_of, f"say on which floor {module.room!r} lives, in FLOORS"
    for name in module.own_imports():
        if room_of(name) in PLUGS:
            continue
        assert room_of(name) in floor_of, f"{module.name} imports {name}, which is on no floor"
        assert floor_of[room_of(name)] <= floor_of[module.room], f"{module.name} imports {name}, which is above it"


def test_every_part_of_the_library_has_its_place_in_the_docs() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = sorted({module.room for module in MODULES.values()} - {"", *PLUGS})
    assert [room for room in rooms if f"`{room}`" not in text] == []


def test_no_two_modules_import_each_other() -> None:
    edges = {
        name: {imported for imported in module.own_imports() if imported in MODULES and imported != name}
        for name, module in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, "imports go round: " + " -> ".join((*path, name))
        if name not in done:
            for imported in sorted(edges[name]):
                visit(imported, (*path, name))
            done.add(name)

    for name in edges:
        visit(name, ())


@pytest.mark.parametrize("room", ["raft", "gossip"])
def test_the_pure_cores_import_nothing_but_messages_and_errors(room: str) -> None:
    for module in MODULES.values():
        if module.room == room:
            for name in module.imports():
                if name.startswith("copycat"):
                    assert room_of(name) in (room, *PURE_MAY_IMPORT), f"{module.name} imports {name}"
                else:
                    top = name.split(".")[0]
                    assert top in sys.stdlib_module_names, f"{module.name} imports {name}, which is not Python's own"
                    assert top not in PURE_MUST_NOT_IMPORT, f"{module.name} imports {name}, and must know no such thing"


@pytest.mark.parametrize("room", ["raft", "gossip"])
def test_the_pure_cores_draw_randomness_from_what_they_are_given(room: str) -> None:
    for module in MODULES.values():
        if module.room == room:
            for found in ast.walk(module.tree):
                if (
                    isinstance(found, ast.Attribute)
                    and isinstance(found.value, ast.Name)
                    and found.value.id == "random"
                ):
                    assert found.attr == "Random", f"{module.name}:{found.lineno} uses random.{found.attr}"
                if isinstance(found, ast.ImportFrom) and found.module == "random":
                    assert {alias.name for alias in found.names} == {"Random"}, f"{module.name}:{found.lineno}"


@pytest.mark.parametrize("room", PLUGS)
def test_plugs_know_only_their_port(room: str) -> None:
    for module in MODULES.values():
        if module.room == room:
            for name in module.own_imports():
                assert room_of(name) in (room, *PLUGS_MAY_IMPORT), f"{module.name} imports {name}"


@every_module
def test_nobody_imports_a_plug(module: Module) -> None:
    for name in module.own_imports():
        if module.room not in (*PLUGS, "testing"):
            assert room_of(name) not in PLUGS, f"{module.name} imports {name}; use copycat.registry"


@every_module
def test_only_tests_import_the_testing_package(module: Module) -> None:
    for name in module.own_imports():
        assert room_of(name) != "testing" or module.room == "testing", f"{module.name} imports {name}"


@pytest.mark.parametrize(("room", "optional"), [("cli", "click"), ("cli", "rich"), ("metrics", "prometheus_client")])
def test_only_its_own_room_needs_an_extra(room: str, optional: str) -> None:
    users = [module for module in MODULES.values() if optional in {name.split(".")[0] for name in module.imports()}]
    assert users
    assert [module.name for module in users if module.room != room] == []


def test_only_nodes_with_keys_need_what_seals() -> None:
    users = [name for name, module in MODULES.items() if any(n.startswith("cryptography") for n in module.imports())]
    assert users == ["copycat.security.sealing"]
    loaded = "import copycat, copycat.engine, sys; sys.exit(any(n.startswith('cryptography') for n in sys.modules))"
    subprocess.run([sys.executable, "-c", loaded], check=True)


# --- shape ----------------------------------------------------------------------------------------------------------


@every_module
def test_a_module_has_at_most_500_lines(module: Module) -> None:
    assert len(module.path.read_text(encoding="utf-8").splitlines()) <= MODULE_LINES_MAX


@every_module
def test_a_module_says_what_it_is_for(module: Module) -> None:
    assert ast.get_docstring(module.tree) or not module.tree.body, f"{module.name} has no docstring"


def test_no_module_is_called_utils() -> None:
    assert [name for name in MODULES if name.split(".")[-1] in ("utils", "util", "helpers", "common", "misc")] == []


@every_module
def test_nothing_is_pickled(module: Module) -> None:
    banned = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
    assert banned.isdisjoint(name.split(".")[0] for name in module.imports())


# --- what is said of public names -----------------------------------------------------------------------------------


def says_what_is_public(module: Module) -> bool:
    return any(
        isinstance(target, ast.Name) and target.id == "__all__"
        for statement in module.tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
    )


PUBLIC_ROOMS = ("", "aio", "errors", "metrics", "structures", "testing", "web")
every_public_module = pytest.mark.parametrize(
    "name", [name for name, module in MODULES.items() if module.room in PUBLIC_ROOMS and says_what_is_public(module)]
)


def prose() -> str:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


def test_the_library_says_which_names_are_public() -> None:
    assert {"CopyCat", "Config", "DataStructureId"} <= set(copycat.__all__)


@every_public_module
def test_every_public_name_exists_and_has_a_docstring(name: str) -> None:
    module = importlib.import_module(name)
    for public in module.__all__:
        value = getattr(module, public)
        if inspect.isclass(value) or inspect.isroutine(value):
            assert inspect.getdoc(value), f"{name}.{public} has no docstring"
        if inspect.isclass(value) and value.__module__.startswith("copycat"):
            for attribute, member in vars(value).items():
                if not attribute.startswith("_") and (inspect.isroutine(member) or isinstance(member, property)):
                    assert inspect.getdoc(getattr(value, attribute)), (
                        f"{value.__qualname__}.{attribute} has no docstring"
                    )


@every_public_module
def test_every_public_name_is_in_the_readme_or_the_docs(name: str) -> None:
    module = importlib.import_module(name)
    text = prose()
    missing = [public for public in module.__all__ if not re.search(rf"\b{public}\b", text)]
    assert missing == []


def test_every_public_name_of_the_library_is_listed_or_private() -> None:
    listed = set(copycat.__all__)
    public = {
        name
        for name, value in vars(copycat).items()
        if not name.startswith("_") and not inspect.ismodule(value) and getattr(value, "__module__", "") != "__future__"
    }
    assert public - {"annotations", "TYPE_CHECKING"} <= listed


def test_every_error_is_described_in_the_docs() -> None:
    text = (ROOT / "docs" / "interface.md").read_text(encoding="utf-8")
    names = [
        name for name, value in vars(copycat.errors).items() if inspect.isclass(value) and not name.startswith("_")
    ]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_every_configuration_field_is_described_beside_itself() -> None:
    assert [name for name, text in field_docs().items() if not text] == []


def test_the_configuration_table_is_the_configuration() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", text, flags=re.MULTILINE))
    assert list(rows) == [field.name for field in fields(Config)]
    made = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "configuration_docs.py"), "--print"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout == text, "run tools/configuration_docs.py"


# --- what is shipped ------------------------------------------------------------------------------------------------


def test_entry_points_resolve() -> None:
    needs = {"leveldb": "plyvel", "rocksdb": "rocksdict"}  # one of them is always installed
    plugs = {"copycat.transports": {"zeromq", "memory"}, "copycat.storage": {"memory", *needs}}
    for group, names in plugs.items():
        found = {point.name: point for point in entry_points(group=group)}
        assert names <= found.keys()
        for name in names:
            if name not in needs or find_spec(needs[name]) is not None:
                assert inspect.isclass(found[name].load())
    assert any(find_spec(module) is not None for module in needs.values())
    (script,) = entry_points(group="console_scripts", name="copycat")
    assert callable(script.load())


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that would be released, built from a copy of what is under version control."""
    pytest.importorskip("setuptools")
    pytest.importorskip("pip")
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for path in written_files():
        target = source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(built)]
    made = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_module_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    expected = {
        name.replace(".", "/") + ("/__init__.py" if module.path.name == "__init__.py" else ".py")
        for name, module in MODULES.items()
    }
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    static = {f"copycat/web/static/{path.name}" for path in (ROOT / "copycat" / "web" / "static").iterdir()}
    assert "copycat/web/static/index.html" in static
    assert shipped == expected | {"copycat/py.typed"} | static


def test_the_wheel_carries_the_license(wheel: zipfile.ZipFile) -> None:
    assert any(name.endswith("/LICENSE") for name in wheel.namelist())


# --- what is written ------------------------------------------------------------------------------------------------

FOREIGN_TO_THE_PROJECT = (
    r"/wo" + r"rk/",
    r"\bcla" + r"ude\b",
    r"\banthr" + r"opic\b",
    r"\bchat" + r"gpt\b",
    r"\bcopi" + r"lot\b",
    r"\b(ai|coding) (agent|assist" + r"ant)s?\b",
    r"\bissue #?\d",
    r"\bpypi\." + r"org\b",
    r"\bpython" + r"hosted\b",
    r"\bdeb\.deb" + r"ian\b",
    r"\bFIX" + r"ME\b",
    r"\bTO" + r"DO\b",
)


def test_the_project_speaks_of_itself_alone() -> None:
    forbidden = re.compile("|".join(FOREIGN_TO_THE_PROJECT), re.IGNORECASE)
    found = []
    for path in written_files():
        if path.name == "LICENSE":
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if forbidden.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == []


def test_the_readme_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("tools/demo", "tools/test"):
        assert re.search(rf"^{command}\b", text, flags=re.MULTILINE), f"README.md doesn't show {command}"


def test_the_readme_shows_the_example_as_it_is() -> None:
    """Each Python block marked as taken from the example is found there, line by line, in order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    example = [line.strip() for line in (ROOT / "examples" / "hash_map.py").read_text(encoding="utf-8").splitlines()]
    blocks = re.findall(r"<!-- examples/hash_map.py -->\n```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        rest = iter(example)
        for line in filter(None, map(str.strip, block.splitlines())):
            assert line in rest, f"README.md shows a line that the example hasn't, or not in this order: {line}"


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)} -> {target}")
    assert broken == []
