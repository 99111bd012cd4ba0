"""The files under deploy/ are well-formed, agree with the command line, and with each other."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from copycat.cli.node import node
from copycat.cli.options import FIELD_NAMES, read_toml
from copycat.config import Config

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
DATA_DIR = "/var/lib/copycat"
METRICS_PORT = 9464

yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")


def read(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What ``copycat node`` understands of them. Raises what click raises for a wrong one."""
    return node.make_context("node", list(arguments)).params


def entry_point() -> list[str]:
    (words,) = re.findall(r"^ENTRYPOINT (\[.*\])$", read("docker/Dockerfile"), flags=re.MULTILINE)
    command: list[str] = yaml.safe_load(words)
    assert command[:2] == ["copycat", "node"]
    return command[2:]


def test_the_unit_runs_a_command_line_that_exists() -> None:
    (line,) = re.findall(r"^ExecStart=(.+)$", read("systemd/copycat.service"), flags=re.MULTILINE)
    program, command, *arguments = shlex.split(line)
    assert (Path(program).name, command) == ("copycat", "node")
    given = parsed(arguments)
    assert given["data_dir"] == DATA_DIR
    assert given["metrics_port"] == METRICS_PORT
    assert given["config_file"] == Path("/etc/copycat/node.toml")


def test_the_unit_waits_as_long_as_a_shutdown_may_take() -> None:
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", read("systemd/copycat.service"), flags=re.MULTILINE)
    assert int(seconds) >= 3 * Config().leave_timeout_s + 10


def test_the_example_configuration_is_one() -> None:
    config = Config(**read_toml(DEPLOY / "systemd" / "node.toml"))
    assert len(config.seeds) == 2
    assert config.has_keys


def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "copycat.service"
    # The program it names is not on this machine.
    unit.write_text(read("systemd/copycat.service").replace("/opt/copycat/bin/copycat", sys.executable))
    ran = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True)
    if "Failed to" in ran.stderr and "copycat.service" not in ran.stderr:
        pytest.skip(f"systemd-analyze does not work here: {ran.stderr.strip()}")
    complaints = [line for line in ran.stderr.splitlines() if "copycat.service" in line]
    assert complaints == []


def test_the_image_runs_a_command_line_that_exists_as_somebody_who_is_not_root() -> None:
    text = read("docker/Dockerfile")
    given = parsed(entry_point())
    assert (given["data_dir"], given["metrics_port"], given["bind_address"]) == (DATA_DIR, METRICS_PORT, "0.0.0.0")
    last_stage = text.rpartition("\nFROM ")[2]
    instructions = [line.split()[0] for line in last_stage.splitlines()[1:] if re.match(r"[A-Z]+ ", line)]
    assert instructions.index("USER") < instructions.index("ENTRYPOINT")
    assert re.search(r"^USER \d*[1-9]\d*$", last_stage, flags=re.MULTILINE)
    defaults = Config()
    for port in (defaults.copycat_port, defaults.gossip_port, METRICS_PORT):
        assert re.search(rf"^EXPOSE .*\b{port}/tcp", last_stage, flags=re.MULTILINE)
    assert re.search(rf"^EXPOSE .*\b{defaults.gossip_port}/udp", last_stage, flags=re.MULTILINE)


def test_the_composed_nodes_join_the_first() -> None:
    composed = yaml.safe_load(read("docker/compose.yaml"))
    seen = set()
    for number, (name, service) in enumerate(composed["services"].items()):
        given = parsed([*entry_point(), *service["command"]])
        assert given["hostname"] == name
        assert given["peers_to_contact"] == (() if number == 0 else (f"node1:{Config().gossip_port}",))
        assert given["insecure"] is True
        assert "ports" not in service, "without keys, nobody else may reach it"
        (volume,) = service["volumes"]
        source, _, target = volume.partition(":")
        assert source in composed["volumes"]
        assert target == DATA_DIR
        seen.add(source)
        assert (DEPLOY / "docker" / service["build"]["context"]).resolve() == ROOT
        assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert len(seen) == len(composed["services"]) == 3


def test_docker_compose_finds_no_fault() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode != 0:
        pytest.skip("docker compose is not installed")
    ran = subprocess.run(
        [docker, "compose", "-f", str(DEPLOY / "docker" / "compose.yaml"), "config", "--quiet"],
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_manifest_is_consistent_in_itself_and_with_the_image() -> None:
    service, budget, workload = yaml.safe_load_all(read("kubernetes/copycat.yaml"))
    assert [each["kind"] for each in (service, budget, workload)] == ["Service", "PodDisruptionBudget", "StatefulSet"]
    spec = workload["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == budget["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    assert service["spec"]["clusterIP"] == "None"
    assert spec["serviceName"] == service["metadata"]["name"]
    (container,) = spec["template"]["spec"]["containers"]
    given = parsed([*entry_point(), *container["args"]])
    head = f".{service['metadata']['name']}.$(POD_NAMESPACE).svc.cluster.local"
    assert given["hostname"] == f"$(POD_NAME){head}"
    assert given["peers_to_contact"] == (f"{workload['metadata']['name']}-0{head}:{Config().gossip_port}",)
    assert {each["name"] for each in container["env"]} == {"POD_NAME", "POD_NAMESPACE"}
    config = Config(**{name: value for name, value in given.items() if name in FIELD_NAMES and value not in (None, ())})
    assert config.has_keys
    (keys,) = spec["template"]["spec"]["initContainers"]
    for path in (given["key_file"], given["trusted_keys_dir"], given["gossip_keys_file"]):
        assert path in keys["args"][0]
    assert subprocess.run(["sh", "-n", "-c", keys["args"][0]], capture_output=True).returncode == 0
    volumes = {each["name"] for each in spec["template"]["spec"]["volumes"]}
    assert volumes == {each["name"] for each in keys["volumeMounts"]}
    mount = next(each for each in container["volumeMounts"] if each["name"] not in volumes)
    assert given["data_dir"].startswith(f"{mount['mountPath']}/")
    (claim,) = spec["volumeClaimTemplates"]
    assert mount["name"] == claim["metadata"]["name"]
    offered = {(each["name"], each["port"], each["protocol"]) for each in service["spec"]["ports"]}
    assert offered == {(each["name"], each["containerPort"], each["protocol"]) for each in container["ports"]}
    assert ("metrics", given["metrics_port"], "TCP") in offered
    assert container["readinessProbe"]["httpGet"] == {"path": "/health", "port": "metrics"}
    assert given["metrics_host"] == "0.0.0.0", "the probe comes from outside"
    assert spec["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] >= 3 * Config().leave_timeout_s + 10
