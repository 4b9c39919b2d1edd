"""Immutable state tables that refuse unknown events."""

from collections.abc import Mapping
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import TypeVar

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


class Symbol(StrEnum):
    """A member of a table: a string enum with a fast hash.

    The driver looks members up several times for each task, and the hash of an `Enum` is a Python call. Before Python
    3.12 `Enum.MEMBER` is a Python call as well, so the driver keeps module constants for the members that every task
    needs.
    """

    __hash__ = str.__hash__


class IllegalEvent(RuntimeError):
    """The row of a state has no such event: a bug of the driver, never of its user. The state is unchanged."""

    def __init__(self, state: Enum, event: Enum) -> None:
        super().__init__(state, event)
        self.state = state
        self.event = event

    def __str__(self) -> str:
        return f"{type(self.state).__name__} {self.state.name} has no row for {self.event.name}"


class Row(dict[E, S]):
    """The next state for each event of one state. Raises `IllegalEvent` for an event without an entry."""

    __slots__ = ("_state",)

    def __init__(self, state: S, leads: Mapping[E, S]) -> None:
        super().__init__(leads)
        self._state = state

    def __missing__(self, event: E) -> S:
        raise IllegalEvent(self._state, event)


def table(rows: Mapping[S, Mapping[E, S]]) -> Mapping[S, Mapping[E, S]]:
    """Return an immutable copy of `rows`, in which an unknown event raises `IllegalEvent`."""
    return MappingProxyType({state: MappingProxyType(Row(state, row)) for state, row in rows.items()})
