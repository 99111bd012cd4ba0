"""Verbs of more than one step, written once for threads and for tasks.

Such a verb is a generator. It yields what it has to wait for, a :class:`Begin` or an :class:`Until`, and is handed what
came of it; how one waits is the business of whoever drives it: ``Replicated._run`` on threads, ``Replicated._arun`` on an
event loop. An error of the waiting, a cancellation too, is raised in the generator, which can tidy up.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, TypeVar

from copycat.structures.operations import Operation

R = TypeVar("R")


class Begin:
    """Send an operation and wait for its result. ``future`` is there as soon as it was sent."""

    __slots__ = ("arguments", "future", "operation")

    def __init__(self, operation: Operation[Any, Any], *arguments: Any) -> None:
        self.operation = operation
        self.arguments = list(arguments)
        self.future: Future[Any] | None = None


class Until:
    """Wait until ``holds`` of this copy, or until ``deadline`` on the monotonic clock: True or False is handed back."""

    __slots__ = ("deadline", "holds")

    def __init__(self, holds: Callable[[], bool], deadline: float | None) -> None:
        self.holds = holds
        self.deadline = deadline


Verb = Generator["Begin | Until", Any, R]
