"""G22, G24: if the client has the response, the journalled tasks of the route run; with FastAPI's own errors if not."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.middleware import Middleware
from tests import wire
from tests.backends import turns, until
from tests.fastapi_tasks.apps import UNCLOSED_STREAM, app_with_tasks, host_of, serving
from tests.fastapi_tasks.test_middleware import stacks
from tests.taskphase.journal.hosts import MOMENT, Program, disk_of, keeper_of
from tests.taskphase.journal.stores import look
from tests.taskphase.journal.test_writer import reached

from fastapi_tasks import (
    FastAPITasksAlreadyAddedError,
    Journal,
    JournalError,
    TaskConfig,
    Tasks,
    TaskStatus,
    add_tasks,
    current_host,
)
from taskphase.journal import _recovery

pytestmark = UNCLOSED_STREAM

S = TaskStatus


@pytest.fixture
async def program(tmp_path: Path) -> Program:
    return Program(tmp_path / "tasks.db")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have hosts look for tasks of dead hosts often."""
    monkeypatch.setattr(_recovery, "_PAUSE", MOMENT)


def app_of(program: Program) -> FastAPI:
    """Return an app whose routes schedule the same tasks, and end in different ways."""

    async def dependency() -> AsyncIterator[None]:
        try:
            yield
        finally:
            program.runs.append(("dependency", look(program.path, "count(*)")[0], False))

    def schedule(tasks: Tasks) -> None:
        tasks.schedule(program.hold, "immediate")
        tasks.schedule(program.send, "has ended")
        tasks.after_route.schedule(program.hold, "after_route")
        tasks.after_response.schedule(program.hold, "after_response")
        failure = tasks.task(when="failure")
        failure.after_route.schedule(program.hold, "failed after_route")
        failure.after_response.schedule(program.hold, "failed after_response")
        tasks.task(when="always").after_response.schedule(program.hold, "always")

    async def json(tasks: Tasks) -> str:
        schedule(tasks)
        await turns(3)
        return "answer"

    def thread(tasks: Tasks) -> str:
        schedule(tasks)
        return "answer"

    async def keyed(tasks: Tasks) -> str:
        answer = await json(tasks)
        tasks.task(key="a").schedule(program.hold, "with a key")
        return answer

    async def fails(tasks: Tasks) -> str:
        await json(tasks)
        raise HTTPException(418)

    async def raises(tasks: Tasks) -> str:
        await json(tasks)
        raise LookupError

    async def wrong(tasks: Tasks) -> int:
        return await json(tasks)  # type: ignore[return-value]

    async def early(tasks: Tasks) -> str:
        return await json(tasks)

    async def stream(tasks: Tasks) -> StreamingResponse:
        async def chunks() -> AsyncIterator[str]:
            yield "a"
            task = tasks.after_route.schedule(program.send, "in the stream")
            program.runs.append(("stream", task.status.value, False))
            yield "b"

        await json(tasks)
        return StreamingResponse(chunks())

    async def background(tasks: Tasks, later: BackgroundTasks) -> str:
        later.add_task(lambda: tasks.after_response.schedule(program.send, "in the background"))
        return await json(tasks)

    app = FastAPI(dependencies=[Depends(dependency, scope="function")])
    for endpoint in (json, thread, keyed, fails, raises, stream, background):
        app.add_api_route(f"/{endpoint.__name__}", endpoint)
    app.add_api_route("/wrong", wrong, response_model=int)
    app.add_api_route("/early/{number}", early)

    @app.exception_handler(JournalError)
    async def answer(_request: Request, error: JournalError) -> JSONResponse:
        return JSONResponse({"path": error.path.name}, 503)

    return app


def served(program: Program, app: FastAPI, **settings: Any) -> Any:
    return serving(app_with_tasks(app, journal=program.journal(), drain_timeout=0, **settings))


def arguments(program: Program) -> list[str]:
    """Return the arguments of the tasks in the file."""
    return sorted(each.split('"')[1] for each in look(program.path, "arguments"))


SUCCEEDED = ["after_response", "after_route", "always", "immediate"]
FAILED = ["always", "failed after_response", "failed after_route", "immediate"]


