"""Random apps under the strict server: the phases on the wire, G1 to G13.

Everything is simulated: no real time passes, and worker threads take part. On asyncio the order is first in, first out,
which the phases need there. On trio every task that is runnable at the begin of a turn steps before tasks that become
runnable later; the order within a turn is random.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from threading import get_ident
from typing import Any

import anyio
import pytest
import trio
from anyio.from_thread import start_blocking_portal
from hypothesis import example, given
from hypothesis import strategies as st
from tests import wire

from fastapi_tasks import FastAPITasksUninitializedAppError
from fastapi_tasks._installation import Installation
from property_tests import apps, building
from property_tests.apps import Described, Layer, Plan, Route
from property_tests.building import Builder
from property_tests.forgetting import forget_apps
from property_tests.journal import FOR_EVER, Journal, Wire
from property_tests.wire_model import check
from taskphase.testing import Fifo, RandomWalk, simulate

# Starlette leaves the generator of an interrupted stream to the garbage collector, and trio warns about that.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'starlette:ResourceWarning")

backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])
seeds = st.integers(0, 1000)

# Virtual seconds: more than all tasks together take. A call that holds tasks waits for them.
LONG = 500.0


@pytest.fixture(autouse=True)
def no_garbage_is_left() -> Iterator[None]:
    """Collect Starlette's garbage here, not during another test."""
    yield
    gc.collect()


def run(described: Described, backend: Any, seed: int, *, quiet: bool = False) -> Journal:
    """Serve the app, request each of its routes, and shut down; return the journal."""
    journal = Journal(described, quiet)
    policy = Fifo() if seed == 0 or backend == "asyncio" else RandomWalk(seed)
    Installation.has_warned = False  # as in a new process
    app = Builder(described, journal).app()
    with journal.logs(), _lifespan_elsewhere(app) if described.mode == "elsewhere" else nullcontext():
        simulate(lambda: _serve(app, journal), backend=backend, policy=policy, turns=backend == "trio").result()
    forget_apps()
    return journal


