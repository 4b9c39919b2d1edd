"""A server that is killed in the middle of its work, and loses no task.

    python examples/crash.py

The program starts the app below under uvicorn, posts orders, kills the server with SIGKILL, and starts it again. Then
it counts. Each mail has the `message_id` of its task: a task may run twice, and the id shows that. For Linux and macOS.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import anyio
import httpx
from fastapi import FastAPI

from fastapi_tasks import Journal, Tasks, add_tasks, current_task

ORDERS = 20
WITHIN = 20.0  # seconds for everything that the program waits for

folder = Path(os.environ.get("CRASH_FOLDER", "."))


async def send_mail(order: int) -> None:
    """Take a while. A line in a file stands for the mail."""
    await anyio.sleep(0.2)
    with (folder / "mails.txt").open("a") as mails:
        mails.write(f"{order} {current_task().message_id}\n")


app = FastAPI()
add_tasks(app, journal=Journal(folder / "tasks.db", [send_mail]), max_running=2)


@app.get("/ready")
async def ready() -> None: ...


@app.post("/orders/{number}")
async def order(number: int, tasks: Tasks) -> int:
    tasks.after_response.schedule(send_mail, number)
    return number


def serve(where: str, port: int) -> subprocess.Popen[bytes]:
    """Start the app, and wait until it answers."""
    command = [sys.executable, "-m", "uvicorn", "crash:app", "--port", str(port), "--log-level", "warning"]
    env = {**os.environ, "CRASH_FOLDER": where}
    server = subprocess.Popen(command, cwd=Path(__file__).parent, env=env)  # noqa: S603 - the command has no input
    deadline = time.monotonic() + WITHIN
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/ready", trust_env=False)
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return server


def mails(where: str) -> list[str]:
    """Return the mails that were sent so far."""
    path = Path(where, "mails.txt")
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as where:
        server = serve(where, port)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            answered = [number for number in range(ORDERS) if client.post(f"/orders/{number}").is_success]
        server.kill()  # SIGKILL: the process gets no chance to save anything
        server.wait()
        print(f"{len(answered)} orders were answered, then the server was killed")
        print(f"fewer mails were sent: {len(mails(where)) < ORDERS}")

        server = serve(where, port)
        deadline = time.monotonic() + WITHIN
        while len({line.split()[0] for line in mails(where)}) < ORDERS and time.monotonic() < deadline:
            time.sleep(0.05)
        server.send_signal(signal.SIGTERM)
        server.wait()
        sent = Counter(mails(where))
        print(f"the server runs again: {len({line.split()[0] for line in sent})} orders have their mail")
        print(f"each task has one message_id: {len(sent) == ORDERS}")


if __name__ == "__main__":
    main()
