"""A node that can't start leaves nothing open behind it."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

import copycat
from copycat.errors import AddressInUse


def refuse(*arguments: object) -> None:
    raise RuntimeError("no engine today")


def test_ports_and_directory_are_free_again_when_the_engine_can_not_be_made(
    make_config: Callable[..., copycat.Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    with monkeypatch.context() as patched:
        patched.setattr("copycat.node.Engine", refuse)
        with pytest.raises(RuntimeError, match="no engine today"):
            copycat.CopyCat(config)
    with copycat.CopyCat(config) as cat:
        assert len(cat.members()) == 1


def test_the_directory_is_free_again_when_a_port_is_taken(make_config: Callable[..., copycat.Config]) -> None:
    config = make_config(transport="zeromq")
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = make_config(transport="zeromq", copycat_port=other.getsockname()[1], data_dir=config.data_dir)
        with pytest.raises(AddressInUse):
            copycat.CopyCat(taken)
    with copycat.CopyCat(config) as cat:
        assert len(cat.members()) == 1
