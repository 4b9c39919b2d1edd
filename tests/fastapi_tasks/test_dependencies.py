"""G1, G5, G12: the exits of dependencies come before the tasks, and dependencies get `Tasks`."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, Literal

import anyio
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from tests.backends import turns
from tests.fastapi_tasks.apps import FEW, Journal, Server, app_with_tasks, recording, serving

from fastapi_tasks import Tasks, TasksScheduler, _exit_stack, current_host, get_tasks

Scope = Literal["function", "request"]
SCOPES: tuple[Scope, ...] = ("function", "request")
Dependency = Callable[..., Any]


@pytest.fixture(params=["known", "unknown"], autouse=True)
def inside_of_exit_stacks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test here twice: with the private parts of CPython's exit stacks, and with their public methods only."""
    assert _exit_stack._IS_KNOWN
    if request.param == "unknown":
        monkeypatch.setattr(_exit_stack, "_IS_KNOWN", False)


def leaving(journal: Journal, name: str, *, is_async: bool = True) -> Dependency:
    """Return a generator dependency that takes its time to exit."""

    async def in_loop() -> AsyncIterator[None]:
        yield
        await journal.note_late(f"{name}.exit")

    def in_thread() -> Iterator[None]:
        yield
        anyio.from_thread.run(journal.note_late, f"{name}.exit")

    return in_loop if is_async else in_thread


def endpoints(app: FastAPI, journal: Journal, one: Dependency, two: Dependency, scope: Scope) -> tuple[str, ...]:
    """Add a route for each place of `Tasks` among two dependencies; return their paths."""
    One = Annotated[None, Depends(one, scope=scope)]
    Two = Annotated[None, Depends(two, scope=scope)]

    @app.get("/first")
    async def first(tasks: Tasks, one: One, two: Two) -> None:
        journal.each_phase(tasks)

    @app.get("/between")
    async def between(one: One, tasks: Tasks, two: Two) -> None:
        journal.each_phase(tasks)

    @app.get("/last")
    async def last(one: One, two: Two, tasks: Tasks) -> None:
        journal.each_phase(tasks)

    @app.get("/def-last")
    def def_last(one: One, two: Two, tasks: Tasks) -> None:
        journal.each_phase(tasks)

    return "/first", "/between", "/last", "/def-last"


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_after_route_tasks_start_after_every_function_scope_exit_g1_g12(journal: Journal, is_async: bool) -> None:
    app = FastAPI(dependencies=[Depends(leaving(journal, "app", is_async=is_async), scope="function")])
    app_with_tasks(app)
    dependencies = (leaving(journal, name, is_async=is_async) for name in ("one", "two"))
    for path in endpoints(app, journal, *dependencies, "function"):
        journal.clear()
        async with serving(app, journal) as server:
            assert (await server.get(path)).status == 200
        journal.assert_order("two.exit", "one.exit", "app.exit", "after_route", "start", "final", "after_response")
        journal.assert_order("immediate", "after_route")


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_after_response_tasks_start_after_every_request_scope_exit_g1_g12(
    journal: Journal, is_async: bool
) -> None:
    app = FastAPI(dependencies=[Depends(leaving(journal, "app", is_async=is_async))])
    app_with_tasks(app)
    dependencies = (leaving(journal, name, is_async=is_async) for name in ("one", "two"))
    for path in endpoints(app, journal, *dependencies, "request"):
        journal.clear()
        async with serving(app, journal) as server:
            assert (await server.get(path)).status == 200
        journal.assert_order("after_route", "start", "final", "two.exit", "one.exit", "app.exit", "after_response")


@pytest.mark.parametrize("place", ["/first", "/between", "/last", "/def-last"])
async def test_the_commit_in_a_dependency_s_exit_is_visible_to_after_response_g1(journal: Journal, place: str) -> None:
    class Session:
        is_committed = is_closed = False

    async def session(request: Request) -> AsyncIterator[None]:
        mine = request.state.session = Session()
        yield
        await turns(FEW)
        mine.is_committed = True
        await turns(FEW)
        mine.is_closed = True

    async def look(request: Request, tasks: Tasks) -> None:
        async def see(name: str) -> None:
            mine: Session = request.state.session
            journal.append(f"{name}: {mine.is_committed}, {mine.is_closed}")

        tasks.after_route.schedule(see, "after_route")
        tasks.after_response.schedule(see, "after_response")

    for scope in SCOPES:
        journal.clear()
        app = app_with_tasks(FastAPI())
        endpoints(app, Journal(), session, look, scope)
        async with serving(app) as server:
            assert (await server.get(place)).status == 200
        in_route = "True, True" if scope == "function" else "False, False"
        assert sorted(journal) == ["after_response: True, True", f"after_route: {in_route}"]


