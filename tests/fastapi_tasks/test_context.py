"""G6, G8, G15: context variables, threads and limits, for requests."""

import threading
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from tests.backends import turns, until
from tests.fastapi_tasks.apps import ASYNC_AND_DEF, Journal, Server, app_with_tasks, serving

from fastapi_tasks import Task, Tasks, TasksSaturatedError, TaskStatus, current_host

PHASES = ("immediate", "after_route", "after_response")
of_dependency: ContextVar[str] = ContextVar("of_dependency")
of_endpoint: ContextVar[str] = ContextVar("of_endpoint", default="unset")


async def set_by_dependency(request: Request) -> None:
    of_dependency.set(request.url.query)


def app_of(endpoint: Any, **settings: Any) -> FastAPI:
    app = FastAPI(dependencies=[Depends(set_by_dependency)])
    app.add_api_route("/", endpoint)
    return app_with_tasks(app, **settings)


class TestContext:
    @ASYNC_AND_DEF
    async def test_each_task_sees_the_context_of_its_schedule_g6(self, journal: Journal, is_async: bool) -> None:
        def see(name: str) -> None:
            journal.append(f"{name}: {of_dependency.get()}, {of_endpoint.get()}")
            of_endpoint.set(f"set by {name}")

        async def see_async(name: str) -> None:
            see(name)

        def schedule(tasks: Tasks) -> None:
            for number, phase in enumerate(PHASES):
                of_endpoint.set(str(number))
                define = tasks if phase == "immediate" else getattr(tasks, phase)
                define.schedule(see, phase)
                define.schedule(see_async, f"async {phase}")
            of_endpoint.set("later")

        async def schedule_async(tasks: Tasks) -> None:
            schedule(tasks)

        app = app_of(schedule_async if is_async else schedule)
        async with serving(app) as server:
            await server.get(query=b"first")
            await until(lambda: len(journal) == 6)
            await server.get(query=b"second")
        expected = [f"{kind}{phase}: first, {number}" for number, phase in enumerate(PHASES) for kind in ("", "async ")]
        assert sorted(journal[:6]) == sorted(expected)
        assert sorted(journal[6:]) == sorted(line.replace("first", "second") for line in expected)

    async def test_what_a_task_sets_is_seen_by_nobody_else_g6(self, journal: Journal) -> None:
        async def set_it(name: str) -> None:
            journal.append(f"{name}: {of_endpoint.get()}")
            of_endpoint.set(name)

        async def endpoint(tasks: Tasks) -> None:
            for _ in range(2):
                await tasks.schedule(set_it, "immediate")
                assert of_endpoint.get() == "unset"
            tasks.after_route.schedule(set_it, "after_route")
            tasks.after_response.schedule(set_it, "after_response")

        async with serving(app_of(endpoint)) as server:
            for _ in range(2):
                assert (await server.get()).raised is None
                assert of_endpoint.get() == "unset"  # the app was called in this task
        assert sorted(journal) == sorted(["immediate: unset"] * 4 + ["after_route: unset", "after_response: unset"] * 2)

    async def test_requests_at_once_do_not_see_each_other_s_context_g6(self, journal: Journal) -> None:
        async def see(phase: str) -> None:
            journal.append(f"{of_dependency.get()} {phase}")

        async def endpoint(tasks: Tasks) -> None:
            tasks.schedule(see, "immediate")
            await both.wait()
            tasks.after_route.schedule(see, "after_route")
            tasks.after_response.schedule(see, "after_response")

        async def get(server: Server, query: bytes) -> None:
            await server.get(query=query)

        both = anyio.Event()
        async with serving(app_of(endpoint)) as server, anyio.create_task_group() as tg:
            for query in (b"a", b"b"):
                tg.start_soon(get, server, query)
            await until(lambda: len(journal) == 2)
            both.set()
        assert sorted(journal) == sorted(f"{query} {phase}" for query in "ab" for phase in PHASES)

    async def test_a_stream_s_tasks_and_each_attempt_see_the_context_too_g6(self, journal: Journal) -> None:
        async def see() -> None:
            journal.append(f"{of_dependency.get()}, {of_endpoint.get()}")
            of_endpoint.set("set by an attempt")
            raise LookupError

        def again(task: Task[Any], error: Exception) -> float | None:
            journal.append(f"handler: {of_dependency.get()}, {of_endpoint.get()}")
            return 0 if task.attempt == 1 else None

        async def endpoint(tasks: Tasks) -> StreamingResponse:
            async def chunks() -> AsyncIterator[bytes]:
                of_endpoint.set("stream")
                tasks.task(retry=again).schedule(see)
                yield b""

            return StreamingResponse(chunks())

        async with serving(app_of(endpoint)) as server:
            await server.get(query=b"q")
        assert (
            journal == ["q, stream", "handler: q, set by an attempt"] * 2
            or journal
            == [
                "q, stream",
                "handler: q, stream",
            ]
            * 2
        )


