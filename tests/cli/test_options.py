"""Options and TOML keys of the command line, compared with the fields of Config that they stand for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from copycat.cli.node import node
from copycat.cli.options import FIELD_NAMES, config_from, config_options, field_docs, read_toml
from copycat.config import Config, Durability
from copycat.errors import InvalidConfig


def parse(*arguments: str) -> Config:
    """The configuration that a command line makes."""
    made: list[Config] = []

    @click.command()
    @config_options
    def command(config_file: Path | None, **given: Any) -> None:
        made.append(config_from(config_file, given))

    result = CliRunner().invoke(command, arguments, catch_exceptions=False, standalone_mode=False)
    assert result.exit_code == 0, result.output
    (config,) = made
    return config


def test_every_field_has_an_option_with_its_text() -> None:
    options = {parameter.name: parameter for parameter in node.params}
    for name, text in field_docs().items():
        option = options[name]
        assert isinstance(option, click.Option)
        assert option.opts == ["--" + name.replace("_", "-")]
        assert option.help is not None
        assert option.help.startswith(text)


def test_no_arguments_mean_the_defaults() -> None:
    assert parse() == Config()


def test_each_option_reaches_its_field() -> None:
    config = parse(
        *("--hostname", "localhost", "--copycat-port", "1", "--gossip-port", "2", "--durability", "os"),
        *("--repair-delay-s", "2.5", "--seed", "7", "--rack", "r1", "--storage", "memory"),
    )
    assert config == Config(
        hostname="localhost",
        copycat_port=1,
        gossip_port=2,
        durability=Durability.OS,
        repair_delay_s=2.5,
        seed=7,
        rack="r1",
        storage="memory",
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("--peers-to-contact", "127.0.0.1:1 127.0.0.1:2"),
        ("--peers-to-contact", "127.0.0.1:1", "--peers-to-contact", "127.0.0.1:2"),
    ],
)
def test_peers_may_be_given_in_one_option_or_in_several(arguments: tuple[str, ...]) -> None:
    assert parse(*arguments).seeds == (("127.0.0.1", 1), ("127.0.0.1", 2))


def test_zero_is_a_value_and_not_an_absent_option() -> None:
    assert parse("--repair-delay-s", "0").repair_delay_s == 0


def test_a_file_may_hold_every_field(tmp_path: Path) -> None:
    lines = []
    for field in dataclasses.fields(Config):
        value = getattr(Config(), field.name)
        if isinstance(value, Durability):
            value = value.value
        if value is not None:
            shown = (
                str(value).lower()
                if isinstance(value, bool)
                else repr(list(value) if isinstance(value, tuple) else value)
            )
            lines.append(f"{field.name} = {shown}")
    file = tmp_path / "node.toml"
    file.write_text("\n".join(lines))
    assert set(read_toml(file)) == set(FIELD_NAMES) - {"seed"}
    assert parse("--config", str(file)) == Config()


def test_an_option_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('rack = "from file"\ndata_center = "from file"\npeers_to_contact = ["127.0.0.1:1"]\n')
    config = parse("--config", str(file), "--rack", "from option")
    assert (config.rack, config.data_center, config.seeds) == ("from option", "from file", (("127.0.0.1", 1),))


def test_an_unknown_key_is_an_error_that_names_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("copycat_prot = 1\n")
    with pytest.raises(InvalidConfig, match=r"unknown key 'copycat_prot'; did you mean 'copycat_port'"):
        parse("--config", str(file))


def test_a_key_like_no_other_is_an_error_that_names_them_all(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("[zzzz]\nx = 1\n")
    with pytest.raises(InvalidConfig, match=r"unknown key 'zzzz'; the keys are hostname, "):
        parse("--config", str(file))


@pytest.mark.parametrize("content", [b"not = = toml", b'rack = "\xff"'])
def test_a_file_that_is_no_toml_is_a_typed_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "node.toml"
    file.write_bytes(content)
    with pytest.raises(InvalidConfig, match=r"is no TOML"):
        parse("--config", str(file))


def test_a_file_that_is_absent_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"can't be read"):
        parse("--config", str(tmp_path / "absent.toml"))


def test_a_value_of_the_wrong_type_in_a_file_is_a_typed_error(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('copycat_port = "7458"\n')
    with pytest.raises(InvalidConfig, match="copycat_port must be int"):
        parse("--config", str(file))