@pytest.mark.parametrize("place", ["/first", "/between", "/last", "/def-last"])
@pytest.mark.parametrize("error", [LookupError("exit"), HTTPException(418)])
async def test_a_function_scope_exit_that_raises_is_a_failure_of_the_route_g1_g5(place: str, error: Exception) -> None:
    async def fails() -> AsyncIterator[None]:
        yield
        raise error

    async def schedules(tasks: Tasks) -> None:
        for when in ("success", "failure", "always"):
            define = tasks.task(name=when, when=when)
            define.after_route.schedule(anyio.sleep, 0)
            define.after_response.schedule(anyio.sleep, 0)

    app = app_with_tasks()
    endpoints(app, Journal(), fails, schedules, "function")
    async with recording(app) as (server, scheduled):
        response = await server.get(place)
    assert response.status == (418 if isinstance(error, HTTPException) else 500)
    assert [task.name for task in scheduled.of(anyio.sleep).dropped] == ["success"] * 2
    assert [task.name for task in scheduled.of(anyio.sleep).succeeded] == ["failure"] * 2 + ["always"] * 2


async def test_tasks_of_the_exit_of_a_dependency_wait_for_the_other_exits_too_g1(journal: Journal) -> None:
    async def function_scope(tasks: Tasks) -> AsyncIterator[None]:
        yield
        journal.each_phase(tasks, "function: ")

    async def request_scope(tasks: Tasks) -> AsyncIterator[None]:
        yield
        journal.each_phase(tasks, "request: ")

    app = FastAPI(
        dependencies=[
            Depends(leaving(journal, "outer request")),
            Depends(leaving(journal, "outer function"), scope="function"),
            Depends(request_scope),
            Depends(function_scope, scope="function"),
        ]
    )
    app_with_tasks(app).add_api_route("/", lambda: None)
    async with serving(app, journal) as server:
        await server.get()
    order = ("start", "final", "outer request.exit")
    journal.assert_order("function: immediate", "outer function.exit", "function: after_route", *order)
    journal.assert_order("final", "request: immediate", "outer request.exit", "function: after_response")
    journal.assert_order("final", "request: after_route", "outer request.exit", "request: after_response")


async def test_the_exits_keep_their_order_and_see_the_exception_g12(journal: Journal) -> None:
    def seeing(name: str) -> Dependency:
        async def dependency() -> AsyncIterator[None]:
            try:
                yield
            except LookupError:
                journal.append(f"{name} saw it")
                raise

        return dependency

    async def endpoint(
        a: Annotated[None, Depends(seeing("a"), scope="function")],
        tasks: Tasks,
        b: Annotated[None, Depends(seeing("b"))],
        c: Annotated[None, Depends(seeing("c"), scope="function")],
    ) -> None:
        raise LookupError

    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    async with serving(app, journal) as server:
        response = await server.get()
    assert isinstance(response.raised, LookupError)
    assert journal[:3] == ["c saw it", "a saw it", "b saw it"]


