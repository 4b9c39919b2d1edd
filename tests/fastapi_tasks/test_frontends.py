"""G1, G5, G12: `app.frontend()`, whose response is sent before FastAPI exits the route's dependencies."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from tests.backends import turns
from tests.fastapi_tasks.apps import Journal, app_with_tasks, recording, serving

from fastapi_tasks import TaskConfig, Tasks, add_tasks

pytestmark = pytest.mark.skipif(not hasattr(FastAPI, "frontend"), reason="this FastAPI has no frontends")

BODIES = {
    "/index.html": b"<h1>shop</h1>",
    "/": b"<h1>shop</h1>",
    "/app.js": b"let it = 1",
    "/any/page": b"<h1>shop</h1>",
}


@pytest.fixture
def build(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text("<h1>shop</h1>")
    (tmp_path / "app.js").write_text("let it = 1")
    (tmp_path / "404.html").write_text("<h1>lost</h1>")
    return tmp_path


def app_of(build: Path, schedule: Callable[..., Any], *, fallback: str | None = None, **settings: Any) -> FastAPI:
    app = FastAPI(dependencies=[Depends(schedule)])
    app.frontend("/", directory=build, **({} if fallback is None else {"fallback": fallback}))  # type: ignore[attr-defined]
    return app_with_tasks(app, **settings)


def scheduling(journal: Journal, error: Exception | None = None) -> Callable[..., Any]:
    async def schedule(tasks: Tasks) -> AsyncIterator[None]:
        for when in ("success", "failure", "always"):
            journal.each_phase(tasks, f"{when} ", TaskConfig(when=when))  # type: ignore[arg-type]
        if error is not None:
            raise error
        yield
        journal.append("exit")

    return schedule


def check(journal: Journal, *, failed: bool) -> None:
    for when in ("always", "failure" if failed else "success"):
        journal.assert_order(f"{when} immediate", "start")
        journal.assert_order(f"{when} after_route", "start", "final", f"{when} after_response")
    dropped = "success" if failed else "failure"
    assert journal.only(f"{dropped} after_route", f"{dropped} after_response") == []


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", BODIES)
async def test_each_phase_of_a_frontend_comes_at_its_time_g1_g12(
    journal: Journal, build: Path, path: str, method: str
) -> None:
    """A file, the index, and a page of the app itself, for which the app sends the index."""
    app = app_of(build, scheduling(journal), fallback="index.html")
    async with serving(app, journal) as server:
        for _ in range(2):
            journal.clear()
            response = await server.request(method, path, headers=[(b"accept", b"text/html")])
            assert (response.status, response.body) == (200, BODIES[path] if method == "GET" else b"")
            await turns()
    check(journal, failed=False)
    journal.assert_order("exit", "success after_response")


async def test_a_page_that_a_frontend_does_not_have_is_no_failure_of_its_route_g5_g12(
    journal: Journal, build: Path
) -> None:
    async with serving(app_of(build, scheduling(journal), fallback="404.html"), journal) as server:
        response = await server.get("/none", headers=[(b"accept", b"text/html")])
    assert (response.status, response.body) == (404, b"<h1>lost</h1>")
    check(journal, failed=False)


@pytest.mark.parametrize("error", [HTTPException(403), LookupError()])
async def test_a_dependency_of_a_frontend_that_fails_fails_the_route_g5_g12(
    journal: Journal, build: Path, error: Exception
) -> None:
    async with serving(app_of(build, scheduling(journal, error)), journal) as server:
        response = await server.get("/index.html")
    assert response.status == (403 if isinstance(error, HTTPException) else 500)
    check(journal, failed=True)


async def test_without_a_lifespan_a_frontend_is_no_different_g1_g13(journal: Journal, build: Path) -> None:
    app = FastAPI(dependencies=[Depends(scheduling(journal))])
    app.frontend("/", directory=build)  # type: ignore[attr-defined]
    add_tasks(app, hold=True)
    async with recording(app, journal) as (server, _):
        assert (await server.get("/app.js")).status == 200
    check(journal, failed=False)
    journal.assert_order("success after_response", "returned")


async def test_an_api_beside_a_frontend_is_no_different_g1_g12(journal: Journal, build: Path) -> None:
    app = app_of(build, scheduling(journal))

    @app.get("/api")
    async def endpoint() -> None:
        journal.append("route")

    async with serving(app, journal) as server:
        assert (await server.get("/api")).status == 200
    check(journal, failed=False)
    journal.assert_order("route", "success after_route")
