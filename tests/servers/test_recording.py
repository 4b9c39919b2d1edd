"""`record_tasks` beside a server in a thread of the test."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator

import httpx
import uvicorn
from fastapi import Depends, FastAPI
from tests.backends import turns

from fastapi_tasks import Tasks, add_tasks
from fastapi_tasks.testing import record_tasks

ENDS_WITHIN = 10.0  # seconds


async def send() -> None: ...


async def session(tasks: Tasks) -> AsyncIterator[None]:
    yield
    await turns()
    tasks.after_response.schedule(send)


def test_a_server_in_a_thread_is_waited_for_until_its_requests_are_over_g1() -> None:
    """The client has the response earlier; a dependency schedules later, at its exit."""
    app = FastAPI(dependencies=[Depends(session)])
    add_tasks(app)
    app.add_api_route("/", lambda: None)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # a client may connect before the server is ready
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        with record_tasks(app) as tasks:
            thread = threading.Thread(target=server.run, args=([listener],))
            thread.start()
            try:
                with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
                    for number in range(1, 11):
                        assert client.get("/").status_code == 200
                        tasks.wait_all()
                        assert len(tasks.succeeded) == number
            finally:
                server.should_exit = True
                thread.join(ENDS_WITHIN)
