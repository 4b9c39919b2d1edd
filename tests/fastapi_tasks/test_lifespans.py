"""G9, G13, G14: several lifespans of one app, in one event loop, in several loops, in several threads."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import pytest
from fastapi import FastAPI, WebSocket
from fastapi.testclient import TestClient
from tests import wire
from tests.backends import turns, until
from tests.fastapi_tasks.apps import FEW, Journal, host_of

from fastapi_tasks import NoCurrentError, Tasks, TasksClosedError, TaskStatus, add_tasks, current_host
from taskphase import TaskHost

Warned = Callable[[], list[str]]


def app_of(journal: Journal, hosts: list[TaskHost], **settings: Any) -> FastAPI:
    """Return an app whose endpoint keeps its host, and schedules slow tasks."""

    async def endpoint(tasks: Tasks) -> None:
        hosts.append(current_host())
        journal.each_phase(tasks)
        tasks.after_response.schedule(journal.note_late, "ended")

    async def session(websocket: WebSocket, tasks: Tasks) -> None:
        hosts.append(current_host())
        await websocket.accept()
        journal.each_phase(tasks)
        tasks.after_response.schedule(journal.note_late, "ended")

    app = FastAPI()
    add_tasks(app, drain_timeout=5, **settings)
    app.add_api_route("/", endpoint)
    app.add_api_websocket_route("/session", session)
    return app


async def alone(app: FastAPI, journal: Journal) -> None:
    """Check that a request and a session behave as without a lifespan: they wait for their tasks."""
    journal.clear()
    assert (await wire.request(app, events=journal)).status == 200
    assert journal.without("immediate") == ["after_route", "start", "final", "after_response", "ended", "returned"]
    journal.clear()
    async with wire.websocket(app, "/session", events=journal) as session:
        await session.wait()
    assert journal.without("immediate") == ["accept", "after_route", "after_response", "ended", "returned"]


class TestLoops:
    """On asyncio, a thread can have several event loops, of which one runs at a time."""

    @staticmethod
    @contextmanager
    def lifespan_in(loop: asyncio.AbstractEventLoop, app: FastAPI) -> Iterator[None]:
        """Run the lifespan in this loop, which runs only during other calls."""

        async def run(opened: asyncio.Future[None], end: asyncio.Event) -> None:
            async with wire.lifespan(app):
                opened.set_result(None)
                await end.wait()

        opened, end = loop.create_future(), asyncio.Event()
        task = loop.create_task(run(opened, end))
        loop.run_until_complete(opened)
        try:
            yield
        finally:
            end.set()
            loop.run_until_complete(task)

    @staticmethod
    @contextmanager
    def loops(count: int, use_uvloop: bool) -> Iterator[list[asyncio.AbstractEventLoop]]:
        if use_uvloop:
            uvloop = pytest.importorskip("uvloop")
            made = [uvloop.new_event_loop() for _ in range(count)]
        else:
            made = [asyncio.new_event_loop() for _ in range(count)]
        try:
            yield made
        finally:
            for loop in made:
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.close()

    @pytest.mark.parametrize("use_uvloop", [False, True], ids=["asyncio", "uvloop"])
    @pytest.mark.parametrize("hold", [False, True], ids=["", "hold"])
    def test_a_request_in_another_loop_of_the_same_thread_waits_for_its_tasks_g13(
        self, journal: Journal, warned: Warned, use_uvloop: bool, hold: bool
    ) -> None:
        """As in the tests of pytest-asyncio, where a fixture of the session has entered the lifespan."""
        hosts: list[TaskHost] = []
        app = app_of(journal, hosts, hold=hold)
        with self.loops(2, use_uvloop) as (session_loop, test_loop), self.lifespan_in(session_loop, app):
            for _ in range(2):
                test_loop.run_until_complete(alone(app, journal))
            assert len(warned()) == (0 if hold else 1)
        assert len(set(hosts)) == 4

    @pytest.mark.parametrize("use_uvloop", [False, True], ids=["asyncio", "uvloop"])
    def test_lifespans_in_two_loops_of_a_thread_each_have_the_requests_of_their_loop_g13(
        self, journal: Journal, warned: Warned, use_uvloop: bool
    ) -> None:
        hosts: list[TaskHost] = []
        app = app_of(journal, hosts)
        with self.loops(2, use_uvloop) as loops:
            stacks = [ExitStack() for _ in loops]
            for loop, stack in zip(loops, stacks, strict=True):
                stack.enter_context(self.lifespan_in(loop, app))
            for _ in range(2):
                for loop in loops:
                    loop.run_until_complete(wire.request(app))
            first, second, *again = hosts
            assert first is not second
            assert again == [first, second]
            stacks[0].close()
            loops[1].run_until_complete(wire.request(app))
            assert hosts[-1] is second
            assert warned() == []
            loops[0].run_until_complete(alone(app, journal))
            stacks[1].close()
        assert len(warned()) == 1

    @pytest.mark.parametrize("outer", ["asyncio", "trio"])
    @pytest.mark.parametrize("inner", ["asyncio", "trio"])
    def test_a_request_in_the_loop_of_another_thread_waits_for_its_own_tasks_g13(
        self, journal: Journal, warned: Warned, outer: str, inner: str
    ) -> None:
        async def outside() -> None:
            async with wire.lifespan(app) as state:
                await wire.request(app, state=state)
                await until(lambda: "ended" in journal)
                await anyio.to_thread.run_sync(partial(anyio.run, alone, app, journal, backend=inner))
                await wire.request(app, state=state)

        hosts: list[TaskHost] = []
        app = app_of(journal, hosts)
        anyio.run(outside, backend=outer)
        assert hosts[0] is hosts[-1]
        assert len(set(hosts)) == 3
        assert len(warned()) == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
class TestThreads:
    def test_each_of_several_test_clients_has_the_host_of_its_own_lifespan_g13(
        self, journal: Journal, warned: Warned, backend: Any
    ) -> None:
        """A lifespan of a session-scoped fixture, another of one test, and a test without any lifespan."""
        hosts: list[TaskHost] = []
        app = app_of(journal, hosts, max_running=1)
        with TestClient(app, backend=backend) as first:
            first.get("/")
            with TestClient(app, backend=backend) as second:
                for client in (second, first):
                    client.get("/")
            first.get("/")
            assert warned() == []
            TestClient(app, backend=backend).get("/")
        a, b, again, later, alone = hosts
        assert a is again is later
        assert len({a, b, alone}) == 3
        assert len(warned()) == 1
        assert journal.count("ended") == 5

    @pytest.mark.parametrize("first_ends", [0, 1])
    def test_whichever_lifespan_ends_first_the_other_keeps_its_host_g13(
        self, journal: Journal, warned: Warned, backend: Any, first_ends: int
    ) -> None:
        hosts: list[TaskHost] = []
        app = app_of(journal, hosts)
        stacks = [ExitStack(), ExitStack()]
        clients = [stack.enter_context(TestClient(app, backend=backend)) for stack in stacks]
        for client in clients:
            client.get("/")
        stacks[first_ends].close()
        other = 1 - first_ends
        clients[other].get("/")
        assert hosts[-1] is hosts[other]
        stacks[other].close()
        assert warned() == []

    def test_a_lifespan_that_ends_in_another_thread_hides_no_other_lifespan_g13(
        self, journal: Journal, warned: Warned, backend: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At the moment when a request looks for its host."""
        hosts: list[TaskHost] = []
        app = app_of(journal, hosts)
        other = ExitStack()
        other.enter_context(TestClient(app, backend=backend))
        runs_here = TaskHost.runs_here

        def look(host: TaskHost) -> bool:
            monkeypatch.undo()
            in_thread = threading.Thread(target=other.close)
            in_thread.start()
            in_thread.join()
            return runs_here(host)

        with TestClient(app, backend=backend) as client:
            client.get("/")
            monkeypatch.setattr(TaskHost, "runs_here", look)
            client.get("/")
        assert hosts[0] is hosts[1]


