"""G4, G5, G12, G16, and `fastapi_tasks.testing`: the recorded tasks of an app, with any client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any

import anyio
import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from tests import wire
from tests.backends import ASYNCIO, MOVABLE, TRIO, turns
from tests.fastapi_tasks.apps import ASYNC_AND_DEF, Journal, app_with_tasks, serving, taking_pushes

from fastapi_tasks import Task, TaskHost, Tasks, TaskStatus, add_tasks, current_host, retry
from fastapi_tasks._app import installation_of
from fastapi_tasks.errors import FastAPITasksUninitializedAppError
from fastapi_tasks.testing import JumpClock, UnexpectedFailures, record_tasks
from taskphase._drive import watching

HOUR = 3600.0

each_backend = pytest.mark.parametrize("backend", [*ASYNCIO, *TRIO])


async def send(to: str) -> str:
    await turns(3)
    return f"to {to}"


async def deliver() -> None:
    raise ConnectionError("no answer")


async def follow(to: str) -> None:
    current_host().schedule(send, f"{to}'s friend")


def app_of_mails(**settings: Any) -> FastAPI:
    app = FastAPI()
    add_tasks(app, **settings)

    @app.post("/users/{name}")
    async def create(name: str, tasks: Tasks) -> None:
        tasks.schedule(follow, name)
        tasks.after_route.schedule(send, name)
        tasks.after_response.schedule(send, f"{name} later")
        if name == "nobody":
            raise HTTPException(404)

    @app.post("/def/{name}")
    def create_in_thread(name: str, tasks: Tasks) -> None:
        tasks.after_response.schedule(send, name)
        current_host().schedule(send, f"{name} by the host")

    @app.post("/hooks")
    async def hook(tasks: Tasks) -> None:
        again = retry(attempts=2, backoff=HOUR, jitter=False)
        tasks.task(retry=again).after_response.schedule(deliver)

    return app


@contextmanager
def client_of(app: FastAPI, backend: Any, *, lifespan: bool = True) -> Iterator[TestClient]:
    client = TestClient(app, backend=backend[0], backend_options=dict(backend[1]))
    if not lifespan:
        yield client
        return
    with client:
        yield client


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert watching._everywhere == []


class TestClients:
    @each_backend
    @pytest.mark.parametrize("lifespan", [True, False])
    @pytest.mark.parametrize("hold", [True, False])
    def test_a_sync_test_waits_for_the_tasks_of_its_requests_g13(
        self, backend: Any, lifespan: bool, hold: bool
    ) -> None:
        app = app_of_mails(hold=hold)
        with client_of(app, backend, lifespan=lifespan) as client, record_tasks(app) as tasks:
            for name in ("ada", "bob"):
                assert client.post(f"/users/{name}").status_code == 200
                assert client.post(f"/def/{name}").status_code == 200
                tasks.wait_all()
                assert {task.status for task in tasks} == {TaskStatus.SUCCEEDED}
                tasks.after_route.assert_scheduled(send, name)
                tasks.after_response.assert_scheduled(send, f"{name} later")
                tasks.immediate.assert_scheduled(send, f"{name}'s friend")
                tasks.immediate.assert_scheduled(send, f"{name} by the host")
            assert len(tasks) == 12

    @ASYNC_AND_DEF
    @pytest.mark.parametrize("lifespan", [True, False])
    async def test_an_async_test_waits_for_the_tasks_of_its_requests_g13(self, is_async: bool, lifespan: bool) -> None:
        app = app_of_mails(drain_timeout=5)
        path = "/users/ada" if is_async else "/def/ada"
        with record_tasks(app) as tasks:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
                if lifespan:
                    async with serving(app):
                        assert (await client.post(path)).status_code == 200
                        await tasks.await_all()
                        assert len(tasks.succeeded) == len(tasks) == (4 if is_async else 2)
                else:
                    assert (await client.post(path)).status_code == 200
                    await tasks.await_all()
                    assert len(tasks.succeeded) == len(tasks) == (4 if is_async else 2)

    @each_backend
    def test_a_recorder_may_be_entered_before_the_app_is_started(self, backend: Any) -> None:
        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            current_host().schedule(send, "startup")
            yield

        app = FastAPI(lifespan=lifespan)
        add_tasks(app, drain_timeout=5)
        with record_tasks(app) as tasks, client_of(app, backend):
            tasks.wait_all()
            assert tasks.of(send).one().args == ("startup",)
        assert tasks.requests == ()

    async def test_a_request_that_goes_on_behind_its_response_is_waited_for_g1(self) -> None:
        async def session() -> AsyncIterator[None]:
            yield
            await go_on.wait()

        async def look(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.body":
                answered.set()

        async def get() -> None:
            await wire.request(app, on_send=look)

        app = FastAPI(dependencies=[Depends(session)])
        add_tasks(app, hold=True)
        app.add_api_route("/", lambda: None)
        answered, go_on = anyio.Event(), anyio.Event()
        with record_tasks(app, timeout=0.01) as hasty, record_tasks(app) as tasks:
            async with anyio.create_task_group() as tg:
                tg.start_soon(get)
                await answered.wait()
                with pytest.raises(TimeoutError, match="a request whose response is complete still runs; rec"):
                    await hasty.await_all()
                tg.start_soon(tasks.await_all)
                await turns()
                go_on.set()

    @each_backend
    def test_each_websocket_session_is_a_request_too_g12(self, backend: Any) -> None:
        app = app_of_mails(hold=True)

        @app.websocket("/chat")
        async def chat(websocket: WebSocket, tasks: Tasks) -> None:
            await websocket.accept()
            tasks.schedule(send, await websocket.receive_text())
            tasks.after_response.schedule(send, "bye")

        with record_tasks(app) as tasks, client_of(app, backend) as client:
            with client.websocket_connect("/chat") as session:
                session.send_text("hello")
            tasks.wait_all()
            [request] = tasks.requests
            assert (request.method, request.path) == ("WEBSOCKET", "/chat")
            assert [task.args[0] for task in request.tasks] == ["hello", "bye"]


class TestRequests:
    async def test_the_tasks_of_a_single_request_can_be_selected_and_waited_for(self) -> None:
        async def start(tasks: Tasks) -> None:
            tasks.schedule(go_on.wait)

        app = app_of_mails(drain_timeout=5)
        app.add_api_route("/start", start)
        go_on = anyio.Event()
        with record_tasks(app) as tasks:
            async with serving(app) as server:
                await server.get("/start")
                for name in ("ada", "bob"):
                    await server.request("POST", f"/users/{name}")
                await tasks.requests[1].tasks.await_all()
                await tasks.of_request("/users/bob").await_all()
                assert len(tasks.requests[1].tasks.succeeded) == 4
                assert [task.args[0] for task in tasks.of_request("/users/bob").of(send)] == [
                    *("bob", "bob later", "bob's friend"),
                ]
                assert not tasks.of_request("/users")
                assert tasks.requests[0].tasks.one().status == "running"
                assert [(request.method, request.path) for request in tasks.requests] == [
                    ("GET", "/start"),
                    ("POST", "/users/ada"),
                    ("POST", "/users/bob"),
                ]
                assert "path='/start'" in repr(tasks.requests[0])
                go_on.set()

    async def test_a_request_within_a_task_is_a_request_of_its_own(self) -> None:
        async def outer(tasks: Tasks) -> None:
            tasks.schedule(call)

        async def call() -> None:
            await wire.request(app, "POST", "/users/ada")

        app = app_of_mails(drain_timeout=5)
        app.add_api_route("/outer", outer)
        with record_tasks(app, run="inline") as tasks, record_tasks(app):
            async with serving(app) as server:
                await server.get("/outer")
        assert [len(request.tasks) for request in tasks.requests] == [1, 4]

    async def test_mounted_apps_are_seen_from_wherever_add_tasks_was_called_g12(self) -> None:
        parent, child, plain = app_of_mails(drain_timeout=5), app_of_mails(), FastAPI()
        parent.mount("/child", child)
        parent.mount("/plain", plain)

        @plain.post("/send")
        async def send_plain(tasks: Tasks) -> None:
            tasks.schedule(send, "plain")

        with record_tasks(parent) as of_parent, record_tasks(child) as of_child:
            async with serving(parent) as server:
                await server.request("POST", "/users/ada")
                await server.request("POST", "/child/users/bob")
                await server.request("POST", "/plain/send")
                await of_parent.await_all()
        assert [len(request.tasks) for request in of_parent.requests] == [4, 4, 1]
        assert [len(request.tasks) for request in of_child.requests] == [4]
        assert len(of_child) == 4
        with pytest.raises(FastAPITasksUninitializedAppError, match=r"on which add_tasks\(\) was called"):
            record_tasks(plain)

    @pytest.mark.parametrize("recorded_before", [True, False])
    async def test_later_tasks_of_an_earlier_request_are_ignored_g14(self, recorded_before: bool) -> None:
        async def chain(name: str) -> None:
            await go_on.wait()
            current_host().schedule(send, f"{name} next")

        go_on = anyio.Event()
        app = app_with_tasks()

        @app.get("/{name}")
        async def endpoint(name: str, tasks: Tasks) -> None:
            tasks.after_response.schedule(chain, name)

        async with serving(app) as server:
            with record_tasks(app) if recorded_before else nullcontext():
                await server.get("/first")
            with record_tasks(app) as tasks:
                await server.get("/second")
                go_on.set()
                await tasks.await_all()
        assert [task.args for task in tasks] == [("second",), ("second next",)]

    async def test_the_tasks_of_an_earlier_session_and_of_the_startup_are_seen(self) -> None:
        async def refresh() -> None:
            await go_on.wait()
            current_host().schedule(send, "of the startup")

        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            current_host().schedule(refresh)
            yield

        go_on = anyio.Event()
        app = FastAPI(lifespan=lifespan)
        add_tasks(app, drain_timeout=5)

        @app.get("/")
        async def endpoint(tasks: Tasks) -> StreamingResponse:
            async def rows() -> AsyncIterator[str]:
                await go_on.wait()
                tasks.schedule(follow, "ada")
                yield "row"

            return StreamingResponse(rows())

        async with serving(app) as server, anyio.create_task_group() as tg:
            tg.start_soon(server.get)
            await turns(10)
            with record_tasks(app) as tasks:
                go_on.set()
                await turns(20)
                await tasks.await_all()
        assert sorted(task.args[0] for task in tasks) == ["ada", "ada's friend", "of the startup"]

    def test_a_recorder_of_an_app_that_was_never_entered_answers_nothing(self) -> None:
        tasks = record_tasks(app_of_mails())
        for read in (lambda: not tasks.failed, tasks.wait_all, lambda: tasks.requests):
            with pytest.raises(RuntimeError, match=r"`with record_tasks\(app\) as tasks:`; with the fixture"):
                read()

    async def test_tasks_of_other_apps_are_not_seen(self) -> None:
        mine, other = app_of_mails(drain_timeout=5), app_of_mails(drain_timeout=5)
        with record_tasks(mine) as tasks:
            async with serving(mine), serving(other) as server:
                await server.request("POST", "/users/ada")
        assert len(tasks) == 0

    async def test_tasks_scheduled_on_the_host_are_seen_without_a_request(self) -> None:
        app = app_of_mails(drain_timeout=5)
        hosts: list[Any] = []
        app.add_api_route("/host", lambda: hosts.append(current_host()))
        async with serving(app) as server:
            await server.get("/host")
            with record_tasks(app) as tasks:
                hosts[0].schedule(send, "elsewhere")
                await tasks.await_all()
            assert tasks.one().args == ("elsewhere",)
            assert tasks.requests == ()

    async def test_the_app_is_as_it_was_when_the_last_recorder_is_left(self) -> None:
        app = app_of_mails(drain_timeout=5)
        one, other = record_tasks(app), record_tasks(app)
        with one:
            other.__enter__()
        async with serving(app) as server:
            await server.request("POST", "/users/ada")
        other.__exit__(None, None, None)
        installation = installation_of(app)
        assert installation is not None
        assert installation.around == []
        assert (len(one), len(other)) == (0, 4)


class TestFailures:
    @each_backend
    def test_a_failure_that_nobody_expected_fails_the_test_g4(self, backend: Any) -> None:
        app = app_of_mails()

        @app.get("/fail")
        async def endpoint(tasks: Tasks) -> None:
            tasks.after_response.schedule(deliver)

        with pytest.raises(UnexpectedFailures) as caught, record_tasks(app) as tasks, client_of(app, backend) as client:
            assert client.get("/fail").status_code == 200
            tasks.wait_all()
        assert [type(error) for error in caught.value.exceptions] == [ConnectionError]
        with record_tasks(app) as tasks, client_of(app, backend) as client:
            tasks.of_request("/fail").expect_failure(ConnectionError, match="answer")
            client.get("/fail")
            tasks.wait_all()

    @each_backend
    def test_a_dropped_task_is_no_failure_g5(self, backend: Any) -> None:
        app = app_of_mails()
        with record_tasks(app) as tasks, client_of(app, backend) as client:
            assert client.post("/users/nobody").status_code == 404
            tasks.wait_all()
            assert [task.phase for task in tasks.dropped] == ["after_route", "after_response"]


class TestNever:
    @each_backend
    @pytest.mark.parametrize("lifespan", [True, False])
    def test_tasks_are_recorded_and_run_when_the_test_says_so_g13(self, backend: Any, lifespan: bool) -> None:
        app = app_of_mails()
        with record_tasks(app, run="never") as tasks, client_of(app, backend, lifespan=lifespan) as client:
            assert client.post("/users/ada").status_code == 200
            assert client.post("/users/nobody").status_code == 404
            assert client.post("/def/bob").status_code == 200
            tasks.wait_all()
            assert len(tasks.of(send).dropped) == 2
            assert len(tasks) == 8
            assert not tasks.succeeded
            tasks.of_request("/users/ada").run_all()
            assert [task.return_value for task in tasks.of_request("/users/ada").of(send)] == [
                *("to ada", "to ada later", "to ada's friend"),
            ]
            tasks.run_all()
            assert len(tasks.succeeded) == 8  # with two friends

    async def test_a_task_is_run_by_hand_in_the_test_itself(self) -> None:
        app = app_of_mails()
        with record_tasks(app, run="never") as tasks:
            assert (await wire.request(app, "POST", "/users/ada")).status == 200
            assert await tasks.after_route.of(send).one()() == "to ada"


class TestInline:
    @ASYNC_AND_DEF
    @pytest.mark.parametrize("lifespan", [True, False])
    async def test_tasks_have_ended_when_the_next_phase_goes_on_g1(
        self, journal: Journal, is_async: bool, lifespan: bool
    ) -> None:
        async def work(name: str, child: bool = True) -> None:
            await turns()
            journal.append(name)
            if child:
                current_host().schedule(work, f"{name}'s child", False)

        def endpoint(tasks: Tasks) -> None:
            tasks.schedule(work, "immediate")
            tasks.after_route.schedule(work, "after_route")
            tasks.after_response.schedule(work, "after_response")
            current_host().schedule(work, "by the host")

        async def async_endpoint(tasks: Tasks) -> None:
            endpoint(tasks)

        app = app_with_tasks(hold=not lifespan)
        app.add_api_route("/", async_endpoint if is_async else endpoint)
        with record_tasks(app, run="inline"):
            async with serving(app, journal) as server:
                assert (await server.get()).status == 200
                assert journal[-1] == "returned"
        for name in ("immediate", "after_route", "by the host"):
            journal.assert_order(name, f"{name}'s child", "start")
        journal.assert_order("final", "after_response", "after_response's child", "returned")

    async def test_tasks_of_another_host_have_ended_before_the_response_g1(self, journal: Journal) -> None:
        async def endpoint(request: Request) -> None:
            await request.send_push_promise("/style.css")  # no part of the response
            other.schedule(journal.note_late, "of another host")

        app = app_with_tasks()
        app.add_api_route("/", endpoint)
        with record_tasks(app, run="inline"):
            async with TaskHost() as other, serving(app):
                await wire.request(taking_pushes(app, journal), events=journal)
        assert journal == ["push", "of another host", "start", "final", "returned"]

    @pytest.mark.parametrize("fails", [False, True])
    async def test_tasks_of_the_host_that_a_request_schedules_have_ended_too_g14(
        self, journal: Journal, fails: bool
    ) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"one"
            current_host().schedule(journal.note_late, "behind")
            if fails:
                raise LookupError

        async def endpoint() -> StreamingResponse:
            current_host().schedule(journal.note_late, "in the route")
            return StreamingResponse(chunks())

        app = app_with_tasks()
        app.add_api_route("/", endpoint)
        with record_tasks(app, run="inline"):
            async with serving(app, journal) as server:
                await server.get()
                journal.assert_order("in the route", "start", "body", "raised" if fails else "returned")
                journal.assert_order("behind", "raised" if fails else "returned")

    async def test_the_exception_of_a_request_comes_out_when_its_tasks_have_ended_g3(self, journal: Journal) -> None:
        async def endpoint(tasks: Tasks) -> None:
            tasks.task(when="failure").after_response.schedule(journal.note_late, "task")
            raise LookupError

        app = app_with_tasks()
        app.add_api_route("/", endpoint)
        with record_tasks(app, run="inline"):
            async with serving(app, journal) as server:
                response = await server.get()
                assert isinstance(response.raised, LookupError)
                journal.assert_order("start", "final", "task", "raised")

    async def test_a_task_that_waits_for_what_comes_later_is_named_g1(self) -> None:
        async def endpoint(tasks: Tasks) -> None:
            kept.append(tasks.schedule(anyio.sleep_forever))
            await kept[0].started.wait()

        kept: list[Task[Any]] = []
        app = app_with_tasks()
        app.add_api_route("/", endpoint)
        with record_tasks(app, run="inline", timeout=0.01):
            async with serving(app) as server:
                response = await server.get()
                assert isinstance(response.raised, TimeoutError)
                assert "sleep_forever() immediate running" in str(response.raised)
                kept[0].cancel()


class TestTime:
    @pytest.mark.parametrize("backend", MOVABLE)
    def test_the_pause_before_another_attempt_passes_at_once_g16(self, backend: str) -> None:
        app, clock = app_of_mails(), JumpClock()
        with record_tasks(app) as tasks, client_of(app, (backend, clock.backend_options(backend))) as client:
            client.post("/hooks")
            tasks.wait_until("retrying")
            clock.jump(HOUR)
            tasks.wait_all()
            assert tasks.of(deliver).one().attempt == 2
            tasks.expect_failure(ConnectionError)
