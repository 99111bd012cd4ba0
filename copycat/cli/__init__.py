"""The command ``copycat``: run a node that lends its disk, look at one and tell it what to do, or watch a cluster at work.

Needs the packages of the extra ``cli``. Nothing else in the library imports this package or them.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

_NEEDED = ("click", "rich")


def main() -> None:
    """Entry point of the console script. Exits with 0, with 1 when the cluster or the node failed, with 2 for wrong usage."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        sys.stderr.write(f"copycat: needs {' and '.join(missing)}; install the extra: pip install 'copycat[cli]'\n")
        sys.exit(2)
    from copycat.cli.commands import run  # only now: importing it needs click

    run()
