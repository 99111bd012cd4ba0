"""Methods that become operations: called anywhere, applied everywhere.

    class Account(Replicated):
        @operation
        def deposit(self, amount: int) -> int:
            self._balance += amount
            return self._balance

The body says what the operation does to a copy. It must do the same on every copy: it looks at the copy and at its arguments
alone, at no clock, no randomness and nothing outside. Calling ``account.deposit(5)`` runs nothing here: it sends the wish, and
returns what the body returned when the operation's turn in the log had come on this copy.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from copycat.errors import UsageError

if TYPE_CHECKING:
    from copycat.structures.replicated import Replicated

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Replicated")


class Operation(Generic[P, R]):
    """A method that is an operation. ``name`` and ``version`` are what the log knows it by."""

    def __init__(self, body: Callable[Concatenate[Any, P], R], name: str | None, version: int) -> None:
        self.body = body
        self.name = name if name is not None else body.__name__.lstrip("_")
        self.version = version
        self.__doc__ = body.__doc__
        self.__name__ = body.__name__
        self.__wrapped__ = body
        self._signature = inspect.signature(body)
        parameters = list(self._signature.parameters.values())[1:]
        self._count = len(parameters)
        for parameter in parameters:
            if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
                raise UsageError(f"operation {self.name} has parameter {parameter}: only plain ones are possible")

    def arguments(self, args: tuple[Any, ...], named: dict[str, Any]) -> list[Any]:
        """All arguments in order, defaults included: another version of the program may have others."""
        if not named and len(args) == self._count:
            return list(args)
        bound = self._signature.bind(None, *args, **named)
        bound.apply_defaults()
        return list(bound.arguments.values())[1:]

    @overload
    def __get__(self, structure: None, owner: type[Any]) -> Operation[P, R]: ...

    @overload
    def __get__(self, structure: Replicated, owner: type[Any]) -> BoundOperation[P, R]: ...

    def __get__(self, structure: Replicated | None, owner: type[Any]) -> Operation[P, R] | BoundOperation[P, R]:
        """The operation itself, or that of one structure."""
        return self if structure is None else BoundOperation(structure, self)


class BoundOperation(Generic[P, R]):
    """An operation of one structure: call it, :meth:`submit` it, or await its :meth:`aio`."""

    __slots__ = ("_operation", "_structure")

    def __init__(self, structure: Replicated, operation: Operation[P, R]) -> None:
        self._structure = structure
        self._operation = operation

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Do it; returns its result, once it is applied on this copy.

        Raises what the structure's verbs raise, see :class:`~copycat.structures.Replicated`. In another operation's body it
        is an ordinary method.
        """
        operation = self._operation
        if self._structure._applies_here():
            return operation.body(self._structure, *args, **kwargs)
        result: R = self._structure._call(operation, operation.arguments(args, kwargs))
        return result

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Send it, waiting only while too much is outstanding; the future gets its result, or the error."""
        return self._structure._submit(self._operation, self._operation.arguments(args, kwargs))

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same as a call, for tasks. When the task is cancelled the operation goes on."""
        operation = self._operation
        result: R = await self._structure._acall(operation, operation.arguments(args, kwargs))
        return result


@overload
def operation(body: Callable[Concatenate[Any, P], R], /) -> Operation[P, R]: ...


@overload
def operation(
    *, name: str | None = None, version: int = 1
) -> Callable[[Callable[Concatenate[Any, P], R]], Operation[P, R]]: ...


def operation(
    body: Callable[Concatenate[Any, P], R] | None = None, /, *, name: str | None = None, version: int = 1
) -> Operation[P, R] | Callable[[Callable[Concatenate[Any, P], R]], Operation[P, R]]:
    """Make a method an operation.

    A body that changes its meaning gets a new ``version``; the old one stays, under another method name and the old
    ``name`` and ``version``, for as long as a log may hold it.
    """
    if body is not None:
        return Operation(body, name, version)
    return lambda decorated: Operation(decorated, name, version)


def query(body: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Make a method a read of this copy, between two operations: local, and so perhaps behind; see ``barrier``."""

    def read(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._reading():
            return body(self, *args, **kwargs)

    read.__name__ = body.__name__
    read.__doc__ = body.__doc__
    read.__wrapped__ = body  # type: ignore[attr-defined]
    return read
