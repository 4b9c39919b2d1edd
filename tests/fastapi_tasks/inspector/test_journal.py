"""G20, G22: the inspector and a journal: a task that waits for it or was recovered, and the tasks in its file."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import Depends, FastAPI, HTTPException
from tests.backends import until
from tests.fastapi_tasks.apps import Server, host_of, serving
from tests.taskphase.journal.hosts import MOMENT, Program, disk_of, killed
from tests.taskphase.journal.test_writer import reached

from fastapi_tasks import Journal, JournalOverview, TaskHost, add_tasks
from fastapi_tasks.inspector import History, _journal, router
from taskphase.journal import _recovery
from taskphase.journal._journal import _LIMITER

EVIL = "<img src=x\nonerror=alert(1)>"


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path / "tasks.db")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have hosts look for tasks of dead hosts often, and the page look at the file each time."""
    monkeypatch.setattr(_recovery, "_PAUSE", MOMENT)
    monkeypatch.setattr(_journal, "FRESH", 0)
    monkeypatch.setattr(_journal, "SHARE", 0)


def app_of(program: Program | None, history: History | None = None, **settings: Any) -> FastAPI:
    app, history = FastAPI(), history or History()
    app.include_router(router(history, prefix="/tasks", **{"allow_unauthenticated": True, **settings}))
    add_tasks(app, observers=[history], journal=None if program is None else program.journal())
    return app


async def look(server: Server) -> dict[str, Any]:
    response = await server.get("/tasks/json")
    assert response.status == 200
    return json.loads(response.body)  # type: ignore[no-any-return]


async def test_the_page_shows_a_task_that_waits_for_its_journal_g20_g22(program: Program) -> None:
    app = app_of(program)
    async with serving(app) as server:
        host = host_of(app)
        disk = disk_of(host)
        disk.hangs = "COMMIT"
        task = host.schedule(program.send, 1)
        await reached(disk)
        picture = await look(server)
        assert [row["status"] for row in picture["alive"]] == ["recording"]
        assert picture["counts"]["recording"] == 1
        disk.go_on.set()
        await until(lambda: task.status == "succeeded")
        assert b'"record"' in (await server.get("/tasks/json")).body


async def test_the_data_have_the_due_and_failed_tasks_of_all_hosts_g20_g22(program: Program) -> None:
    app = app_of(program)
    async with serving(app) as server, TaskHost(journal=program.journal()) as other:
        due = other.task(name=EVIL).schedule(program.hold, "secret")
        await due.started.wait()
        failed = host_of(app).schedule(program.fail, EVIL)
        await program.has({str(due.message_id): "due", str(failed.message_id): "failed"})
        picture = await look(server)
        program.release.set()
        await due.wait()
        await program.has({str(failed.message_id): "failed"})
        assert (await look(server))["journal"]["due_count"] == 0
    journal = picture["journal"]
    (row,), (dead_letter,) = journal["due"], journal["failed"]
    assert (journal["due_count"], journal["failed_count"]) == (1, 1)
    assert (row["id"], row["owner"], row["recoveries"], row["phase"]) == (due.message_id, "alive", 0, "immediate")
    assert (row["function"], row["name"]) == (due.function, EVIL.replace("\n", "\\n"))
    assert abs(row["written"] - time.time()) < 60
    assert (dead_letter["id"], dead_letter["name"]) == (failed.message_id, None)
    assert dead_letter["error"] == f"LookupError: {EVIL}".replace("\n", "\\n")
    assert row["written"] <= dead_letter["failed"] <= picture["now"]
    assert "secret" not in json.dumps(picture)


async def test_a_recovered_task_has_a_mark_and_a_count_g20_g22(program: Program) -> None:
    app = app_of(program)
    async with serving(app) as server:
        message_id = await killed(program, function="hold")
        await until(lambda: program.runs)
        picture = await look(server)
        (alive,), (row,) = picture["alive"], picture["journal"]["due"]
        assert (alive["message_id"], alive["recovered"], alive["queue"]) == (message_id, True, None)
        assert (row["id"], row["owner"], row["recoveries"]) == (message_id, "alive", 1)
        assert picture["counts"]["recovered"] == 1
        own = host_of(app).schedule(program.send)
        program.release.set()
        await program.has({})
        ended = {row["message_id"]: row["recovered"] for row in (await look(server))["tasks"]}
        assert ended == {message_id: True, own.message_id: False}


