"""The names of the hooks of observers, the methods to call for each hook, and whether one is called now."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import local
from typing import Any, NamedTuple

HOOKS = ("scheduled", "refused", "due", "moved", "started", "attempt_ended", "ended", "scope_changed", "drained")
"""The methods of a `TaskObserver`."""

_ENDS = frozenset({"attempt_ended", "ended"})
"""Called in reverse order: an observer that came first has begun around the others, and so ends around them."""

TEST_HOOKS = ("holds", "settled")
"""Further hooks, for the test tools only.

- `holds`: returns True to hold back a task that is due.
- `settled`: a barrier; async.
"""

Hook = Callable[..., Any]


class Entry(NamedTuple):
    """One method of an observer.

    :ivar name: of the hook
    """

    name: str
    observer: object
    call: Hook


class Hooks(tuple[Hook, ...]):  # noqa: SLOT001 - a subclass of tuple cannot have a slot
    """The methods that are called for one hook, and the entries that they come from."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Hooks:
        """Return the methods of `entries`."""
        entries = tuple(entries)
        hooks = cls(entry.call for entry in entries)
        hooks.entries = entries
        return hooks


class Watching:
    """The hooks of all observers of one runner. Immutable: each change makes a new object."""

    __slots__ = (*HOOKS, *TEST_HOOKS)

    scheduled: Hooks
    refused: Hooks
    due: Hooks
    moved: Hooks
    started: Hooks
    attempt_ended: Hooks
    ended: Hooks
    scope_changed: Hooks
    drained: Hooks
    holds: Hooks
    settled: Hooks

    def __init__(self, entries: Iterable[Entry]) -> None:
        entries = tuple(entries)
        for name in self.__slots__:
            own = [entry for entry in entries if entry.name == name]
            setattr(self, name, Hooks.of(reversed(own) if name in _ENDS else own))

    async def wait_for_ends(self, scope: object) -> None:
        """Wait as the test tools want, at the barrier and at the end of a scope."""
        for settled in self.settled:
            await settled(scope)


class Telling:
    """Whether an observer runs now, in one thread.

    :ivar now: True if so. Then `schedule()` and `cancel()` go by mail: no observer is called inside itself
    """

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now: bool = False


class _Local(local):
    def __init__(self) -> None:
        self.telling = Telling()


_local = _Local()


def telling_here() -> Telling:
    """Return the `Telling` of this thread: the same for all runners."""
    return _local.telling