class TestThreads:
    async def test_sync_tasks_do_not_delay_def_endpoints_g8(self) -> None:
        def block() -> None:
            nonlocal running
            with lock:
                running += 1
            release.wait(15)

        async def fill(tasks: Tasks) -> None:
            scheduled.extend(tasks.schedule(block) for _ in range(45))

        def endpoint() -> str:
            return "fine"

        lock, release = threading.Lock(), threading.Event()
        running = 0
        scheduled: list[Task[None]] = []
        app = app_of(fill)
        app.add_api_route("/def", endpoint)
        try:
            async with serving(app) as server:
                await server.get()
                await until(lambda: running == 40)
                assert (await server.get("/def")).json() == "fine"
                assert running == 40
                release.set()
        finally:
            release.set()
        assert [task.status for task in scheduled] == [TaskStatus.SUCCEEDED] * 45
        assert running == 45

    async def test_max_threads_bounds_the_threads_of_sync_tasks_g8(self) -> None:
        def work() -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            pair.wait()
            release.wait(0.005)
            with lock:
                running -= 1

        async def fill(tasks: Tasks) -> None:
            for _ in range(6):
                tasks.schedule(work)

        lock, release, pair = threading.Lock(), threading.Event(), threading.Barrier(2, timeout=30)
        running = most = 0
        async with serving(app_of(fill, max_threads=2)) as server:
            await server.get()
        assert (running, most) == (0, 2)

    async def test_def_endpoints_schedule_in_order_g1_g8(self, journal: Journal, backend_name: str) -> None:
        """On trio one slot makes the order of the requests visible: first steps come in random order there."""

        def endpoint(tasks: Tasks) -> None:
            for number in range(20):
                tasks.after_response.schedule(journal.note, f"after_response {number}")
                tasks.after_route.schedule(journal.note, f"after_route {number}")
                tasks.schedule(journal.note, f"immediate {number}")

        app = app_of(endpoint, max_running=1 if backend_name == "trio" else None)
        async with serving(app) as server:
            assert (await server.get()).status == 200
        assert journal == [f"{phase} {number}" for phase in PHASES for number in range(20)]

    async def test_a_def_endpoint_may_wait_for_its_task_g8(self, journal: Journal) -> None:
        def endpoint(tasks: Tasks) -> str:
            task = tasks.schedule(journal.note, "task")
            anyio.from_thread.run(task.wait)
            by_host = current_host().schedule(journal.note, "of the host")
            anyio.from_thread.run(by_host.wait)
            return f"{task.status} {by_host.status}"

        async with serving(app_of(endpoint), journal) as server:
            assert (await server.get()).json() == "succeeded succeeded"
        assert journal[:3] == ["task", "of the host", "start"]


class TestLimits:
    @ASYNC_AND_DEF
    async def test_saturation_can_be_answered_with_a_503_g15(self, is_async: bool) -> None:
        async def busy(request: Request, exc: Exception) -> JSONResponse:
            assert isinstance(exc, TasksSaturatedError)
            counts.append((exc.running, exc.waiting, exc.deferred, exc.max_pending))
            return JSONResponse("come back later", 503, {"Retry-After": "1"})

        def schedule(tasks: Tasks) -> None:
            kept.append(tasks.schedule(go_on.wait))

        async def schedule_async(tasks: Tasks) -> None:
            schedule(tasks)

        kept: list[Task[Any]] = []
        counts: list[tuple[int, ...]] = []
        go_on = anyio.Event()
        app = app_of(schedule_async if is_async else schedule, max_running=1, max_pending=2)
        app.add_exception_handler(TasksSaturatedError, busy)
        async with serving(app) as server:
            responses = [await server.get() for _ in range(5)]
            assert [response.status for response in responses] == [200, 200, 200, 503, 503]
            assert (b"retry-after", b"1") in responses[-1].headers
            assert counts == [(1, 2, 0, 2)] * 2
            go_on.set()
            for task in kept:
                await task
            assert (await server.get()).status == 200
        assert len(kept) == 4

    async def test_a_request_that_meets_the_limit_leaves_nothing_half_scheduled_g15(self, journal: Journal) -> None:
        async def endpoint(tasks: Tasks) -> None:
            host = current_host()
            tasks.after_response.schedule(journal.note, "kept")
            with pytest.raises(TasksSaturatedError):
                tasks.after_route.schedule(journal.note, "refused")
            assert (host.running, host.waiting, host.deferred) == (0, 0, 1)
            tasks.schedule(journal.note, "immediate")

        app = app_of(endpoint, max_pending=1)
        async with serving(app) as server:
            for _ in range(2):
                response = await server.get()
                assert (response.status, response.raised) == (200, None)
                await turns()
        assert sorted(journal) == sorted(["immediate", "kept"] * 2)