async def test_the_rows_are_bounded_and_arguments_are_shown_on_request_only_g20_g22(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_journal, "MOST_ROWS", 2)
    app = app_of(program, History(arguments=True))
    async with serving(app) as server:
        tasks = [host_of(app).schedule(program.hold, f"argument {number}") for number in range(5)]
        await until(lambda: len(program.runs) == 5)
        journal = (await look(server))["journal"]
        assert [row["id"] for row in journal["due"]] == [task.message_id for task in tasks[:2]]
        assert [row["arguments"] for row in journal["due"]] == ["'argument 0'", "'argument 1'"]
        assert journal["due_count"] == 5
        program.release.set()
        await program.has({})


async def test_without_a_journal_the_data_have_none_g20(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(app_of(None)) as server:
        picture = await look(server)
    assert "journal" not in picture
    assert picture["counts"]["recovered"] == 0


async def test_the_journal_has_the_guard_of_the_page_g20_g22(program: Program) -> None:
    def refuse() -> None:
        raise HTTPException(401)

    guard = {"dependencies": [Depends(refuse)], "allow_unauthenticated": False}
    async with serving(app_of(program, **guard)) as server:
        for path in ("json", "events", "journal.js"):
            response = await server.get(f"/tasks/{path}")
            assert (response.status, b"journal" in response.body) == (401, False)


async def test_the_rest_of_the_page_does_not_wait_for_a_disk_that_hangs_g20_g22(program: Program) -> None:
    app = app_of(program)
    async with serving(app) as server:
        await look(server)
        async with _LIMITER.get():  # as an overview that has no end
            picture = await look(server)
        assert picture["journal"] == {"error": "the disk does not answer"}
        assert picture["counts"]["running"] == 0
        assert (await look(server))["journal"]["due"] == []


async def test_a_file_that_cannot_be_read_is_told_on_the_page_g20_g22(program: Program) -> None:
    async with serving(app_of(program)) as server:
        kept, other = program.path.with_suffix(".kept"), program.path.with_suffix(".other")
        kept.hardlink_to(program.path)
        other.symlink_to(program.path.parent)
        other.replace(program.path)  # at no moment there is no file: the journal would make a new one
        try:
            assert "unable to open database file" in (await look(server))["journal"]["error"]
        finally:
            kept.replace(program.path)


@pytest.mark.parametrize("setting", ["FRESH", "SHARE"])
async def test_one_look_at_the_file_is_enough_for_all_tabs_for_a_time_g20_g22(
    program: Program, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setattr(_journal, setting, 1e9)
    app = app_of(program)
    async with serving(app) as server:
        first = (await look(server))["journal"]
        task = host_of(app).schedule(program.fail)
        await program.has({str(task.message_id): "failed"})
        assert (await look(server))["journal"] == first
    monkeypatch.setattr(_journal, setting, 0)
    async with serving(app_of(program)) as server:
        assert (await look(server))["journal"]["failed_count"] == 1


async def test_tabs_that_ask_at_once_share_one_look_at_the_file_g20_g22(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a long file the looks would take turns, and the last ones would find that the disk does not answer."""

    class Counted(Journal):
        async def overview(self, *args: Any, **options: Any) -> JournalOverview:
            looks.append(None)
            return await super().overview(*args, **options)

    async def tab() -> None:
        seen.append((await look(server))["journal"])

    monkeypatch.setattr(_journal, "FRESH", 1e9)
    looks, seen = list[None](), list[Any]()
    app, history = FastAPI(), History()
    app.include_router(router(history, prefix="/tasks", allow_unauthenticated=True))
    add_tasks(app, observers=[history], journal=Counted(program.path, [program.send]))
    async with serving(app) as server, anyio.create_task_group() as tg:
        for _ in range(5):
            tg.start_soon(tab)
    assert (len(looks), [each["due"] for each in seen]) == (1, [[]] * 5)


async def test_a_stream_has_the_journal_only_if_it_has_changed_g20_g22(program: Program) -> None:
    async def note(message: Any) -> None:
        if message.get("body", b"").startswith(b"data: "):
            has_begun.set()

    async def read() -> None:
        response = await server.get("/tasks/events", on_send=note)
        lines.extend(line[6:] for line in response.body.decode().splitlines() if line.startswith("data: "))

    lines: list[str] = []
    has_begun = anyio.Event()
    app = app_of(program)
    async with serving(app) as server, anyio.create_task_group() as tg:
        tg.start_soon(read)
        await has_begun.wait()
        host_of(app).schedule(anyio.lowlevel.checkpoint)  # no task of the journal
    first, second, *_ = map(json.loads, lines)
    assert first["journal"]["due"] == []
    assert len(second["tasks"]) == 1
    assert "journal" not in second
