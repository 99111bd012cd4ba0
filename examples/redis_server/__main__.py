"""``python -m copycat.examples.redis_server``: one node of the server, with its port for clients of Redis."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal

import copycat
from copycat.examples.redis_server.keyspace import Keyspace
from copycat.examples.redis_server.server import Server

OPEN_TIMEOUT_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m copycat.examples.redis_server")
    parser.add_argument("--port", type=int, default=6379, help="for clients of Redis; 0 takes a free one")
    parser.add_argument("--bind", default="127.0.0.1", help="address for clients: nobody is asked for a password there")
    parser.add_argument("--data-dir", default="./redis-server")
    parser.add_argument("--copycat-port", type=int, default=0)
    parser.add_argument("--gossip-port", type=int, default=0)
    parser.add_argument("--peer", action="append", default=[], help="gossip address of another node, host:port")
    parser.add_argument("--keyspace", default="", help="id of the keyspace; without one, a new one is made")
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--reads", choices=("local", "linearizable"), default="local")
    parser.add_argument("--durability", choices=("fsync", "os"), default="fsync")
    arguments = parser.parse_args()
    config = copycat.Config(
        copycat_port=arguments.copycat_port,
        gossip_port=arguments.gossip_port,
        data_dir=arguments.data_dir,
        peers_to_contact=arguments.peer,
        replicas=arguments.replicas,
        durability=arguments.durability,
    )
    with copycat.CopyCat(config) as cat:
        keyspace = Keyspace(cat, arguments.keyspace or cat.new_data_structure_id())
        keyspace.open(OPEN_TIMEOUT_S)
        with contextlib.closing(keyspace), contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve(cat, keyspace, arguments))


async def serve(cat: copycat.CopyCat, keyspace: Keyspace, arguments: argparse.Namespace) -> None:
    """Until SIGTERM or SIGINT."""
    ends = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ends.set)
    server = Server(cat, keyspace, arguments.reads == "linearizable")
    await server.start(arguments.bind, arguments.port)
    print(f"serving keyspace={keyspace.id} port={server.port} gossip={cat.address}", flush=True)
    await ends.wait()
    await server.stop()


if __name__ == "__main__":
    main()