class TestOneLoop:
    """Several lifespans in one event loop: two servers of one program."""

    @dataclass
    class Opened:
        state: Any
        end: anyio.Event = field(default_factory=anyio.Event)
        ended: anyio.Event = field(default_factory=anyio.Event)

    async def run(self, app: FastAPI, *, task_status: Any) -> None:
        async with wire.lifespan(app) as state:
            opened = self.Opened(state)
            task_status.started(opened)
            await opened.end.wait()
        opened.ended.set()

    @staticmethod
    @asynccontextmanager
    async def opened(app: FastAPI, count: int = 2) -> AsyncIterator[tuple[list[AsyncExitStack], list[Any]]]:
        async with AsyncExitStack() as all_of_them:
            stacks = [await all_of_them.enter_async_context(AsyncExitStack()) for _ in range(count)]
            yield stacks, [await stack.enter_async_context(wire.lifespan(app)) for stack in stacks]

    async def test_the_state_tells_a_request_which_lifespan_is_its_own_g13(
        self, journal: Journal, warned: Warned
    ) -> None:
        hosts: list[TaskHost] = []
        app = app_of(journal, hosts)
        async with self.opened(app, 3) as (_, states):
            for state in (*states, *reversed(states)):
                await wire.request(app, state=state)
                async with wire.websocket(app, "/session", state=state) as session:
                    await session.wait()
            wanted = [state["fastapi_tasks_host"] for state in (*states, *reversed(states)) for _ in range(2)]
            assert hosts == wanted
            assert len(set(hosts)) == 3
        assert warned() == []

    async def test_a_request_without_state_finds_the_lifespan_opened_last_g13(
        self, journal: Journal, warned: Warned
    ) -> None:
        hosts: list[TaskHost] = []
        app = app_of(journal, hosts)
        async with self.opened(app, 3) as (_, states):
            for state in (None, {}, {"fastapi_tasks_host": "another"}, {"x": 1}):
                await wire.request(app, state=state)
            assert hosts == [states[-1]["fastapi_tasks_host"]] * 4
        assert warned() == []

    @pytest.mark.parametrize("first_ends", [0, 1])
    async def test_whichever_lifespan_ends_first_the_other_has_the_requests_without_state_g13(
        self, journal: Journal, warned: Warned, first_ends: int
    ) -> None:
        hosts: list[TaskHost] = []
        app = app_of(journal, hosts)
        async with anyio.create_task_group() as tg:
            opened = [await tg.start(self.run, app) for _ in range(2)]
            opened[first_ends].end.set()
            await opened[first_ends].ended.wait()
            left = opened[1 - first_ends]
            for state in (left.state, None, {}):
                await wire.request(app, state=state)
            assert hosts == [left.state["fastapi_tasks_host"]] * 3
            left.end.set()
        assert warned() == []

    @pytest.mark.parametrize("drains", [0, 1])
    async def test_a_host_that_drains_takes_its_own_requests_and_no_others_g9_g13(
        self, journal: Journal, warned: Warned, drains: int
    ) -> None:
        """A request whose state names that lifespan is refused. A request without state goes to the other lifespan."""

        async def work() -> None:
            began.set()
            await go_on.wait()

        async def hold_open() -> None:
            async with wire.lifespan(app) as state:
                states[drains] = state
                host_of(app).task(shield=True).schedule(work)
                await began.wait()

        began, go_on = anyio.Event(), anyio.Event()
        hosts: list[TaskHost] = []
        app = FastAPI()
        add_tasks(app)

        @app.get("/")
        async def endpoint(tasks: Tasks) -> None:
            hosts.append(current_host())
            tasks.schedule(turns)

        states: list[Any] = [None, None]
        async with anyio.create_task_group() as tg, AsyncExitStack() as stack:
            if drains == 0:
                tg.start_soon(hold_open)
                await began.wait()
            states[1 - drains] = await stack.enter_async_context(wire.lifespan(app))
            if drains == 1:
                tg.start_soon(hold_open)
                await began.wait()
            closing, open_ = (states[at]["fastapi_tasks_host"] for at in (drains, 1 - drains))
            await until(closing.closing.is_set)
            await turns(FEW)
            responses = [await wire.request(app, state=state) for state in (None, states[1 - drains], states[drains])]
            go_on.set()
        assert [response.status for response in responses] == [200, 200, 500]
        assert hosts == [open_, open_, closing]
        assert isinstance(responses[-1].raised, TasksClosedError)
        assert warned() == []

    async def test_the_only_host_refuses_while_it_drains_and_no_request_host_opens_g9_g13(
        self, journal: Journal, warned: Warned
    ) -> None:
        async def get(state: Any) -> None:
            await until(host_of(app).closing.is_set)
            await turns(FEW)
            responses.append(await wire.request(app, state=state))
            go_on.set()

        go_on = anyio.Event()
        responses: list[wire.Response] = []
        app = FastAPI()
        add_tasks(app)

        @app.get("/")
        async def endpoint(tasks: Tasks) -> None:
            tasks.schedule(turns)

        async with anyio.create_task_group() as tg, wire.lifespan(app) as state:
            assert state is not None
            host_of(app).task(shield=True).schedule(go_on.wait)
            tg.start_soon(get, state)
        assert isinstance(responses[0].raised, TasksClosedError)
        assert warned() == []

    async def test_hold_keeps_the_tasks_of_each_request_whatever_lifespans_run_g13(
        self, journal: Journal, warned: Warned
    ) -> None:
        hosts: list[TaskHost] = []
        app = app_of(journal, hosts, hold=True)
        async with self.opened(app) as (_, states):
            for state in (*states, None):
                journal.clear()
                assert (await wire.request(app, state=state, events=journal)).status == 200
                assert journal[-3:] == ["after_response", "ended", "returned"]
            assert len({*hosts, *(state["fastapi_tasks_host"] for state in states)}) == 5
        assert warned() == []

    async def test_the_end_of_one_lifespan_drains_no_request_while_another_one_runs_g13(self, journal: Journal) -> None:
        async def endpoint(tasks: Tasks) -> None:
            journal.append("began")
            await go_on.wait()
            tasks.after_response.schedule(journal.note_late, "ended")

        go_on = anyio.Event()
        app = FastAPI()
        add_tasks(app, hold=True)
        app.add_api_route("/", endpoint)
        async with anyio.create_task_group() as tg:
            opened = [await tg.start(self.run, app) for _ in range(2)]
            tg.start_soon(partial(wire.request, app, events=journal))
            await until(lambda: "began" in journal)
            opened[0].end.set()
            await opened[0].ended.wait()
            go_on.set()
            await until(lambda: "returned" in journal)
            opened[1].end.set()
        assert journal == ["began", "start", "final", "ended", "returned"]

    async def test_a_failed_startup_takes_no_host_away_from_another_lifespan_g10_g13(self, journal: Journal) -> None:
        @asynccontextmanager
        async def lifespan(_: Any) -> AsyncIterator[None]:
            if started:
                raise LookupError("no database")
            started.append(current_host())
            yield

        started: list[TaskHost] = []
        hosts: list[TaskHost] = []
        app = FastAPI(lifespan=lifespan)
        add_tasks(app)

        @app.get("/")
        async def endpoint(tasks: Tasks) -> None:
            hosts.append(current_host())

        async with wire.lifespan(app):
            with pytest.raises(RuntimeError, match="no database"):
                async with wire.lifespan(app):
                    raise AssertionError("it has not started")
            await wire.request(app)
        assert hosts == started

    async def test_each_of_several_lifespans_drains_its_own_tasks_g2_g9_g13(self, journal: Journal) -> None:
        app = FastAPI()
        add_tasks(app)
        tasks_of: list[Any] = []

        @app.get("/")
        async def endpoint(tasks: Tasks) -> None:
            tasks_of.append(tasks.schedule(anyio.sleep_forever))

        async with self.opened(app) as (stacks, states):
            for state in states:
                await wire.request(app, state=state)
            await turns(FEW)
            await stacks[1].aclose()
            assert [task.status for task in tasks_of] == [TaskStatus.RUNNING, TaskStatus.CANCELLED]
        assert tasks_of[0].status is TaskStatus.CANCELLED