@contextmanager
def _lifespan_elsewhere(app: Any) -> Iterator[None]:
    """Run the lifespan in an event loop of another thread, like a `TestClient` whose app a second client requests."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(wire.lifespan(app, timeout=LONG)):
        yield


def _clock() -> Callable[[], float]:
    """Return the clock of the running event loop, for any thread."""
    if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
        return asyncio.get_running_loop().time
    return trio.lowlevel.current_clock().current_time


async def _serve(app: Any, journal: Journal) -> None:
    clock, start = _clock(), anyio.current_time()
    journal.clock, journal.thread = lambda: clock() - start, get_ident()
    if journal.described.mode in {"lifespan", "hold in lifespan"}:
        await _live(app, journal)
    else:
        if journal.described.mode == "after lifespan":
            async with wire.lifespan(app, timeout=LONG):
                pass
        await _ask_all(app, journal, None)


async def _live(app: Any, journal: Journal) -> None:
    """Run the lifespan. It may end before the requests, and by a cancellation."""
    stops_at = journal.described.stops_at
    async with anyio.create_task_group() as requests:
        with anyio.CancelScope() as server:
            async with wire.lifespan(app, timeout=LONG) as state:
                if stops_at is None:
                    await _ask_all(app, journal, state)
                else:
                    requests.start_soon(_ask_all, app, journal, state)
                    await anyio.sleep(stops_at)
                journal.note(-1, "stop")
                if journal.described.cancelled:
                    server.cancel()
                    await anyio.lowlevel.checkpoint()


async def _ask_all(app: Any, journal: Journal, state: Any) -> None:
    async with anyio.create_task_group() as requests:
        for request in range(len(journal.described.routes)):
            requests.start_soon(_ask, app, journal, request, state)


async def _ask(app: Any, journal: Journal, request: int, state: Any) -> None:
    route = journal.described.routes[request]
    path = f"/{request}" if not journal.described.place.startswith("mount") else f"/sub/{request}"
    events = Wire(journal, request)
    if route.kind in apps.SESSIONS:
        await _talk(app, path, route, events, state)
        return

    async def take_turns(message: Any) -> None:
        with anyio.CancelScope(shield=True):  # a message that was taken is sent
            await anyio.lowlevel.checkpoint()
        journal.note(request, "sent")

    deadline = None if route.client.cancelled_at is None else anyio.current_time() + route.client.cancelled_at
    with anyio.CancelScope(deadline=LONG * 10 if deadline is None else deadline):
        journal.answers[request] = await wire.request(
            app,
            "HEAD" if route.kind == "head" else "GET",
            path,
            headers=building.HEADERS,
            state=state,
            events=events,
            extensions=building.PATHSEND if route.kind == "pathsend" else None,
            disconnect_after=route.client.leaves_after,
            on_send=take_turns if route.client.slow else None,
            timeout=LONG,
        )


async def _talk(app: Any, path: str, route: Route, events: Wire, state: Any) -> None:
    async with wire.websocket(app, path, events=events, state=state, timeout=LONG) as session:
        try:
            await session.accept()
            for _ in range(route.chunks):
                await session.send("frame")
                await session.receive()
            if route.kind not in {"ws left", "ws caught"}:
                await session.wait()
        except (wire.Denied, wire.Closed):
            pass


def holds(described: Described, backend: Any, seed: int) -> Journal:
    """Run the app, and check every guarantee that is visible."""
    journal = run(described, backend, seed)
    check(journal, backend)
    return journal


HTTP = apps.ANSWERS + apps.STREAMS
ANY = apps.layers(apps.ROUGH_LAYERS)


@backends
@given(described=apps.apps(apps.routes(HTTP)), seed=seeds)
def test_each_phase_comes_at_its_time_in_any_app_g1_g2_g6_g12(described: Described, backend: str, seed: int) -> None:
    holds(described, backend, seed)


@backends
@given(described=apps.apps(apps.routes(apps.FAILING + apps.ANSWERS, apps.rough_deps | apps.deps)), seed=seeds)
def test_a_deferred_task_runs_or_is_dropped_as_the_route_ends_g1_g5(
    described: Described, backend: str, seed: int
) -> None:
    holds(described, backend, seed)


# A cancelled barrier once lost the first message, and the next message then had no barrier.
BARRIER_CANCELLED = Described(
    routes=(
        Route(
            plans=(Plan("after_route", "always", then=(Plan(then=(Plan(then=(Plan(then=(Plan(),)),)),)),)),),
            takes=2.0,
            chunks=0,
        ),
    ),
    layers=(Layer("gives up"), Layer("gives up at start")),
)


@backends
@example(described=BARRIER_CANCELLED, seed=0)
@given(described=apps.apps(apps.routes(HTTP + apps.FAILING, rough=True), layers=ANY), seed=seeds)
def test_no_middleware_and_no_client_cancels_or_hurries_a_task_g1_g11(
    described: Described, backend: str, seed: int
) -> None:
    holds(described, backend, seed)


@backends
@given(described=apps.apps(apps.routes(apps.STREAMS, rough=True)), seed=seeds)
def test_what_a_stream_schedules_starts_at_once_or_when_it_is_over_g1_g11(
    described: Described, backend: str, seed: int
) -> None:
    holds(described, backend, seed)


@backends
@given(described=apps.apps(apps.routes(apps.SESSIONS, apps.rough_deps | apps.deps)), seed=seeds)
def test_a_websocket_session_is_a_route_g1_g5_g12(described: Described, backend: str, seed: int) -> None:
    holds(described, backend, seed)


@backends
@given(
    described=apps.apps(apps.routes(HTTP + apps.FAILING + apps.SESSIONS, rough=True), most=3, layers=ANY), seed=seeds
)
def test_each_of_several_requests_is_served_as_if_it_were_alone_g3(
    described: Described, backend: str, seed: int
) -> None:
    holds(described, backend, seed)


DRAINS = {
    "patience": st.sampled_from([0, 0.7, 1.3, FOR_EVER]),
    "stops_at": st.sampled_from([None, 0.3, 1.2]),
    "cancelled": st.booleans(),
}


@backends
@given(described=apps.apps(apps.routes(HTTP + apps.SESSIONS, rough=True), most=2, **DRAINS), seed=seeds)
def test_a_drain_spares_the_shielded_and_ends_before_any_shutdown_g9_g10(
    described: Described, backend: str, seed: int
) -> None:
    holds(described, backend, seed)


MODES = st.sampled_from(["none", "after lifespan", "elsewhere", "hold", "hold in lifespan"])


@backends
@given(
    described=apps.apps(
        apps.routes(HTTP + apps.FAILING + apps.SESSIONS, apps.rough_deps | apps.deps, rough=True),
        most=2,
        layers=ANY,
        mode=MODES,
    ),
    seed=seeds,
)
def test_without_a_lifespan_the_call_lasts_until_its_tasks_have_ended_g1_g13(
    described: Described, backend: str, seed: int
) -> None:
    holds(described, backend, seed)


@backends
@given(described=apps.apps(apps.routes(HTTP), mode=st.just("never")), seed=seeds)
def test_without_add_tasks_the_error_says_to_call_add_tasks_g13(described: Described, backend: str, seed: int) -> None:
    journal = run(described, backend, seed)
    (answer,) = journal.answers.values()
    assert answer.status == 500
    with pytest.raises(FastAPITasksUninitializedAppError, match=r"call add_tasks\(app\)"):
        raise answer.raised
    assert not journal.made


# The cancelled message would also have been sent before its tasks.
MESSAGE_CANCELLED = Described(
    routes=(Route(kind="file", plans=(Plan(), Plan(), Plan(does="turns", then=(Plan(),))), chunks=0),),
    layers=(Layer("gives up at start"),),
)


@backends
@example(described=MESSAGE_CANCELLED, seed=0)
@given(described=apps.apps(apps.routes(HTTP + apps.FAILING, apps.rough_deps), layers=ANY), seed=seeds)
def test_what_tasks_do_changes_no_response_g3(described: Described, backend: str, seed: int) -> None:
    busy, idle = holds(described, backend, seed), run(described, backend, seed, quiet=True)
    assert wire_of(busy) == wire_of(idle), "G3: the tasks changed the response, or delayed it"


def wire_of(journal: Journal) -> dict[int, Any]:
    """Return the messages that the client of each request received, with their times."""
    got = {}
    for request, answer in journal.answers.items():
        packed = (b"content-encoding", b"gzip") in answer.headers
        body = gzip.decompress(answer.body) if packed and answer.complete else answer.body
        times = [note.time for note in journal.notes if (note.request, note.what) == (request, "wire")]
        got[request] = answer.status, body, type(answer.raised), answer.complete, times
    return got
