"""Finds transports and storages by the names they are registered under, so that the core never imports one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from copycat.errors import UnknownStorage, UnknownTransport, UsageError
from copycat.ports import Storage, Transport

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

TRANSPORTS = "copycat.transports"
STORAGES = "copycat.storage"


def registered(group: str) -> dict[str, EntryPoint]:
    """The entry points of ``group`` by name, in order of names."""
    from importlib.metadata import entry_points  # here, because it takes longer to load than most of this library

    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}


def make_transport(plug: str | Transport) -> Transport:
    """The transport itself, or a new one of the class registered under that name.

    Raises :class:`~copycat.errors.UnknownTransport`.
    """
    if not isinstance(plug, str):
        return plug
    transport: Transport = _load(plug, TRANSPORTS, UnknownTransport)()
    return transport


def make_storage(plug: str | Storage) -> Storage:
    """The storage itself, or a new one of the class registered under that name.

    Raises :class:`~copycat.errors.UnknownStorage`.
    """
    if not isinstance(plug, str):
        return plug
    storage: Storage = _load(plug, STORAGES, UnknownStorage)()
    return storage


def _load(name: str, group: str, unknown: type[UsageError]) -> Any:
    points = registered(group)
    point = points.get(name)
    if point is None:
        known = ", ".join(points) or "none; is the package installed?"
        raise unknown(f"no entry point {name!r} in group {group}; registered are: {known}")
    try:
        return point.load()
    except ImportError as error:
        needed = f"pip install 'copycat[{name}]'" if point.module.startswith("copycat.") else "install what it needs"
        raise unknown(f"{name!r} in group {group} can't be imported: {error}; {needed}") from error
