"""G1, G12: tasks that are scheduled while a response streams."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import anyio
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.responses import StreamingResponse
from tests.fastapi_tasks.apps import ASYNC_AND_DEF, GENERATORS, ORDER, Journal, app_with_scopes, serving

from fastapi_tasks import Tasks, TasksScheduler


def streaming_app(journal: Journal, kind: str, is_async: bool) -> FastAPI:
    """Return an app whose stream schedules too, after its route."""

    async def scheduled(tasks: Tasks, background: BackgroundTasks) -> TasksScheduler:
        journal.each_phase(tasks)
        background.add_task(journal.note_late, "background")
        return tasks

    async def async_stream(tasks: Annotated[TasksScheduler, Depends(scheduled)]) -> AsyncIterator[str]:
        yield "one"
        immediate, after_route, _ = journal.each_phase(tasks, "late ")
        await immediate.wait()
        await after_route.wait()
        journal.append("streamed")
        yield "two"

    def stream(tasks: Annotated[TasksScheduler, Depends(scheduled)]) -> Iterator[str]:
        yield "one"
        immediate, after_route, _ = journal.each_phase(tasks, "late ")
        anyio.from_thread.run(immediate.wait)
        anyio.from_thread.run(after_route.wait)
        journal.append("streamed")
        yield "two"

    async def endpoint(tasks: Annotated[TasksScheduler, Depends(scheduled)]) -> StreamingResponse:
        return StreamingResponse((async_stream if is_async else stream)(tasks))

    if kind == "response":
        return app_with_scopes(journal, endpoint)
    return app_with_scopes(journal, async_stream if is_async else stream, **dict(GENERATORS)[kind])


@ASYNC_AND_DEF
@pytest.mark.parametrize("kind", ["response", *(name for name, _ in GENERATORS)])
async def test_a_stream_s_tasks_for_phases_that_have_passed_start_at_once_g1_g12(
    journal: Journal, kind: str, is_async: bool
) -> None:
    async with serving(streaming_app(journal, kind, is_async), journal) as server:
        response = await server.get()
    assert response.body.index(b"one") < response.body.index(b"two")
    of_the_route = journal.without("body", "streamed", "returned", *(event for event in journal if "late" in event))
    assert of_the_route == ["function.exit", "immediate", "after_route", *ORDER[3:]]
    journal.assert_order("late immediate", "streamed", "final")
    # The producer of an SSE stream runs beside its route: there the two may start together.
    journal.assert_order("function.exit" if kind == "sse" else "after_route", "late after_route", "streamed", "final")
    journal.assert_order("request.exit", "late after_response")
