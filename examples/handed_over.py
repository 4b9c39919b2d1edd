"""500 orders with two tasks each. The tasks run in the app, or in a worker of Taskiq or Celery; no endpoint changes.

    python examples/handed_over.py                     the tasks run in the app
    python examples/handed_over.py --queue taskiq      the command starts a Redis, a worker and the app
    python examples/handed_over.py --queue celery      the same with Celery

The last two need `redis-server`, and `pip install "fastapi-tasks[taskiq,celery]"`. App and worker import this file as
the module `handed_over`: in your own program, put the functions and the queue into a module of their own.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from fastapi_tasks import Tasks, add_tasks
from fastapi_tasks.queues import Queue

QUEUE = os.environ.get("QUEUE", "none")
REDIS = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
LEDGER = os.environ.get("LEDGER", os.devnull)  # a file with one line for each run
ORDERS = 500


# The tasks: plain functions.


async def send_mail(order: int) -> None:
    note(f"mail {order}")


def archive(order: int) -> None:
    note(f"archive {order}")


def note(line: str) -> None:
    with open(LEDGER, "a") as ledger:  # noqa: PTH123 - one write, so that lines of several processes do not mix
        ledger.write(f"{line}\n")


# The queue: the only lines that know of an engine.

queues: list[Queue] = []
if QUEUE == "taskiq":
    from taskiq_redis import RedisStreamBroker

    from fastapi_tasks.taskiq import TaskiqQueue

    broker = RedisStreamBroker(REDIS, consumer_id="0")
    queues = [TaskiqQueue(broker, [send_mail, archive])]
elif QUEUE == "celery":
    from celery import Celery

    from fastapi_tasks.celery import CeleryQueue

    engine: Any = Celery("shop", broker=REDIS)
    engine.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
    )
    queues = [CeleryQueue(engine, [send_mail, archive])]


# The app.

app = FastAPI()
add_tasks(app, queues=queues, shield_timeout=20)


@app.post("/orders/{order}")
async def place(order: int, tasks: Tasks) -> str:
    tasks.after_response.schedule(send_mail, order)
    tasks.after_response.schedule(archive, order)
    return "thank you"


# The command: it starts all processes, places the orders, and counts the runs.

WORKERS = {
    "taskiq": "taskiq worker handed_over:broker --workers 1 --log-level ERROR",
    "celery": "celery --quiet -A handed_over:engine worker --concurrency 1 --loglevel ERROR",
}
WITHIN = 30.0  # seconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(*command: str, **env: str) -> Generator[None]:
    """Run a program, and end it with all of its own processes."""
    with subprocess.Popen(  # noqa: S603
        command,
        cwd=Path(__file__).parent,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as started:
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGTERM)
            try:
                started.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(started.pid, signal.SIGKILL)


def wait_for(port: int) -> None:
    """Wait until a program listens."""
    deadline = time.monotonic() + WITHIN
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def runs_of(ledger: Path) -> Counter[str]:
    """Wait until each task has run, at most a while, and count the runs."""
    deadline = time.monotonic() + WITHIN
    while True:
        runs = Counter(ledger.read_text().splitlines())
        if len(runs) == 2 * ORDERS or time.monotonic() > deadline:
            return runs
        time.sleep(0.05)


def main(queue: str) -> None:
    server = shutil.which("redis-server") or shutil.which("valkey-server")
    if queue != "none" and server is None:
        print("no redis-server here: install it, or use --queue none")
        return
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ledger = Path(folder, "ledger")
        ledger.touch()
        port, redis = free_port(), free_port()
        env = {"QUEUE": queue, "REDIS_URL": f"redis://127.0.0.1:{redis}/0", "LEDGER": str(ledger)}
        if server is not None and queue != "none":
            stack.enter_context(process(server, "--port", str(redis), "--save", "", "--dir", folder))
            wait_for(redis)
            stack.enter_context(process(sys.executable, "-m", *WORKERS[queue].split(), **env))
        stack.enter_context(process(sys.executable, "-m", "uvicorn", "handed_over:app", "--port", str(port), **env))
        wait_for(port)
        began = time.monotonic()
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            for order in range(ORDERS):
                client.post(f"/orders/{order}").raise_for_status()
        answered = time.monotonic() - began
        runs = runs_of(ledger)
        print(f"queue: {queue}; {ORDERS} orders, answered within {answered:.1f} s")
        print(f"all tasks over after {time.monotonic() - began:.1f} s")
        print(f"{len(runs)} of {2 * ORDERS} tasks ran, {runs.total() - len(runs)} runs were twins")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queue", choices=["none", "taskiq", "celery"], default="none")
    main(parser.parse_args().queue)
