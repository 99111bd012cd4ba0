"""A node without keys is for one machine: whether what it binds can be reached from another."""

from __future__ import annotations

import ipaddress
import logging
import socket

from copycat.config import Config
from copycat.errors import InvalidConfig

log = logging.getLogger(__name__)


def check_exposure(config: Config, in_process: bool) -> None:
    """Raises :class:`~copycat.errors.InvalidConfig` for a node without keys that others could reach unbidden.

    Says in the log, once a start, that there are no keys. Asks the name service, so it may wait.
    """
    if config.has_keys or in_process:
        return
    host = config.bind_address or config.hostname
    if is_loopback(host):
        log.info("no keys are configured: this node listens on loopback only, to every user of this machine")
    elif config.insecure:
        log.warning(
            "no keys are configured, and insecure is set: whoever reaches this node's ports can read and change everything",
            extra={"bind_address": host},
        )
    else:
        raise InvalidConfig(
            f"a node without keys binds to loopback only, and {host!r} is not that: make keys (copycat keygen) and set "
            "key_file, trusted_keys_dir and gossip_keys_file; or bind to 127.0.0.1; or, where whoever reaches the ports may "
            "read and change everything, set insecure=True"
        )


def is_loopback(host: str) -> bool:
    """Whether all that ``host`` stands for is this machine alone. A name that nobody knows is not."""
    if host in ("", "*"):
        return False
    try:
        found = socket.getaddrinfo(host, None, 0, socket.SOCK_STREAM)
    except (OSError, UnicodeError, ValueError):
        return False
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    return bool(addresses) and all(_is_local(address) for address in addresses)


def _is_local(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
