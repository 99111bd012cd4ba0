"""The launchers tools/demo and tools/test, where that is quick: what they say when the machine lacks something."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LAUNCHERS = ("demo", "test")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in a folder with a space in its name, where nothing was set up yet."""
    root = tmp_path / "a checkout"
    shutil.copytree(ROOT / "tools", root / "tools")
    for name in ("pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, root / name)
    return root


def fake_python(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/", timeout=60)


@pytest.fixture
def tools_only(tmp_path: Path) -> str:
    """A PATH with what a shell script needs, and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "dirname", "cat", "mktemp", "rm", "cksum", "grep"):
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return str(folder)


@pytest.mark.parametrize("name", [*LAUNCHERS, "environment.sh"])
def test_launchers_are_valid_posix_shell(name: str) -> None:
    result = run(["sh", "-n", str(ROOT / "tools" / name)], PATH=os.defpath)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launchers_are_executable(name: str) -> None:
    assert (ROOT / "tools" / name).stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("name", LAUNCHERS)
def test_without_any_python_a_launcher_says_so(checkout: Path, tools_only: str, name: str) -> None:
    result = run([str(checkout / "tools" / name)], PATH=tools_only, HOME="/nonexistent")
    assert result.returncode == 1
    assert "needs Python 3.10 or newer" in result.stderr
    assert result.stdout == ""


def test_a_python_that_is_named_but_too_old_is_refused(checkout: Path, tools_only: str, tmp_path: Path) -> None:
    old = fake_python(tmp_path / "old", "python", "exit 1")
    result = run([str(checkout / "tools" / "test")], PATH=tools_only, HOME="/nonexistent", PYTHON=str(old))
    assert result.returncode == 1
    assert f"PYTHON is set to '{old}'" in result.stderr


def test_a_python_without_venv_names_the_package_to_install(checkout: Path, tools_only: str) -> None:
    fake_python(Path(tools_only), "python3", 'case "$2" in *ensurepip*) exit 1;; esac')
    result = run([str(checkout / "tools" / "test")], PATH=tools_only, HOME="/nonexistent")
    assert result.returncode == 1
    assert "apt-get install python3-venv" in result.stderr


PYTHON_WHOSE_PIP_FAILS = """
case "$1 $2" in
    "-m venv") mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
    "-m pip") echo "$PIP_SAYS"; exit 1 ;;
esac
"""


@pytest.mark.parametrize("hinted", [True, False])
def test_a_storage_engine_that_did_not_build_names_the_packages_to_install(
    checkout: Path, tmp_path: Path, hinted: bool
) -> None:
    fake = fake_python(tmp_path / "fake", "python", PYTHON_WHOSE_PIP_FAILS)
    says = "ERROR: Failed building wheel for plyvel" if hinted else "ERROR: no network; collecting plyvel"
    result = run(
        [str(checkout / "tools" / "test")], PATH=os.defpath, HOME="/nonexistent", PYTHON=str(fake), PIP_SAYS=says
    )
    assert result.returncode == 1
    assert says in result.stderr
    assert ("apt-get install libleveldb-dev g++ python3-dev" in result.stderr) is hinted


PYTHON_THAT_TELLS = """
case "$1 $2" in
    "-m venv") mkdir -p "$4/bin" && cp "$0" "$4/bin/python"; echo venv >>"$TOLD" ;;
    "-m pip") echo install >>"$TOLD" ;;
    "-m pytest" | "-m copycat.cli") shift 2; echo "ran $*" ;;
    "-c "*) echo 3.10 ;;
esac
"""


def test_an_environment_is_made_once_and_arguments_are_passed_on(checkout: Path, tmp_path: Path) -> None:
    fake = fake_python(tmp_path / "fake", "python", PYTHON_THAT_TELLS)
    told = tmp_path / "told"
    environment = {"PATH": os.defpath, "HOME": "/nonexistent", "PYTHON": str(fake), "TOLD": str(told)}
    for expected in (["venv", "install"], ["venv", "install"]):
        result = run([str(checkout / "tools" / "test"), "-k", "two words", "-x"], **environment)
        assert (result.returncode, result.stdout, result.stderr) == (0, "ran -k two words -x\n", "")
        assert told.read_text().split() == expected
    result = run([str(checkout / "tools" / "demo"), "a file"], **environment)
    assert result.stdout == "ran demo a file\n"
    assert told.read_text().split() == ["venv", "install", "install"]


def test_a_file_where_the_environment_belongs_gives_way(checkout: Path, tmp_path: Path) -> None:
    (checkout / ".venv").write_text("/somewhere/else")
    fake = fake_python(tmp_path / "fake", "python", PYTHON_THAT_TELLS)
    environment = {"PATH": os.defpath, "HOME": "/nonexistent", "PYTHON": str(fake), "TOLD": str(tmp_path / "told")}
    result = run([str(checkout / "tools" / "test")], **environment)
    assert (result.returncode, result.stderr) == (0, "")
    assert (checkout / ".venv" / "bin" / "python").exists()


def test_a_changed_project_file_is_installed_again(checkout: Path, tmp_path: Path) -> None:
    fake = fake_python(tmp_path / "fake", "python", PYTHON_THAT_TELLS)
    told = tmp_path / "told"
    environment = {"PATH": os.defpath, "HOME": "/nonexistent", "PYTHON": str(fake), "TOLD": str(told)}
    run([str(checkout / "tools" / "test")], **environment)
    with (checkout / "pyproject.toml").open("a") as file:
        file.write("\n# changed\n")
    run([str(checkout / "tools" / "test")], **environment)
    assert told.read_text().split() == ["venv", "install", "install"]
