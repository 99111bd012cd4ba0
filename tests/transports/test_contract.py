"""Every transport that is registered keeps the contract."""

from __future__ import annotations

from importlib.metadata import entry_points

from copycat.testing.contracts.transport import TransportContract

REGISTERED = {found.name: found for found in entry_points(group="copycat.transports")}

for _name, _found in REGISTERED.items():
    globals()[f"TestRegistered_{_name}"] = type(
        f"TestRegistered_{_name}", (TransportContract,), {"make": lambda self, _found=_found: _found.load()()}
    )


def test_the_transports_of_this_project_are_registered() -> None:
    assert {"memory", "zeromq"} <= set(REGISTERED)
