"""Random apps: plain descriptions of an app, of its requests and of its tasks.

A description is frozen, and its `repr()` rebuilds it. All times are virtual seconds. Two times whose order matters are
never equal, so the order is never random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from property_tests.compact import Compact
from property_tests.journal import CANCELLED_AT, ROUTE_TAKES


@dataclass(frozen=True, repr=False)
class Plan(Compact):
    """One task: how it is scheduled, what it does, and the tasks that it schedules."""

    phase: str = "immediate"
    when: str | None = None
    does: str = "return"  # or: turns, sleep, sleep long, raise, sync, sync raise
    shield: bool = False
    then: tuple[Plan, ...] = ()


@dataclass(frozen=True, repr=False)
class Dep(Compact):
    """A generator dependency, before or after `tasks` in the parameters. `deep`: a sub-dependency passes `tasks` on."""

    scope: str = "request"
    enter: tuple[Plan, ...] = ()
    leave: tuple[Plan, ...] = ()
    raises: str | None = None  # or: enter, leave
    first: bool = False
    is_def: bool = False
    deep: bool = False


@dataclass(frozen=True, repr=False)
class Client(Compact):
    """A client: the number of messages for which it stays, when its server cancels the call, and whether `send` takes
    turns.
    """

    leaves_after: int | None = None
    cancelled_at: float | None = None
    slow: bool = False


@dataclass(frozen=True, repr=False)
class Route(Compact):
    """One route, requested once. `chunks`: the chunks of a stream, or the frames of a session. `by_hand`: the route
    makes its own `TasksScheduler` and uses it for all its tasks.
    """

    kind: str = "json"
    plans: tuple[Plan, ...] = ()
    deps: tuple[Dep, ...] = ()
    is_def: bool = False
    takes: float = 0
    chunks: int = 2
    breaks: bool = False
    in_stream: tuple[Plan, ...] = ()
    background: str | None = None  # or: fine, raises
    in_background: tuple[Plan, ...] = ()
    client: Client = Client()
    by_hand: bool = False


@dataclass(frozen=True, repr=False)
class Layer(Compact):
    """A middleware, added before or after `add_tasks`. A later middleware is outside of an earlier one."""

    kind: str = "pass"
    late: bool = False


@dataclass(frozen=True, repr=False)
class Described(Compact):
    """An app whose routes are requested at the same time, and its server.

    `stops_at`: None means after all answers. `cancelled`: the server cancels the lifespan instead of requesting a
    shutdown.
    """

    routes: tuple[Route, ...] = (Route(),)
    layers: tuple[Layer, ...] = ()
    place: str = "app"  # or: router, mount, mount both (each with tasks)
    override: bool = False
    one_slot: bool = False
    # or: none, after lifespan, elsewhere (in another thread), hold, hold in lifespan, never (no tasks)
    mode: str = "lifespan"
    when: str | None = None  # for all tasks of the app
    patience: float = 1000
    stops_at: float | None = None
    cancelled: bool = False


# Strategies. They leave out, with the reason:
# - a function-scope dependency that swallows the exception of its route: README, "What is not promised"
# - a `def` route that takes time while its call is cancelled: whether the route fails depends on whether FastAPI
#   reaches a checkpoint after the thread, which differs from response to response

STREAMS = ("stream", "sync stream", "events")
FAILING = ("http error", "handled", "unhandled", "invalid request", "invalid response")
ANSWERS = ("json", "rendered", "response", "file", "pathsend", "redirect", "empty", "head")
SESSIONS = ("ws return", "ws close", "ws raise", "ws left", "ws caught", "ws refused")
WITH_BACKGROUND = (*STREAMS, "response", "head", "redirect", "file", "pathsend")
BACKGROUNDS = (None, "fine", "raises")
DOES = ("return", "turns", "sleep", "raise", "sync", "sync raise", "sleep long")
WHENS = (None, "always", "failure", "success")
LAYERS = ("pass", "base", "gzip", "buffer", "linger")
ROUGH_LAYERS = (*LAYERS, *LAYERS, "raise before", "raise after", "gives up", "gives up at start", "answers")

leaves = st.builds(
    Plan,
    phase=st.sampled_from(["immediate", "after_route", "after_response"]),
    when=st.sampled_from(WHENS),
    does=st.sampled_from(DOES),
    shield=st.booleans(),
)


def _with_children(plan: Plan, then: list[Plan]) -> Plan:
    return Plan(plan.phase, plan.when, plan.does, plan.shield, tuple(then))


parents = st.builds(_with_children, leaves, st.lists(leaves, min_size=1, max_size=2))
plans = leaves | leaves | parents | st.builds(_with_children, leaves, st.lists(parents, min_size=1, max_size=2))
some_plans = st.lists(plans, max_size=2).map(tuple)
many_plans = st.lists(plans, min_size=1, max_size=5).map(tuple)
# A dependency that schedules nothing, and takes no `tasks`, may be entered earlier.
dep_plans = st.just(()) | some_plans
deps = st.builds(
    Dep,
    scope=st.sampled_from(["request", "function"]),
    enter=dep_plans,
    leave=dep_plans,
    first=st.booleans(),
    is_def=st.booleans(),
    deep=st.booleans(),
)
clients = st.builds(Client, slow=st.booleans())
rough_clients = st.builds(Client, st.none() | st.integers(0, 3)) | st.builds(Client, cancelled_at=st.just(CANCELLED_AT))
rough_deps = st.builds(
    Dep,
    scope=st.sampled_from(["request", "function"]),
    enter=dep_plans,
    leave=dep_plans,
    raises=st.sampled_from([None, "enter", "leave"]),
    first=st.booleans(),
)


@st.composite
def routes(
    draw: st.DrawFn, kinds: tuple[str, ...], deps: st.SearchStrategy[Dep] = deps, *, rough: bool = False
) -> Route:
    """Return routes of these kinds. `rough`: the route may take time, and its client may leave or be cut off."""
    kind = draw(st.sampled_from(kinds))
    streams, is_session = kind in STREAMS, kind in SESSIONS
    background = draw(st.sampled_from(BACKGROUNDS)) if kind in WITH_BACKGROUND else None
    takes = ROUTE_TAKES if rough and not is_session and draw(st.booleans()) else 0
    return Route(
        kind=kind,
        plans=draw(many_plans),
        deps=tuple(draw(st.lists(deps, max_size=2))),
        is_def=not is_session and not takes and draw(st.booleans()),
        takes=takes,
        chunks=draw(st.integers(0, 5)) if streams or is_session else 0,
        breaks=streams and draw(st.booleans()),
        in_stream=draw(some_plans) if streams else (),
        background=background,
        in_background=draw(some_plans) if background else (),
        client=Client() if is_session else draw(rough_clients if rough else clients),
        by_hand=draw(st.booleans()),
    )


def layers(kinds: tuple[str, ...]) -> st.SearchStrategy[tuple[Layer, ...]]:
    """Return stacks of up to three of these layers."""
    return st.lists(st.builds(Layer, st.sampled_from(kinds), st.booleans()), max_size=3).map(tuple)


def apps(routes: st.SearchStrategy[Route], most: int = 1, **more: Any) -> st.SearchStrategy[Described]:
    """Return apps with these routes, in every place."""
    return st.builds(
        Described,
        routes=st.lists(routes, min_size=1, max_size=most).map(tuple),
        place=st.sampled_from(["app", "router", "mount", "mount both"]),
        override=st.booleans(),
        **{"layers": layers(LAYERS), "one_slot": st.booleans(), "when": st.sampled_from(WHENS), **more},
    )
