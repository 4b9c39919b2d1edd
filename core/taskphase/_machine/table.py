"""What the tables of states have in common: a look-up, and the refusal of what is not in them."""

from collections.abc import Mapping
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import TypeVar

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


class Symbol(StrEnum):
    """What tables are made of.

    They are looked up several times a task, and the hash of an `Enum` is a call of Python. So is the look-up of a
    member in its class, before Python 3.12: the driver has names of its own for those that every task passes.
    """

    __hash__ = str.__hash__


class IllegalEvent(RuntimeError):
    """An event that a state's row does not have: a bug of the driver, never of its user.

    The state is as it was before.
    """

    def __init__(self, state: Enum, event: Enum) -> None:
        super().__init__(state, event)
        self.state = state
        self.event = event

    def __str__(self) -> str:
        return f"{type(self.state).__name__} {self.state.name} has no row for {self.event.name}"


class Row(dict[E, S]):
    """Where each event leads from one state. To look up another one raises `IllegalEvent`."""

    __slots__ = ("_state",)

    def __init__(self, state: S, leads: Mapping[E, S]) -> None:
        super().__init__(leads)
        self._state = state

    def __missing__(self, event: E) -> S:
        raise IllegalEvent(self._state, event)


def table(rows: Mapping[S, Mapping[E, S]]) -> Mapping[S, Mapping[E, S]]:
    """Return the same rows, which nobody can change and which refuse what they do not have."""
    return MappingProxyType({state: MappingProxyType(Row(state, row)) for state, row in rows.items()})