@stacks
@pytest.mark.parametrize(
    ("path", "status", "written"),
    [
        ("/json", 200, SUCCEEDED),
        ("/background", 200, SUCCEEDED),
        ("/keyed", 200, [*SUCCEEDED, "with a key"]),
        ("/fails", 418, FAILED),
        ("/raises", 500, FAILED),
        ("/wrong", 500, FAILED),
    ],
    ids=["json", "background", "key", "HTTPException", "exception", "response model"],
)
async def test_all_tasks_that_will_start_are_in_the_file_before_the_first_message_g22(
    program: Program, stack: list[Middleware], path: str, status: int, written: list[str]
) -> None:
    async def look_at_start(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            found.append(arguments(program))

    found: list[list[str]] = []
    app = app_of(program)
    app.user_middleware.extend(stack)
    async with served(program, app) as server:
        response = await server.get(path, on_send=look_at_start)
        assert response.status == status
        assert found == [written]
        assert ("dependency", 0, False) in program.runs
        await until(lambda: len({run for run in program.runs if run[0] == "hold"}) == len(written))
        program.release.set()
        await program.has({})


async def test_a_def_endpoint_is_a_route_too_g8_g22(program: Program) -> None:
    async with served(program, app_of(program)) as server:
        assert (await server.get("/thread")).status == 200
        assert [each for each in arguments(program) if each != "has ended"] == SUCCEEDED
        program.release.set()
        await program.has({})


async def test_an_invalid_request_writes_nothing_g5_g22(program: Program) -> None:
    async def endpoint(number: int) -> None: ...

    def early(tasks: Tasks) -> None:
        tasks.after_response.schedule(program.send, "never")

    app = FastAPI(dependencies=[Depends(early)])
    app.add_api_route("/{number}", endpoint)
    async with served(program, app) as server:
        disk = disk_of(host_of(app))
        assert (await server.get("/x")).status == 422
        await turns()
        assert (program.runs, program.rows(), disk.commits) == ([], {}, disk.commits)


async def test_a_stream_writes_its_route_and_each_later_task_before_it_runs_g12_g22(program: Program) -> None:
    async with served(program, app_of(program)) as server:
        assert (await server.get("/stream")).body == b"ab"
        assert ("stream", "recording", False) in program.runs
        assert arguments(program) in (SUCCEEDED, sorted([*SUCCEEDED, "in the stream"]))
        await until(lambda: ("send", "in the stream", False) in program.runs)
        program.release.set()
        await program.has({})


async def test_a_session_writes_each_task_before_its_first_step_g12_g22(program: Program) -> None:
    async def handler(websocket: WebSocket, tasks: Tasks) -> None:
        await websocket.accept()
        task = tasks.schedule(program.hold, "immediate")
        statuses.append(task.status)
        await task.started.wait()
        statuses.append(look(program.path, "count(*)")[0])
        tasks.after_route.schedule(program.hold, "after_route")
        tasks.after_response.schedule(program.hold, "after_response")

    statuses: list[object] = []
    app = FastAPI()
    app.add_api_websocket_route("/", handler)
    async with served(program, app) as server:
        async with server.websocket() as session:
            await session.accept()
            await turns()
        assert statuses == [S.RECORDING, 1]
        await until(lambda: len(program.runs) == 3)
        assert arguments(program) == ["after_response", "after_route", "immediate"]
        program.release.set()
        await program.has({})


async def test_a_middleware_that_schedules_waits_for_the_write_of_its_task_g22(program: Program) -> None:
    class Schedules:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                statuses.append(current_host().schedule(program.send, "of the middleware").status)
            await self.app(scope, receive, send)

    statuses: list[object] = []
    app = app_of(program)
    app.add_middleware(Schedules)
    async with served(program, app) as server:
        assert (await server.get("/json")).status == 200
        assert statuses == [S.RECORDING]
        await until(lambda: ("send", "of the middleware", False) in program.runs)
        program.release.set()
        await program.has({})


class TestFailingWrites:
    @stacks
    @pytest.mark.parametrize("path", ["/json", "/stream", "/thread", "/background"])
    async def test_a_route_that_cannot_be_written_is_answered_by_the_handlers_g5_g22(
        self, program: Program, stack: list[Middleware], path: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = app_of(program)
        app.user_middleware.extend(stack)
        async with served(program, app) as server:
            disk_of(host_of(app)).fails = "INSERT"
            response = await server.get(path)
            assert (response.status, response.body, response.raised) == (503, b'{"path":"tasks.db"}', None)
            ran = {"immediate", "always", "failed after_route", "failed after_response"}
            await until(lambda: {run[1] for run in program.runs if run[0] == "hold"} >= ran)
            assert {run[1] for run in program.runs if run[0] == "hold"} == ran
            assert program.rows() == {}
            errors = [r for r in caplog.records if r.levelno == logging.ERROR and r.name == "taskphase"]
            assert [r.getMessage().split(" is ")[1] for r in errors] == [
                "not in the journal, and would not survive a crash"
            ] * 3
            program.release.set()

    async def test_without_a_handler_of_its_own_the_answer_is_a_500_g5_g22(self, program: Program) -> None:
        app = app_of(program)
        app.exception_handlers.clear()
        async with served(program, app) as server:
            disk_of(host_of(app)).fails = "INSERT"
            response = await server.get("/json")
            assert (response.status, type(response.raised)) == (500, JournalError)
            program.release.set()

    async def test_a_route_that_has_failed_keeps_its_own_answer_g5_g22(self, program: Program) -> None:
        app = app_of(program)
        async with served(program, app) as server:
            disk_of(host_of(app)).fails = "INSERT"
            assert (await server.get("/fails")).status == 418
            await until(lambda: ("hold", "failed after_response", False) in program.runs)
            program.release.set()

    async def test_a_disk_that_hangs_fails_the_route_after_the_timeout_g22(self, program: Program) -> None:
        app = app_of(program)
        async with served(program, app) as server:
            disk = disk_of(host_of(app))
            keeper_of(host_of(app)).share._timeout = 0.05
            disk.hangs = "COMMIT"
            assert (await server.get("/json")).status == 503
            assert ("hold", "after_route", False) not in program.runs
            disk.go_on.set()
            keeper_of(host_of(app)).share._timeout = 5
            assert (await server.get("/json")).status == 200  # the writer has struck the rows out before
            assert arguments(program) == SUCCEEDED
            program.release.set()
            await program.has({})

    async def test_a_task_that_is_cancelled_during_the_write_is_struck_out_g22(self, program: Program) -> None:
        async def endpoint(tasks: Tasks) -> None:
            made.append(tasks.after_response.schedule(program.send, "cancelled"))

        made: list[Any] = []
        app = FastAPI()
        app.add_api_route("/", endpoint)
        async with served(program, app) as server, anyio.create_task_group() as tg:
            disk = disk_of(host_of(app))
            disk.hangs = "COMMIT"
            tg.start_soon(server.get)
            await reached(disk)
            made[0].cancel()
            disk.go_on.set()
            await program.has({})
        assert (made[0].status, program.runs) == (S.CANCELLED, [])


class TestKeys:
    async def test_the_later_request_with_a_key_drops_its_task_and_succeeds_g24(self, program: Program) -> None:
        async def endpoint(tasks: Tasks) -> None:
            made.append(tasks.task(key="a").after_response.schedule(program.hold))

        made: list[Any] = []
        app = FastAPI()
        app.add_api_route("/", endpoint)
        async with served(program, app) as server:
            assert [(await server.get()).status for _ in range(3)] == [200] * 3
            await until(lambda: program.runs)
            assert [task.status for task in made[1:]] == [S.DROPPED, S.DROPPED]
            assert program.rows() == {made[0].message_id: "due"}
            program.release.set()
            await program.has({})

    async def test_an_immediate_task_with_a_key_waits_for_the_file_g24(self, program: Program) -> None:
        async def endpoint(tasks: Tasks) -> None:
            made.extend(tasks.task(key="a").schedule(program.hold) for _ in range(2))

        made: list[Any] = []
        app = FastAPI()
        app.add_api_route("/", endpoint)
        async with served(program, app) as server:
            assert (await server.get()).status == 200
            await made[1].wait()
            await until(lambda: program.runs)
            assert (made[1].status, len(program.runs)) == (S.DROPPED, 1)
            program.release.set()
            await program.has({})

    @pytest.mark.parametrize("is_async", [True, False], ids=["async def", "def"])
    async def test_a_route_fails_if_its_immediate_task_with_a_key_cannot_be_written_g22_g24(
        self, program: Program, is_async: bool
    ) -> None:
        def endpoint(tasks: Tasks) -> None:
            made.append(tasks.task(key="a").schedule(program.send))

        async def later(tasks: Tasks) -> None:
            endpoint(tasks)
            await made[0].wait()

        made: list[Any] = []
        app = FastAPI()
        app.add_api_route("/", later if is_async else endpoint)
        async with served(program, app) as server:
            disk_of(host_of(app)).fails = "INSERT"
            response = await server.get()
            assert (response.status, type(response.raised)) == (500, JournalError)
            await made[0].wait()
            assert (made[0].status, program.runs) == (S.FAILED, [])


class TestTheInstallation:
    async def test_take_over_begins_when_the_startup_is_complete_g22(self, program: Program) -> None:
        async with program.host() as host:
            await host.schedule(program.wait, 1).started.wait()
        program.runs.clear()

        @asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
            await anyio.sleep(10 * MOMENT)
            program.runs.append(("startup", None, False))
            yield

        app = FastAPI(lifespan=lifespan)
        async with served(program, app):
            await program.has({})
        assert program.runs == [("startup", None, False), ("wait", 1, True)]

    async def test_a_startup_that_fails_closes_the_journal_g10_g22(self, program: Program) -> None:
        @asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
            current_host().task(shield=True).schedule(program.send, 1)
            current_host().task(delay=100).schedule(program.wait, 2)
            await turns()
            raise LookupError
            yield

        app = FastAPI(lifespan=lifespan)
        with pytest.raises(Exception, match=r"LookupError|startup"):
            async with served(program, app):
                pass
        assert look(program.path, "arguments, owner") in ([], [("[[2],{}]", None)])
        assert program.runs == [("send", 1, False)]
        assert not list(program.path.parent.glob("*.alive"))

    async def test_hold_with_a_journal_is_refused_g13_g22(self, program: Program) -> None:
        with pytest.raises(ValueError, match="exclude each other"):
            add_tasks(FastAPI(), hold=True, journal=program.journal())

    async def test_a_mounted_app_with_a_journal_of_its_own_raises_g13_g22(self, program: Program) -> None:
        child, parent = app_of(program), FastAPI()
        add_tasks(child, journal=program.journal())
        parent.mount("/child", child)
        async with serving(app_with_tasks(parent)) as server:
            response = await server.get("/child/json")
            assert isinstance(response.raised, FastAPITasksAlreadyAddedError)

    async def test_without_a_lifespan_the_warning_says_that_nothing_is_kept_g13_g22(
        self, program: Program, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from fastapi_tasks._installation import Installation

        async def endpoint(tasks: Tasks) -> None:
            tasks.after_response.schedule(program.send, 1)

        monkeypatch.setattr(Installation, "has_warned", False)
        app = FastAPI()
        app.add_api_route("/", endpoint)
        add_tasks(app, journal=program.journal())
        assert (await wire.request(app, "GET", "/")).status == 200
        assert program.runs == [("send", 1, False)]
        assert not program.path.exists()
        assert "the journal keeps nothing" in caplog.text

    async def test_several_lifespans_are_several_owners_of_one_journal_g13_g22(self, program: Program) -> None:
        app = app_of(program)
        add_tasks(app, journal=program.journal())
        async with serving(app) as one, serving(app) as two:
            for server in (one, two):
                assert (await server.get("/json")).status == 200
            assert len(set(look(program.path, "owner"))) == 2
            program.release.set()
            await program.has({})

    async def test_settings_of_the_journal_reach_the_tasks_of_a_request_g22(self, program: Program) -> None:
        async def endpoint(tasks: Tasks) -> None:
            made.append(tasks.after_response.schedule(program.send).config.timeout)
            made.append(tasks.task(timeout=1).after_response.schedule(program.send).config.timeout)

        made: list[object] = []
        app = FastAPI()
        app.add_api_route("/", endpoint)
        add_tasks(app, journal=Journal(program.path, {program.send: TaskConfig(timeout=30)}))
        async with serving(app) as server:
            assert (await server.get()).status == 200
        assert made == [30, 1]


async def test_an_argument_that_is_no_json_is_a_500_and_nothing_is_half_done_g22(program: Program) -> None:
    async def endpoint(tasks: Tasks) -> None:
        tasks.after_response.schedule(program.send, "first")
        tasks.after_response.schedule(program.send, (1, 2))

    app = FastAPI()
    app.add_api_route("/", endpoint)
    async with served(program, app) as server:
        assert (await server.get()).status == 500
        await turns()
        assert (program.rows(), program.runs) == ({}, [])


async def test_the_line_of_the_drain_counts_tasks_that_stay_in_the_journal_g9_g22(
    program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="fastapi_tasks")
    app = app_with_tasks(journal=program.journal(), drain_timeout=0)
    async with serving(app):
        host_of(app).schedule(anyio.sleep_forever)
        host_of(app).schedule(program.hold)
        await until(lambda: program.runs)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "fastapi_tasks"]
    assert line.partition(" s: ")[2] == (
        "0 completed, 2 cancelled, 0 abandoned; 1 of these in the journal, for another process"
    )
