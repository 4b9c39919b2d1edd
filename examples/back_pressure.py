"""An app that prints two letters at a time, lets four wait, and tells other clients when to come back.

    uvicorn back_pressure:app --app-dir examples       serves the app
    python examples/back_pressure.py                   sends ten letters to the app, and refused letters again

`schedule()` refuses a task for which there is no room. The task then does not exist, so the client may send the same
request again.
"""

import math
import sys
from contextlib import suppress

import anyio
import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse

from fastapi_tasks import Tasks, TasksSaturatedError, add_tasks, current_host

MAX_RUNNING = 2
SECONDS_EACH = 0.2  # for one letter; a real app measures this

app = FastAPI()
add_tasks(
    app,
    max_running=MAX_RUNNING,
    max_pending=4,
    drain_timeout=5,
)

printed: list[int] = []


@app.exception_handler(TasksSaturatedError)
async def busy(_request: Request, error: TasksSaturatedError) -> JSONResponse:
    """Answer 503, with the seconds until the tasks of now will have ended."""
    ahead = error.running + error.waiting + error.deferred
    seconds = ahead * SECONDS_EACH / MAX_RUNNING
    return JSONResponse({"detail": "too much to do"}, 503, {"Retry-After": str(math.ceil(seconds))})


async def print_letter(number: int) -> None:
    await anyio.sleep(SECONDS_EACH)
    printed.append(number)


@app.post("/letters/{number}", status_code=202)
async def accept(number: int, tasks: Tasks) -> None:
    tasks.task(name="print").schedule(print_letter, number)


@app.get("/metrics")
async def metrics() -> PlainTextResponse:
    """Return the counts of the tasks, in the text format of Prometheus."""
    now = current_host().statistics()
    states = {"running": now.running, "waiting": now.waiting, "deferred": now.deferred, "retrying": now.retrying}
    ends = {"succeeded": now.succeeded, "failed": now.failed, "cancelled": now.cancelled, "dropped": now.dropped}
    lines = ["# TYPE tasks gauge", *(f'tasks{{state="{state}"}} {count}' for state, count in states.items())]
    lines += ["# TYPE task_threads gauge", f"task_threads {now.threads}"]
    lines += ["# TYPE tasks_ended_total counter"]
    lines += [f'tasks_ended_total{{end="{end}"}} {count}' for end, count in ends.items()]
    return PlainTextResponse("\n".join(lines) + "\n")


async def main() -> None:
    """Send ten letters, and the refused ones again after the time that the server asks for."""
    import socket

    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    url = "http://{}:{}".format(*listener.getsockname())
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tg, httpx.AsyncClient(base_url=url, trust_env=False) as client:
            tg.start_soon(server.serve, [listener])
            await send(client, list(range(10)))
            server.should_exit = True
    print(f"printed: {sorted(printed)}")
    if sorted(printed) != list(range(10)):
        sys.exit("a letter is missing")


async def send(client: httpx.AsyncClient, letters: list[int]) -> None:
    """Send letters until all are accepted. Wait in between as long as the server asks for."""

    async def post(number: int) -> None:
        answers[number] = await client.post(f"/letters/{number}")

    while letters:
        answers: dict[int, httpx.Response] = {}
        async with anyio.create_task_group() as tg:
            for number in letters:
                tg.start_soon(post, number)
        letters = [number for number, answer in answers.items() if answer.status_code == 503]
        print(f"accepted: {len(answers) - len(letters)}, refused: {len(letters)}")
        metrics = (await client.get("/metrics")).text
        print(*(f"  {line}" for line in metrics.splitlines() if line.startswith("tasks{")), sep="\n")
        if letters:
            seconds = max(int(answers[number].headers["Retry-After"]) for number in letters)
            print(f"coming back in {seconds} s")
            await anyio.sleep(seconds)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):  # uvicorn raises it when the app has shut down
        anyio.run(main)