async def test_a_request_has_a_single_scheduler_for_all_its_dependencies_g12(journal: Journal) -> None:
    class Asking:
        def __init__(self, tasks: Tasks) -> None:
            found.append(tasks)

    async def asking(tasks: Tasks) -> TasksScheduler:
        found.append(tasks)
        return tasks

    def asking_in_thread(tasks: Tasks) -> TasksScheduler:
        found.append(tasks)
        return tasks

    async def deeper(tasks: Annotated[TasksScheduler, Depends(asking, use_cache=False)]) -> None:
        found.append(tasks)

    async def endpoint(
        tasks: Tasks,
        again: Tasks,
        of_sub: Annotated[TasksScheduler, Depends(asking_in_thread)],
        uncached: Annotated[TasksScheduler, Depends(get_tasks, use_cache=False)],
        scoped: Annotated[TasksScheduler, Depends(get_tasks, scope="function")],
        asked: Annotated[Asking, Depends()],
    ) -> None:
        found.extend([tasks, again, of_sub, uncached, scoped])
        journal.each_phase(tasks)

    found: list[TasksScheduler] = []
    app = FastAPI(dependencies=[Depends(asking)])
    router = APIRouter(dependencies=[Depends(deeper)])
    router.add_api_route("/", endpoint, dependencies=[Depends(asking_in_thread, use_cache=False)])
    app_with_tasks(app).include_router(router, dependencies=[Depends(asking, use_cache=False)])
    async with serving(app, journal) as server:
        await server.get()
        of_first = list(found)
        await server.get()
    assert len(set(map(id, of_first))) == 1
    assert len(of_first) >= 10
    assert len(set(map(id, found))) == 2
    assert journal.count("after_response") == 2


@pytest.mark.parametrize("level", ["app", "router", "include", "route", "parameter", "sub-dependency"])
async def test_tasks_can_be_scheduled_by_a_dependency_on_every_level_g1_g12(journal: Journal, level: str) -> None:
    async def schedules(tasks: Tasks) -> None:
        journal.each_phase(tasks)

    async def nests(_: Annotated[None, Depends(schedules)]) -> None: ...

    async def with_parameter(_: Annotated[None, Depends(schedules)]) -> None: ...

    async def without() -> None: ...

    at: dict[str, Any] = {level: [Depends(schedules)], "sub-dependency": [Depends(nests)]}
    app = FastAPI(dependencies=at.get("app", []))
    router = APIRouter(dependencies=at.get("router", []))
    route = at["sub-dependency"] if level == "sub-dependency" else at.get("route", [])
    router.add_api_route("/", with_parameter if level == "parameter" else without, dependencies=route)
    app.include_router(router, dependencies=at.get("include", []))
    async with serving(app_with_tasks(app), journal) as server:
        await server.get()
    assert journal.without("returned") == ["immediate", "after_route", "start", "final", "after_response"]


async def test_the_dependency_can_be_overridden_g12(journal: Journal) -> None:
    class Fake:
        def schedule(self, func: Callable[..., Any], *args: Any) -> None:
            journal.append(f"scheduled {args[0]}")

    async def elsewhere() -> TasksScheduler:
        return current_host().scope()

    async def endpoint(tasks: Tasks) -> None:
        tasks.schedule(journal.note, "it")

    async def get() -> list[str]:
        async with serving(app) as server:
            assert (await server.get()).status == 200
        return journal

    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    app.dependency_overrides[get_tasks] = Fake
    assert await get() == ["scheduled it"]
    app.dependency_overrides[get_tasks] = elsewhere
    assert await get() == ["scheduled it", "it"]
    app.dependency_overrides.clear()
    assert await get() == ["scheduled it", "it", "it"]


async def test_two_requests_at_once_have_nothing_in_common_g12(journal: Journal) -> None:
    async def endpoint(name: str, tasks: Tasks) -> None:
        journal.each_phase(tasks, f"{name} ")
        if name == "a":
            reached.set()
            await go_on.wait()

    async def get(server: Server, name: str) -> None:
        await server.get(query=f"name={name}".encode())

    reached, go_on = anyio.Event(), anyio.Event()
    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    async with serving(app) as server, anyio.create_task_group() as tg:
        tg.start_soon(get, server, "a")
        await reached.wait()
        await server.get(query=b"name=b")
        await turns()
        assert journal == ["a immediate", "b immediate", "b after_route", "b after_response"]
        go_on.set()
    assert journal[4:] == ["a after_route", "a after_response"]


async def test_a_dependency_on_get_tasks_gets_the_same_scheduler_g12() -> None:
    async def own(tasks: Annotated[TasksScheduler, Depends(get_tasks)]) -> TasksScheduler:
        return tasks

    async def endpoint(tasks: Tasks, by_function: Annotated[TasksScheduler, Depends(own)]) -> bool:
        return tasks is by_function

    app = FastAPI()
    app_with_tasks(app)
    app.add_api_route("/", endpoint)
    async with serving(app) as server:
        assert (await server.get()).json() is True