class TestOfTheRouter:
    """`app.router.lifespan_context(app)` runs only the user's lifespan, not the app's."""

    async def test_current_host_says_there_what_to_do_instead_g13(self) -> None:
        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            current_host().schedule(turns)
            yield

        app = FastAPI(lifespan=lifespan)
        add_tasks(app)
        with pytest.raises(NoCurrentError) as raised:
            async with app.router.lifespan_context(app):
                raise AssertionError("it has not started")
        assert "The host opens when the app itself is called" in str(raised.value)
        assert "`app.router.lifespan_context(app)` does not" in str(raised.value)

    async def test_a_request_beside_a_lifespan_of_the_router_has_no_lifespan_g13(
        self, journal: Journal, warned: Warned
    ) -> None:
        app = app_of(journal, [])
        async with app.router.lifespan_context(app):
            await alone(app, journal)
        assert len(warned()) == 1

    async def test_the_lifespan_of_a_mounted_app_finds_the_host_of_the_app_g13_g14(self) -> None:
        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            found.append(current_host())
            yield

        @asynccontextmanager
        async def of_the_parent(_: FastAPI) -> AsyncIterator[None]:
            async with child.router.lifespan_context(child):
                yield

        found: list[Any] = []
        child, parent = FastAPI(lifespan=lifespan), FastAPI(lifespan=of_the_parent)
        parent.mount("/child", child)
        add_tasks(parent)
        async with wire.lifespan(parent) as state:
            assert state is not None
            assert found == [host_of(parent)]
