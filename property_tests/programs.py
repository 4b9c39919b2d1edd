"""Random programs: the actions of tasks, scopes and a host, as plain values whose `repr()` rebuilds them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from hypothesis import strategies as st

from property_tests.compact import Compact
from taskphase import Phase
from taskphase._machine.config import When


@dataclass(frozen=True, repr=False)
class Sleep(Compact):
    """Wait for virtual seconds; 0 is a checkpoint."""

    seconds: float = 0


@dataclass(frozen=True, repr=False)
class Hold(Compact):
    """Wait in the program's own cancel scope with `shield=True`."""

    seconds: float = 1


@dataclass(frozen=True, repr=False)
class Cling(Compact):
    """Wait. After a cancellation wait as long again to clean up, and continue as if nothing had happened."""

    seconds: float = 1


@dataclass(frozen=True, repr=False)
class Fail(Compact):
    """Raise `Boom` in the first `attempts` attempts."""

    attempts: int = 99


@dataclass(frozen=True, repr=False)
class Cancel(Compact):
    """Call `cancel()` on the task that was scheduled `back` tasks before the latest one, perhaps on itself."""

    back: int = 0


@dataclass(frozen=True, repr=False)
class Wait(Compact):
    """Wait until the task has ended, for at most one second. A task that waits for itself is refused, and waits all
    the same.
    """

    back: int = 0


@dataclass(frozen=True, repr=False)
class Schedule(Compact):
    task: Spec
    phase: Phase = Phase.IMMEDIATE
    """Without a scope every task is immediate."""


Action: TypeAlias = Sleep | Hold | Cling | Fail | Cancel | Wait | Schedule
Actions: TypeAlias = tuple[Action, ...]


@dataclass(frozen=True, repr=False)
class Handler(Compact):
    """An `on_error` that answers after `seconds`."""

    answer: Literal["return", "raise"] = "return"
    seconds: float = 0
    sync: bool = False


@dataclass(frozen=True, repr=False)
class Policy(Compact):
    """A `retry` that asks for another attempt `retries` times, each after `after` seconds."""

    retries: int = 1
    after: float = 0.5


@dataclass(frozen=True, repr=False)
class Spec(Compact):
    """A task. A `sync` task runs its actions in a thread, where they cannot be cancelled."""

    actions: Actions = ()
    when: When | None = None
    shield: bool | float | None = None
    timeout: float | None = None
    handler: Handler | None = None
    sync: bool = False
    retry: Policy | None = None
    delay: float | None = None
    limited: bool = False
    """Whether the task has the `Limit` of the program."""
    key: str | None = None


@dataclass(frozen=True, repr=False)
class Scope(Compact):
    """A unit of work: opened at the time `at`, with or without a route. It ends by `ending` after its actions."""

    at: float = 0
    route: Actions | None = None
    rest: Actions = ()
    ending: Literal["return", "raise", "cancel"] = "return"


@dataclass(frozen=True, repr=False)
class Program(Compact):
    """A host, its scopes, and the end of its body: when the scopes have ended; or, at the time `at`, by an exception,
    by a cancellation, or because other code closes the host while the scopes continue.
    """

    tasks: tuple[Spec, ...] = ()
    scopes: tuple[Scope, ...] = ()
    ending: Literal["return", "raise", "cancel", "close"] = "return"
    at: float = 0
    drain_timeout: float = 0
    shield_timeout: float | None = None
    max_running: int | None = None
    max_pending: int | None = None
    max_threads: int = 40
    most: int = 1
    limit_pending: int | None = None
    """`most` and `limit_pending` are the parameters of the program's `Limit`."""


SECONDS = st.sampled_from([0, 0.5, 1, 2.5])
BACK = st.integers(0, 3)

_plain = st.one_of(
    st.builds(Sleep, SECONDS),
    st.builds(Fail, st.sampled_from([99, 1, 2])),
    st.builds(Hold, st.sampled_from([0.25, 1])),
    st.builds(Cling, st.sampled_from([0.25, 1])),
    st.builds(Cancel, BACK),
    st.builds(Wait, BACK),
)

