"""A webhook that may fail: five attempts of three seconds each, longer and longer pauses, and an alert at the end.

`timeout` bounds one attempt, and `retry` asks for the next one. `on_error` is called when there is no other, so that is
where the alert belongs: docs/retries.md. With `jitter`, the default, pauses are drawn at
random and need not grow. `explore` runs the tests in virtual time, on asyncio and trio: docs/testing.md.
"""

import anyio
import httpx
from fastapi import FastAPI

from fastapi_tasks import Task, Tasks, add_tasks, retry
from fastapi_tasks.testing import record_tasks
from taskphase.testing import explore

app = FastAPI()
add_tasks(app, shield_timeout=30)  # 5 attempts of 3 s, and pauses of 1 + 2 + 4 + 8 s

alerts: list[str] = []
# httpx's errors are not Python's ConnectionError; a TimeoutError comes from the task's own `timeout`.
five_times = retry(attempts=5, on=(httpx.HTTPError, TimeoutError), backoff=1, jitter=False)


async def alert(task: Task, error: Exception) -> None:
    alerts.append(f"{task.name} failed after {task.attempt} attempts: {error!r}")


async def call(event: str) -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(app.state.hook), timeout=None) as client:
        (await client.post("https://hook.example.org", json=event)).raise_for_status()


@app.post("/events/{event}", status_code=202)
async def publish(event: str, tasks: Tasks) -> None:
    hook = tasks.task(name="webhook", shield=True, timeout=3, retry=five_times, on_error=alert)
    hook.after_response.schedule(call, event)


async def attempts_at(*answers: int | str) -> list[float]:
    """Publish an event, let the hook answer like that, and return the seconds at which it was called."""
    alerts.clear()
    times: list[float] = []
    left = list(answers)

    async def hook(_request: httpx.Request) -> httpx.Response:
        times.append(anyio.current_time())
        answer = left.pop(0)
        if answer == "refuses":
            raise httpx.ConnectError("refused")
        if answer == "hangs":
            await anyio.sleep_forever()
        return httpx.Response(int(answer))

    app.state.hook = hook
    with record_tasks(app, timeout=None) as tasks:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            (await client.post("/events/paid")).raise_for_status()
        await tasks.await_all()
        if alerts:
            tasks.of(call).expect_failure(httpx.HTTPError)
    assert left == []
    return [round(time - times[0], 3) for time in times]


@explore(schedules=5)
async def test_a_hook_is_called_until_it_answers() -> None:
    assert await attempts_at("hangs", 503, "refuses", 200) == [0, 3 + 1, 3 + 1 + 2, 3 + 1 + 2 + 4]
    assert alerts == []


@explore(schedules=5)
async def test_the_handler_is_called_once_when_all_five_attempts_have_failed() -> None:
    assert await attempts_at(503, 503, 503, 503, "refuses") == [0, 1, 3, 7, 15]
    assert alerts == ["webhook failed after 5 attempts: ConnectError('refused')"]
