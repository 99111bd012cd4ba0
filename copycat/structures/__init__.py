"""Ready-made replicated structures, and the base to make others. Built on the public interface alone.

    with Dict(cat, id) as shared:
        shared["color"] = "green"  # returns when it is committed, and applied to this copy
        shared.barrier()  # from here on, what others wrote before is here too

Each is opened with ``with`` or ``async with``, used from any thread, and awaited from any event loop: an operation by its
``aio``, other verbs by their twin that begins with an ``a``. :mod:`copycat.structures.replicated` has the rules.
"""

from copycat.structures.counter import Counter
from copycat.structures.leases import Election, Leader, Lock
from copycat.structures.logs import Log
from copycat.structures.mapping import Dict
from copycat.structures.operations import BoundOperation, Operation, operation, query
from copycat.structures.queues import Queue
from copycat.structures.replicated import Replicated
from copycat.structures.sets import Set
from copycat.structures.watching import Change, Missed, Reloaded, Watch

__all__ = [
    "BoundOperation",
    "Change",
    "Counter",
    "Dict",
    "Election",
    "Leader",
    "Lock",
    "Log",
    "Missed",
    "Operation",
    "Queue",
    "Reloaded",
    "Replicated",
    "Set",
    "Watch",
    "operation",
    "query",
]
