"""What all tables have in common: a look-up, and the refusal of what is not in them."""

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


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


def follow(table: Mapping[S, Mapping[E, S]], state: S, event: E) -> S:
    """Return the state that `event` leads to from `state`.

    :raises IllegalEvent: if the table has no such row
    """
    try:
        return table[state][event]
    except KeyError:
        raise IllegalEvent(state, event) from None
