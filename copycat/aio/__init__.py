"""The public interface as coroutines: the same names, the same meanings, the same errors, for programs on asyncio.

    async with copycat.aio.CopyCat(config) as cat:
        async with await cat.subscribe_to_data_structure(id, snapshot_provider) as subscription:
            propose, commits, errors, snapshot_consumer = subscription

Rules:

* The channels are the very same; only the waiting differs. A task that waits leaves a listener with its channel
  (:mod:`copycat.channels`), and the engine wakes the event loop once for all that has come, never once per item.
* What is there is handed over in the task that asks for it, so cancelling a ``receive`` loses nothing.
* A task that never has to wait still lets others run, every few dozen items.
* Every object belongs to the event loop it was made on. Nothing here makes a task; what blocks (starting, subscribing,
  closing) runs on a thread of its own, which is gone when the call is over.

Everything works on any event loop of asyncio's kind, uvloop's too.
"""

from copycat.aio.channels import CommitChannel, ErrorChannel, ProposeChannel
from copycat.aio.node import CopyCat
from copycat.aio.subscription import Allocation, Subscription

__all__ = [
    "Allocation",
    "CommitChannel",
    "CopyCat",
    "ErrorChannel",
    "ProposeChannel",
    "Subscription",
]
