"""The hosts of an app: one host for each lifespan that runs. Without a lifespan: one host for each request."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from traceback import format_exc
from typing import Any, TypeAlias
from weakref import WeakSet

from anyio import CancelScope
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskphase import DrainReport, TaskHost, TaskObserver

from ._request import SCOPE_KEY, RequestTasks
from .errors import FastAPITasksAlreadyAddedError

State: TypeAlias = MutableMapping[str, Any]
Wrapper: TypeAlias = Callable[[ASGIApp], ASGIApp]

_HOST_KEY = "fastapi_tasks_host"
"""The key of the host in the state of a lifespan, and so in the state of its requests."""

_LOGGER = logging.getLogger("fastapi_tasks")


@dataclass(eq=False, repr=False, kw_only=True)
class Installation:
    """The tasks of one app: the result of `add_tasks(app)`.

    :ivar app_host: makes the host of a lifespan
    :ivar request_host: makes the host of a single request
    :ivar drain_timeout: for the hosts of single requests, when a lifespan ends. A request itself waits for its tasks
    :ivar hold: True if each request has a host of its own
    :ivar has_settings: True if `add_tasks()` has settings that mean nothing on a mounted app
    :ivar find_telemetry: returns the observer for the telemetry that the program has set up; None if there is none
    :ivar open: the hosts of the lifespans that run now, in the order of their opening. The value is the state of the
        lifespan (granian clears it before shutdown; httpx has none)
    :ivar host: the only host of `open`, if requests share it: the fast path of nearly all requests, in `_app.py`.
        Otherwise None
    :ivar hosts: every host of the app, also the hosts of single requests
    :ivar around: wrappers around each call of the app, the last one outermost; for test tools
    :cvar has_warned: True if a request had to wait for its own tasks: the warning of that comes once in a process
    """

    has_warned = False

    app_host: Callable[[], TaskHost]
    request_host: Callable[[], TaskHost]
    drain_timeout: float | timedelta
    hold: bool
    has_journal: bool
    has_settings: bool
    find_telemetry: Callable[[], TaskObserver | None]
    open: dict[TaskHost, State] = field(default_factory=dict[TaskHost, State], init=False)
    host: TaskHost | None = field(default_factory=lambda: None, init=False)  # (a default would slow each look-up down)
    hosts: WeakSet[TaskHost] = field(default_factory=WeakSet[TaskHost], init=False)
    around: list[Wrapper] = field(default_factory=list[Wrapper], init=False)
    _alone: set[TaskHost] = field(default_factory=set[TaskHost], init=False)  # the open hosts of single requests
    _telemetry: TaskObserver | None = field(default=None, init=False)
    _has_looked: bool = field(default=False, init=False)  # for telemetry

    def surrounded(self, app: ASGIApp) -> ASGIApp:
        """Return the call of the app, in all wrappers of `around`."""
        call: ASGIApp = partial(self.run, app)
        for put_around in list(self.around):
            call = put_around(call)
        return call

    def _note_opened(self) -> None:
        hosts = list(self.open.items())  # another thread may change `open` meanwhile
        self.host = hosts[0][0] if len(hosts) == 1 and not self.hold else None
        if len(hosts) > 1:  # not before: the state belongs to the app, and the app may look at its content
            for host, state in hosts:
                state[_HOST_KEY] = host

    def host_of(self, scope: Scope) -> TaskHost | None:
        """Return the host of the lifespan of a request, if it runs in this event loop; otherwise None.

        Of several hosts in one loop: the host in the state; otherwise the last opened host that takes tasks.
        """
        if self.hold:
            return None
        here = [host for host in list(self.open) if host.runs_here()]  # another thread may change `open` meanwhile
        told: TaskHost | None = scope.get("state", {}).get(_HOST_KEY)
        if told in here:
            return told
        here.sort(key=lambda host: not host.closing.is_set())
        return here[-1] if here else None

    async def run(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one lifespan, request or session."""
        outer: RequestTasks | None = scope.get(SCOPE_KEY)
        if scope["type"] == "lifespan":
            await self._run_lifespan(app, scope, receive, send)
        # If an earlier call of this app has returned, code outside calls the app again with the same scope, for example
        # to retry: each such call is a request of its own. Otherwise the app is mounted on an app that has tasks.
        elif outer is not None and not (outer.is_over and outer.host in self.hosts):
            if self.has_settings and outer.host not in self.hosts:
                raise FastAPITasksAlreadyAddedError(
                    "this app is mounted on an app that has tasks, and uses the tasks of that app. So the config, the "
                    "limits, the observers, the queues, the journal and the telemetry of its own add_tasks() have no "
                    "effect: give them to the add_tasks() of the parent"
                )
            await app(scope, receive, send)
        elif (host := self.host_of(scope)) is not None:
            await run_request(host, app, scope, receive, send)
        else:
            await self._run_alone(app, scope, receive, send)

    async def _run_lifespan(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the lifespan of the app in the body of a host.

        The host is drained before the app receives `lifespan.shutdown`, and before the server receives
        `lifespan.startup.failed`.
        """
        host = self.app_host()
        self.hosts.add(host)
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(host)
            except Exception:  # a queue refuses this event loop
                await receive()
                await send({"type": "lifespan.startup.failed", "message": format_exc()})
                raise

            async def receive_when_drained() -> Message:
                message: Message = await self._or_drain(host, receive())
                if message["type"] == "lifespan.shutdown":
                    await self._drain(host)
                return message

            async def send_when_drained(message: Message) -> None:
                if message["type"] == "lifespan.startup.failed":
                    # After this message there is nothing to wait for: hypercorn checks if this call is done.
                    await self._drain(host)
                elif message["type"] == "lifespan.startup.complete":
                    self._has_looked = False  # the startup may have set up telemetry
                    self._add_telemetry(host)
                await self._or_drain(host, send(message))
                # From now on the server may end the app in order. For a drained host this does nothing.
                host.take_over()

            self.open[host] = scope.get("state", {})
            self._note_opened()
            try:
                await app(scope, receive_when_drained, send_when_drained)
            finally:
                del self.open[host]
                self._note_opened()

    async def _or_drain(self, host: TaskHost, server: Awaitable[Any]) -> Any:
        """Return what `server` returns. A server that raises, or cancels the lifespan, shuts down, too."""
        try:
            return await server
        except BaseException:
            if host.drain_report is None:
                await self._drain(host)
            raise

    async def _drain(self, host: TaskHost) -> None:
        """Drain the host of a lifespan, and log that."""
        report = await self._drain_hosts(host)
        cancelled, abandoned, kept = (sum(of.values()) for of in (report.cancelled, report.abandoned, report.kept))
        if report.completed or cancelled or abandoned:
            stays = f"; {kept} of these in the journal, for another process" if kept else ""
            ends = f"{report.completed} completed, {cancelled} cancelled, {abandoned} abandoned{stays}"
            _log(logging.INFO, "tasks drained in %.3f s: %s", report.seconds, ends)

    async def _drain_hosts(self, host: TaskHost) -> DrainReport:
        """Drain the host of a lifespan. The last lifespan of an event loop also drains the hosts of single requests,
        until none is left: requests may begin meanwhile.
        """
        goes_on = any(each.runs_here() and not each.closing.is_set() for each in list(self.open) if each is not host)
        alone = () if goes_on else [each for each in list(self._alone) if each.runs_here() and not each.drain_report]
        async with AsyncExitStack() as stack:  # asyncio's own cancel() ends no wait
            if alone or host.drain_report is None:
                stack.push_async_callback(self._drain_hosts, host)
            for each in alone:
                each.hurry(self.drain_timeout)
                stack.push_async_callback(each.aclose)
            return await host.aclose()

    def _add_telemetry(self, host: TaskHost) -> None:
        if self._telemetry is None and not self._has_looked:
            self._has_looked = True
            self._telemetry = self.find_telemetry()
        if self._telemetry is not None:
            host.add_observer(self._telemetry)

    async def _run_alone(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request or session with a host of its own."""
        host = self.request_host()
        self.hosts.add(host)
        try:
            async with host:
                self._alone.add(host)
                self._add_telemetry(host)
                try:
                    await run_request(host, app, scope, receive, send)
                finally:
                    with CancelScope(shield=True):
                        await scope[SCOPE_KEY].routes_ended()
                    if not self.hold and (scope[SCOPE_KEY].tasks is not None or host.tasks()):
                        self._warn()
        finally:
            self._alone.discard(host)

    def _warn(self) -> None:
        if Installation.has_warned:
            return
        Installation.has_warned = True
        if self.open:
            where = "in another event loop than the lifespan of the app"
            remedy = "run both in one loop (pytest-asyncio: give fixture and test one loop_scope)"
        else:
            where = "while no lifespan of the app was running"
            remedy = (
                "run the lifespan (uvicorn: --lifespan on, TestClient: `with TestClient(app)`, a mounted app: "
                "add_tasks() on its parent)"
            )
            if not self.has_journal:  # with a journal `hold` is an error
                remedy += ", or say add_tasks(app, hold=True) if that is what you want"
        kept = ", and the journal keeps nothing" if self.has_journal else ""
        _log(logging.WARNING, "tasks were used %s, so each request waits for its own%s: %s", where, kept, remedy)


def _log(level: int, text: str, *args: object) -> None:
    """Log a line. A filter or a handler of the user may raise: neither a request nor the shutdown must end with it."""
    try:
        _LOGGER.log(level, text, *args)
    except KeyboardInterrupt:
        raise
    except BaseException:
        with suppress(Exception):  # stderr may be None or closed
            sys.stderr.write(f"fastapi_tasks could not log: {text % args}\n{format_exc()}")


async def run_request(host: TaskHost, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run one request or session, whose tasks belong to `host`."""
    request = RequestTasks(host, scope, send)
    token = host.set_current(request.scope)
    try:
        await app(scope, receive, request.send)
    except BaseException as exc:
        if (leaving := request.leave(exc)) is not None:
            await leaving
        raise
    else:
        if (leaving := request.leave(None)) is not None:
            await leaving
    finally:
        host.reset_current(token)
