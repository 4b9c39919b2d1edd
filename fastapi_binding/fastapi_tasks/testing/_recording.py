"""The recorder for the tasks of an app."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskphase import TaskHost
from taskphase.testing import RecordedTasks, RunMode, TaskRecorder

from .._app import installation_of
from .._request import FIRST_MESSAGES
from ..errors import FastAPITasksUninitializedAppError

# The messages that end a response.
_ENDS = ("http.response.body", "http.response.pathsend")


@dataclass(eq=False, slots=True)
class RecordedRequest:
    """A request or websocket session, with its tasks: all tasks that its code schedules, and all tasks that these tasks
    schedule. But if a task sends a request to the same app, the tasks of that request belong to that request.

    :ivar method: for example "GET"; "WEBSOCKET" for a session
    :ivar path: the path without the query
    :ivar tasks: the tasks, with the same methods as the recorder
    """

    method: str
    path: str
    tasks: RecordedTasks[Any] = field(init=False, repr=False)
    _is_closing: bool = field(default=False, init=False, repr=False)


# The accounts of the running code, each with its recorder, the innermost last: a request may be inside a request.
_ACCOUNTS: ContextVar[tuple[tuple[TaskRecorder, object], ...]] = ContextVar("fastapi_tasks_accounts", default=())


class AppTaskRecorder(TaskRecorder):
    """Records the tasks of an app during its `with` block: the result of `record_tasks()`."""

    _block = (
        "`with record_tasks(app) as tasks:`; with the fixture `record_tasks`, which enters it, write "
        "`tasks = record_tasks(app)`"
    )

    def __init__(self, app: FastAPI, *, run: RunMode = "normal", timeout: float | timedelta | None = 10) -> None:
        super().__init__(run=run, timeout=timeout)
        installation = installation_of(app)
        if installation is None:
            raise FastAPITasksUninitializedAppError(
                "record_tasks() takes the app on which add_tasks() was called: for a mounted app, its parent"
            )
        self._installation = installation
        self._requests: list[RecordedRequest] = []

    @property
    def requests(self) -> Sequence[RecordedRequest]:
        """The requests and websocket sessions since the beginning of the block, in the order of their beginning."""
        self._book.check_begun()
        return tuple(self._requests)

    def of_request(self, path: str) -> RecordedTasks[Any]:
        """Return the tasks of the requests and websocket sessions with this path, and all tasks that these schedule.

        :param path: the path in the request of the client, without the query
        """
        return self.claimed_by(lambda account: getattr(account, "path", None) == path, f"recorded tasks of {path}")

    def __enter__(self) -> AppTaskRecorder:
        super().__enter__()
        self._installation.around.append(self._put_around)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Stop recording. Waits for nothing.

        :raises UnexpectedFailures: if a task has failed unexpectedly
        :raises AssertionError: if an expected failure is missing
        """
        self._installation.around.remove(self._put_around)
        super().__exit__(exc_type, exc, tb)

    def claim(self, host: TaskHost | None) -> object:
        """Return the request that runs here; otherwise, for a host of the app, the recorder."""
        for recorder, account in reversed(_ACCOUNTS.get()):
            if recorder is self:
                return account
        return self if host in self._installation.hosts else None

    def is_busy(self) -> bool:
        """Return whether a request whose client has the whole response still runs."""
        return any(request._is_closing for request in self._requests)

    def _put_around(self, call: ASGIApp) -> ASGIApp:
        return partial(self._call, call)

    async def _call(self, call: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app. The account is the request, or the recorder for a lifespan."""
        if scope["type"] not in ("http", "websocket"):
            await self._on_account(self, call(scope, receive, send))
            return
        request = self._begin(scope)
        try:
            await self._on_account(request, call(scope, receive, self._watched(request, send)))
        except Exception:
            await self.finish(request)
            raise
        else:
            await self.finish(request)
        finally:
            request._is_closing = False
            self.changed()

    def _begin(self, scope: Scope) -> RecordedRequest:
        request = RecordedRequest(scope.get("method", "WEBSOCKET"), scope["path"])
        request.tasks = self.claimed_by(lambda account: account is request, f"recorded tasks of {request}")
        self._requests.append(request)
        return request

    def _watched(self, request: RecordedRequest, send: Send) -> Send:
        has_begun = False

        async def watched(message: Message) -> None:
            nonlocal has_begun
            if not has_begun and message["type"] in FIRST_MESSAGES:
                has_begun = True
                await self.finish(request)
            if message["type"] in _ENDS and not message.get("more_body", False):
                request._is_closing = True
            await send(message)

        return watched

    async def _on_account(self, account: object, call: Awaitable[None]) -> None:
        token = _ACCOUNTS.set((*_ACCOUNTS.get(), (self, account)))
        try:
            await call
        finally:
            _ACCOUNTS.reset(token)


def record_tasks(app: FastAPI, *, run: RunMode = "normal", timeout: float | timedelta | None = 10) -> AppTaskRecorder:
    """Return a context manager that records the tasks of `app` during its `with` block, and is the sequence of these
    tasks.

        with record_tasks(app) as tasks, TestClient(app) as client:
            client.post("/users", params={"email": "ada@example.org"})
            tasks.wait_all()
            tasks.after_response.assert_scheduled(send_mail, "ada@example.org")

    It works with every client that runs the app in this process (`TestClient`, httpx's `ASGITransport`, a server in a
    thread), with a lifespan and without. Enter it before or after the start of the app, in any thread. Several
    recorders may record at once. The recorder has the tasks of all requests, of mounted apps, of the startup, of all
    other code that uses the host of the app, and all tasks that these schedule. It ignores tasks that a task of an
    earlier request schedules. Before the block its methods raise `RuntimeError`.

    The end of the block raises `UnexpectedFailures` if a task has failed, unless `expect_failure()` was called for it.
    It does not wait. In the example the client ends first: then the app has shut down, and all tasks have ended.

    `run` is one of:

    - "normal": tasks run as always.
    - "never": tasks are scheduled, held for their phase and dropped as always. A task whose phase has come does not
      start. The app forgets the task: the task does not count for `max_pending`, and the shutdown does not wait for it.
      Run the task by hand, with `run_all()` or `await task()`.
    - "inline": tasks run as always, but the response begins only after the ends of the immediate and after_route tasks,
      and the ASGI call returns only after the ends of the after_response tasks, and of all tasks that these schedule.
      A task that waits for a later event of its own request cannot end. Tasks of no request run as always.

    :param app: the app with `add_tasks()`
    :param run: "normal", "never" or "inline"
    :param timeout: the most seconds of each wait, or a `timedelta`, in the event loop's time, with the jumps of a
        `JumpClock`; None: for ever
    :raises FastAPITasksUninitializedAppError: if `add_tasks()` was not called on `app`
    :raises TypeError: if `timeout` is no number
    :raises ValueError: if `run` is another word, or `timeout` is negative or not a number
    """
    return AppTaskRecorder(app, run=run, timeout=timeout)
