"""Every error that CopyCat raises on purpose.

``CopyCatError`` itself is never raised. Its three children say whose fault it was, so that a caller can decide without
reading text:

* ``UsageError``: yours. An argument or a configuration is wrong; the same call will fail again.
* ``ClusterError``: the cluster's. No quorum, no leader, a queue that is full, a time-out; a later call may succeed.
* ``NodeFailure``: this node's. Its disk or its data is broken; the node has stopped.

Any other exception that escapes from the library is a bug in it. The message of each error says what was wrong and what
to do next.
"""

from __future__ import annotations


class CopyCatError(Exception):
    """Base of all errors of this library; never raised itself."""


# --- yours ----------------------------------------------------------------------------------------------------------


class UsageError(CopyCatError, ValueError):
    """A call or a configuration is wrong; repeating it will not help."""


class InvalidConfig(UsageError):
    """A field of :class:`copycat.Config` has a value that can't work."""


class KeyFileInvalid(UsageError):
    """A key file or a directory of keys is missing, malformed, or open to users whom it is none of the business of."""


class InvalidId(UsageError):
    """A text or byte string is no data structure id (26 characters of Crockford base 32, the first not above 7)."""


class InvalidProposal(UsageError, TypeError):
    """A proposal is not ``bytes``."""


class ProposalTooLarge(UsageError):
    """A proposal is longer than ``Config.proposal_bytes_max``."""


class UnknownTransport(UsageError):
    """No transport of that name is registered under entry-point group ``copycat.transports``."""


class UnknownStorage(UsageError):
    """No storage of that name is registered under entry-point group ``copycat.storage``."""


class InvalidConfChange(UsageError):
    """A change of a group's configuration can't follow the present one; nothing was changed."""


class LocalMessage(UsageError):
    """A message that a replica only ever tells itself was handed to it as if it came from outside."""


class AddressInUse(UsageError):
    """A port that the configuration names is taken by another process, or its address is not this machine's."""


class StorageLocked(UsageError):
    """The data directory is open in another process or in another instance of this one."""


class StorageVersion(UsageError):
    """The data directory was written in a format that this version can't read."""


class StorageForeign(UsageError):
    """The data directory belongs to another cluster, or holds something that is not a CopyCat database."""


class StorageExposed(UsageError):
    """The data directory is open to other users of the machine: take their permissions away (``chmod 700``)."""


class LeftForGood(UsageError):
    """The data directory is that of a node that left its cluster for good, or was given up: its id is not used again."""


class SnapshotProviderFailed(UsageError):
    """The snapshot provider raised, or returned something else than bytes; the cause is chained."""


class InvalidValue(UsageError, TypeError):
    """A key, a value or an argument of an operation is nothing that msgpack carries."""


class NotOpen(UsageError):
    """The structure is not open: use it in a ``with`` or ``async with`` block, or call ``open()`` first."""


class Refused(UsageError):
    """The structure refused the operation, on every copy alike, and is as it was. Operations raise it."""


# --- the cluster's --------------------------------------------------------------------------------------------------


class ClusterError(CopyCatError):
    """The cluster could not do it now; a later call may succeed."""


class Timeout(ClusterError, TimeoutError):
    """Nothing came in time. Nothing was lost: the same call can be made again."""


class Full(ClusterError):
    """What is in flight on a subscription stayed at its limit until the time-out; the proposal was not queued.

    ``accepted`` is how many proposals of a ``send_many`` were queued before, in order.
    """

    def __init__(self, message: str, accepted: int = 0) -> None:
        super().__init__(message)
        self.accepted = accepted


class LogFull(Full):
    """The log has reached its cap and nobody can make a snapshot of it: attach a consumer, then send again."""


class Closed(ClusterError):
    """The channel, the subscription or the node has been closed."""


class SeedUnreachable(ClusterError):
    """No address in ``peers_to_contact`` answered within ``join_timeout_s``."""


class NoQuorum(ClusterError):
    """A majority that the operation needs could not be reached."""


class NotEnoughNodes(ClusterError):
    """Fewer nodes are known than the group needs distinct ones."""


class LookupFailed(ClusterError):
    """Whether the data structure exists could not be found out; this never means that it does not exist."""


class GroupUnavailable(ClusterError):
    """The group is known to exist, but none of its replicas answered in time."""


class ProposalDropped(ClusterError):
    """The proposals were not taken (no leader, or a transfer of leadership is under way, or the end came first).

    They were never appended and never will be. ``first`` and ``count`` are as with :class:`OutcomeUnknown`, where it is
    known.
    """

    def __init__(self, message: str, first: int = 0, count: int = 0) -> None:
        super().__init__(message)
        self.first = first
        self.count = count


class PeerUnknown(ClusterError):
    """Raft got a response from a replica that is not in its configuration."""


class TooManySessions(ClusterError):
    """The group's session table is full: close subscriptions, or wait until abandoned ones expire."""


class OutcomeUnknown(ClusterError):
    """Whether some proposals were or will be committed can't be known any more.

    ``count`` is how many proposals it concerns; ``first`` is the number of the first, counting what was sent on the
    subscription from 1.
    """

    def __init__(self, message: str, first: int = 0, count: int = 0) -> None:
        super().__init__(message)
        self.first = first
        self.count = count


class SessionExpired(OutcomeUnknown):
    """The subscription's session ended while proposals were in flight whose fate it can't learn any more."""


class ApplyTimeout(OutcomeUnknown, TimeoutError):
    """The operation was not applied here in time. It is on its way, and may be applied yet."""


class ResultLost(OutcomeUnknown):
    """Whether the operation was applied, and with which result, can't be told any more: a snapshot has passed over it."""


class LeaseLost(ClusterError):
    """The lock, or the office, is not held any more: its lease was not renewed in time."""


class PositionUnknown(ClusterError):
    """The proposal is committed; only its position can't be told any more."""


class UnreceivedErrors(ClusterError):
    """Stands for ``count`` errors that came while the error channel was at its limit."""

    def __init__(self, message: str, count: int) -> None:
        super().__init__(message)
        self.count = count


# --- this node's ----------------------------------------------------------------------------------------------------


class NodeFailure(CopyCatError):
    """This node has stopped, because going on could break a guarantee."""


class StorageFailed(NodeFailure):
    """A read, a write or a sync failed, or the disk is full."""


class StorageCorrupt(NodeFailure):
    """A record's checksum is wrong, or a record that must be there is missing."""


class LogDiverged(NodeFailure):
    """A replica's log contradicts what the group has committed: it lost writes, or belongs to another group."""


class StructureStopped(NodeFailure):
    """This copy of a structure has stopped, because going on could make it differ from the others. The node goes on."""


class UnknownOperation(StructureStopped):
    """The log holds an operation, or a version of one, that this program does not know: a newer one has written it."""


class OperationFailed(StructureStopped):
    """An operation raised something else than :class:`Refused`: that is a bug in it. The cause is chained."""


class GivenUp(NodeFailure):
    """An operator told the cluster that this node never comes back, so it has lost its votes and its places."""


class CodecError(CopyCatError):
    """Bytes from outside could not be understood. Counted and dropped where they arrive; never shown to a consumer."""