handlers = st.builds(
    Handler,
    answer=st.sampled_from(["return", "raise"]),
    seconds=st.sampled_from([0, 0.5]),
    sync=st.booleans(),
)
policies = st.builds(Policy, retries=st.integers(1, 2), after=st.sampled_from([0, 0.5, 2]))


_GATES: dict[str, st.SearchStrategy[Any]] = {
    "delay": st.sampled_from([None, None, 0, 0.5, 2]),
    "limited": st.booleans(),
    "key": st.sampled_from([None, None, "key"]),
}


def specs(depth: int, *, gated: bool = False) -> st.SearchStrategy[Spec]:
    """Return tasks that schedule other tasks, up to `depth` levels below them.

    :param gated: whether tasks may have delays, limits and keys
    """
    actions = _plain if depth == 0 else st.one_of(_plain, _plain, schedules(depth - 1, gated=gated))
    return st.builds(
        Spec,
        actions=st.lists(actions, max_size=3).map(tuple),
        when=st.sampled_from([None, None, "success", "failure", "always"]),
        shield=st.sampled_from([None, False, True, True, 1.3]),
        timeout=st.sampled_from([None, None, None, 0, 0.75, 2]),
        handler=st.none() | handlers,
        retry=st.none() | policies,
        sync=st.sampled_from([False, False, False, True]),
        **(_GATES if gated else {}),
    )


def schedules(depth: int, *, gated: bool = False) -> st.SearchStrategy[Schedule]:
    return st.builds(Schedule, specs(depth, gated=gated), st.sampled_from(Phase))


def _scopes(*, gated: bool) -> st.SearchStrategy[Scope]:
    some = schedules(1, gated=gated)
    in_scopes = st.one_of(some, some, st.builds(Sleep, SECONDS), st.builds(Cancel, BACK))
    route = st.tuples(st.lists(in_scopes, max_size=3), st.sampled_from([(), (), (), (Fail(),)])).map(
        lambda parts: (*parts[0], *parts[1])
    )
    return st.builds(
        Scope,
        at=st.sampled_from([0, 0, 0.5, 2]),
        route=st.none() | route,
        rest=st.lists(in_scopes, max_size=2).map(tuple),
        ending=st.sampled_from(["return", "return", "raise", "cancel"]),
    )


def _programs(*, gated: bool, tasks: int, **more: st.SearchStrategy[Any]) -> st.SearchStrategy[Program]:
    return st.builds(
        Program,
        tasks=st.lists(specs(1, gated=gated), max_size=tasks).map(tuple),
        scopes=st.lists(_scopes(gated=gated), max_size=2).map(tuple),
        ending=st.sampled_from(["return", "raise", "cancel", "close"]),
        at=st.sampled_from([0, 0.75, 3]),
        drain_timeout=st.sampled_from([0, 0, 0.6, 5]),
        shield_timeout=st.sampled_from([None, None, 0, 0.4, 3]),
        max_running=st.sampled_from([None, None, 1, 2]),
        max_pending=st.sampled_from([None, None, None, 1]),
        max_threads=st.sampled_from([40, 1]),
        **more,
    )


programs = _programs(gated=False, tasks=2)
gated_programs = _programs(
    gated=True, tasks=3, most=st.sampled_from([1, 2]), limit_pending=st.sampled_from([None, None, 0, 1])
)
"""Programs whose tasks may have delays, limits and keys."""


def specs_in(program: Program) -> Iterator[Spec]:
    """Yield every task that the program may schedule."""
    for spec in program.tasks:
        yield spec
        yield from _specs_in(spec.actions)
    for scope in program.scopes:
        yield from _specs_in((*(scope.route or ()), *scope.rest))


def _specs_in(actions: Sequence[Action]) -> Iterator[Spec]:
    for action in actions:
        if isinstance(action, Schedule):
            yield action.task
            yield from _specs_in(action.task.actions)
