"""CPU work in worker processes, while the app answers other requests.

    uvicorn primes:app --app-dir examples       serves the app
    python examples/primes.py                   two counts end, and one is stopped

The app counts prime numbers in pure Python: in a thread, each count would slow all requests down. A count that has
begun ends before the server does (`shield=True`); a client that deletes its count kills the process of the count.
"""

from contextlib import suppress

import anyio
import httpx
from fastapi import FastAPI, HTTPException

from fastapi_tasks import Task, Tasks, TasksSaturatedError, TaskStatus, add_tasks

app = FastAPI()
add_tasks(app, max_running=8, max_pending=20)

counts: dict[int, Task[int]] = {}


def count_primes(below: int) -> int:
    """The function and `below` are pickled: keep arguments and results small."""
    return sum(all(number % other for other in range(2, int(number**0.5) + 1)) for number in range(2, below))


@app.post("/counts", status_code=202)
async def begin(below: int, tasks: Tasks) -> int:
    try:
        task = tasks.task(run_in="process", shield=True, timeout=60).schedule(count_primes, below)
    except TasksSaturatedError as error:
        raise HTTPException(503, str(error), {"Retry-After": "5"}) from None
    counts[task.id] = task
    return task.id


@app.get("/counts/{number}")
async def end_of(number: int) -> dict[str, str | int | None]:
    task = found(number)
    await task.wait()
    primes = task.return_value if task.status is TaskStatus.SUCCEEDED else None
    return {"status": task.status.value, "primes": primes}


@app.delete("/counts/{number}")
async def stop(number: int) -> dict[str, str]:
    task = found(number)
    task.cancel()
    await task.wait()
    return {"status": task.status.value}


def found(number: int) -> Task[int]:
    if number not in counts:
        raise HTTPException(404)
    return counts[number]


async def main() -> None:
    import socket

    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    url = "http://{}:{}".format(*listener.getsockname())
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with anyio.fail_after(50):
        async with anyio.create_task_group() as tg, httpx.AsyncClient(base_url=url, trust_env=False) as client:
            tg.start_soon(server.serve, [listener])
            begun = [(await client.post("/counts", params={"below": below})).json() for below in (10**9, 100, 1000)]
            print("stopped:", (await client.delete(f"/counts/{begun[0]}")).json())
            for number in begun[1:]:
                print("counted:", (await client.get(f"/counts/{number}")).json())
            server.should_exit = True


if __name__ == "__main__":  # the worker processes import this file again
    with suppress(KeyboardInterrupt):  # uvicorn raises it when the app has shut down
        anyio.run(main)
