"""The tasks of an app, recorded, for `testing`. Nothing of this is imported in production."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial, wraps
from threading import Lock
from types import TracebackType
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskphase import TaskHost
from taskphase.testing import RecordedTasks, RunMode, TaskRecorder

from .._app import Installation, installation_of
from ..errors import FastAPITasksUninitializedAppError

# The messages that end a response.
_ENDS = ("http.response.body", "http.response.pathsend")


@dataclass(eq=False, slots=True)
class RecordedRequest:
    """A request or websocket session, with its tasks: what its code has scheduled, through `Tasks`, `current_host()`
    or otherwise, and what these tasks have scheduled in turn. What a task schedules by way of a request that it makes
    to the same app belongs to that request.

    :ivar method: such as "GET"; "WEBSOCKET" for a session
    :ivar path: without the query
    :ivar tasks: with all that the recorder itself can do
    """

    method: str
    path: str
    tasks: RecordedTasks[Any] = field(init=False, repr=False)
    _is_closing: bool = field(default=False, init=False, repr=False)


# What runs here on whose account, the innermost last: one for each recorder, and each request within a request.
_ACCOUNTS: ContextVar[tuple[tuple[TaskRecorder, object], ...]] = ContextVar("fastapi_tasks_accounts", default=())


class AppTaskRecorder(TaskRecorder):
    """Records the tasks of an app while its `with` block lasts: what `record_tasks()` returns."""

    def __init__(self, app: FastAPI, *, run: RunMode = "normal", timeout: float | None = 10) -> None:
        super().__init__(run=run, timeout=timeout)
        installation = installation_of(app)
        if installation is None:
            raise FastAPITasksUninitializedAppError(
                "record_tasks() takes an app on which add_tasks() was called; if it is mounted on one, that one"
            )
        self._installation = installation
        # That which `add_tasks` has made for this app; instrumentation may have made another one of it.
        self._app_class = next(cls for cls in type(app).__mro__ if "_fastapi_tasks" in vars(cls))
        self._requests: list[RecordedRequest] = []

    @property
    def requests(self) -> Sequence[RecordedRequest]:
        """The requests and websocket sessions since the recorder was entered, in the order in which they began."""
        return tuple(self._requests)

    def of_request(self, path: str) -> RecordedTasks[Any]:
        """Return the tasks of the requests and websocket sessions with this path, what they schedule in turn included.

        :param path: as the client asks for it, without the query
        """
        return self.claimed_by(lambda account: getattr(account, "path", None) == path, f"recorded tasks of {path}")

    def __enter__(self) -> AppTaskRecorder:
        super().__enter__()
        with _LOCK:
            if not self._installation.recorders:
                self._installation.unrecorded = self._app_class.__call__
                call = _recorded(self._app_class.__call__, self._installation)
                self._app_class.__call__ = call  # type: ignore[method-assign]
            self._installation.recorders.append(self)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Stop recording. Waits for nothing.

        :raises UnexpectedFailures: if a task has failed and nothing expects that
        :raises AssertionError: if something expects a failure and there was none
        """
        with _LOCK:
            self._installation.recorders.remove(self)
            if not self._installation.recorders:
                self._app_class.__call__ = self._installation.unrecorded  # type: ignore[method-assign]
        super().__exit__(exc_type, exc, tb)

    def claim(self, host: TaskHost | None) -> object:
        """Return the request that runs here, else the recorder itself for the app's own tasks."""
        for recorder, account in reversed(_ACCOUNTS.get()):
            if recorder is self:
                return account
        return self if host in self._installation.hosts else None

    def is_busy(self) -> bool:
        """Return whether a request goes on whose client has the whole response already."""
        return any(request._is_closing for request in self.requests)

    async def around(self, call: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app, on account of the request if it is one. To be called by the app itself."""
        if scope["type"] not in ("http", "websocket"):
            await self._on_account(self, call(scope, receive, send))
            return
        request = self._begun(scope)
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

    def _begun(self, scope: Scope) -> RecordedRequest:
        request = RecordedRequest(scope.get("method", "WEBSOCKET"), scope["path"])
        request.tasks = self.claimed_by(lambda account: account is request, f"recorded tasks of {request}")
        self._requests.append(request)
        return request

    def _watched(self, request: RecordedRequest, send: Send) -> Send:
        has_begun = False

        async def watched(message: Message) -> None:
            nonlocal has_begun
            if not has_begun:
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


_LOCK = Lock()


def _recorded(call: Callable[..., Awaitable[None]], installation: Installation) -> Callable[..., Awaitable[None]]:
    @wraps(call)
    async def recorded_call(app: FastAPI, scope: Scope, receive: Receive, send: Send) -> None:
        around: ASGIApp = partial(call, app)
        for recorder in tuple(installation.recorders):
            around = partial(recorder.around, around)
        await around(scope, receive, send)

    return recorded_call


def record_tasks(app: FastAPI, *, run: RunMode = "normal", timeout: float | None = 10) -> AppTaskRecorder:
    """Return a context manager that records the tasks of `app` while its `with` block lasts, and is the sequence of
    them.

        with record_tasks(app) as tasks, TestClient(app) as client:
            client.post("/users", params={"email": "ada@example.org"})
            tasks.wait_all()
            tasks.after_response.assert_scheduled(send_mail, "ada@example.org")

    It works with every client that runs the app in this process: `TestClient`, httpx's `ASGITransport`, a server in a
    thread; with a lifespan and without. It may be entered before the app is started or later, in any thread, and
    there may be several. Those of the app are the tasks of its requests, of apps that are mounted on it, of its
    startup, whatever else its host is asked to run, and what all these schedule.

    Leaving the block raises `UnexpectedFailures` if one of the tasks has failed, unless `expect_failure()` was called
    for it. It waits for nothing: where the client is left first, as above, the app has shut down, and all have ended.

    :param app: the one on which `add_tasks()` was called
    :param run: "normal" changes nothing. "never": tasks are scheduled, held for their phase and dropped as always,
        but instead of being started they are taken out of the app: they take no place among `max_pending`, and the
        shutdown does not wait for them. They can be run by hand, with `run_all()` or `await task()`. "inline": the real
        thing, awaited earlier: the response begins when the immediate and after_route tasks have ended, and the ASGI
        call returns when the after_response tasks have, those that they schedule included. A task that waits for what
        comes later in its request cannot end then. Tasks of no request run as always
    :param timeout: seconds of the event loop's time, jumps of a `JumpClock` included, that each wait for tasks may
        take; None: for ever
    :raises FastAPITasksUninitializedAppError: if `add_tasks()` was not called on `app`
    :raises TypeError: if `timeout` is no number
    :raises ValueError: if `run` is none of the three, or `timeout` is negative or not a number
    """
    return AppTaskRecorder(app, run=run, timeout=timeout)
