"""What `add_tasks` puts around an app: it opens and drains the host, and ends the scope of each request.

It has to be outside of every middleware, whenever that was added, of Starlette's own error middleware, which sends
the response to an unhandled exception, and of what instrumentation puts around the stack; and it has to be there at
the first request, lifespan or not. Only the call of the app itself is all that, so the app is given a subclass of
its class, with that one method.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakSet

from anyio import CancelScope
from fastapi import applications
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskphase import TaskConfig, TaskHost

from ._request import SCOPE_KEY, RequestTasks
from .errors import FastAPITasksAlreadyAddedError

if TYPE_CHECKING:
    from fastapi import FastAPI

# FastAPI's own class. Instrumentation may have put a subclass of it under that name.
_FASTAPI = next(
    cls
    for cls in applications.FastAPI.__mro__
    if (cls.__module__, cls.__qualname__) == ("fastapi.applications", "FastAPI")
)

_HOST_KEY = "fastapi_tasks_host"
"""Where the state of a lifespan, and so of its requests, carries the host."""

_LOGGER = logging.getLogger("fastapi_tasks")


def add_tasks(
    app: FastAPI,
    *,
    config: TaskConfig | None = None,
    max_running: int | None = None,
    max_pending: int | None = None,
    max_threads: int = 40,
    drain_timeout: float = 0,
    shield_timeout: float | None = None,
    hold: bool = False,
) -> None:
    """Give `app` tasks: its endpoints, and those of what is mounted on it, can take a parameter `tasks: Tasks`.

    Call it once, before the app is started; the order with `add_middleware`, `include_router` and the like does not
    matter. The app's tasks live from before its own startup until its shutdown is asked for: they are drained
    before any shutdown code of the app runs.

    :param config: settings for all tasks of the app
    :param max_running: how many tasks run at a time, 1 or more; the others wait, first in first out; default: no limit
    :param max_pending: how many tasks may wait for a slot or for their phase, 0 or more; default: no limit
    :param max_threads: how many threads sync tasks use, 1 or more; they are not those of `def` endpoints
    :param drain_timeout: seconds that everything has at shutdown to end by itself, 0 or more
    :param shield_timeout: seconds that shielded tasks and threads have at shutdown after that, 0 or more; default:
        for ever
    :param hold: whether each request keeps its tasks to itself, and its ASGI call lasts until they have ended: for
        hosts that freeze the process after the call. Where no lifespan is run it is like that anyway, with a
        warning
    :raises FastAPITasksAlreadyAddedError: if the app has tasks
    :raises RuntimeError: if the app has been started
    :raises TypeError: if `app` is no FastAPI, or a setting has the wrong type
    :raises ValueError: if a setting is out of its range
    """
    if not isinstance(app, _FASTAPI):
        raise TypeError(f"add_tasks() takes a FastAPI app, not {app!r}")
    base = type(app)
    if issubclass(base, _HasTasks):
        raise FastAPITasksAlreadyAddedError(
            "add_tasks() was called on this app before; call it once, with all settings"
        )
    if app.middleware_stack is not None:
        raise RuntimeError("add_tasks() was called on an app that has been started; call it where the app is made")
    if not isinstance(hold, bool):
        raise TypeError(f"hold must be a bool, not {hold!r}")

    def make_host(**patience: float | None) -> TaskHost:
        limits = {"max_running": max_running, "max_pending": max_pending, "max_threads": max_threads}
        return TaskHost(config=config, **limits, **patience)  # type: ignore[arg-type]

    def app_host() -> TaskHost:
        return make_host(drain_timeout=drain_timeout, shield_timeout=shield_timeout)

    app_host()  # refuses bad settings now, and not at startup
    has_settings = config is not None or max_running is not None or max_pending is not None or max_threads != 40
    installation = Installation(
        app_host, lambda: make_host(drain_timeout=math.inf), hold=hold, has_settings=has_settings
    )
    app.__class__ = _with_tasks(base, installation)


class Installation:
    """The tasks of one app.

    :ivar open: the hosts of the lifespans that run now, in the order of their opening, each with the state of its
        lifespan (which granian clears before shutdown, and httpx does not have)
    :ivar host: the only one of them, if requests share it: what nearly all of them want to know
    :ivar hosts: every host that was made for the app, those of single requests included
    :ivar recorders: those of tests; while there are any, the class of the app has another `__call__`
    :ivar unrecorded: the one that it had before
    """

    _has_warned = False

    def __init__(
        self,
        app_host: Callable[[], TaskHost],
        request_host: Callable[[], TaskHost],
        *,
        hold: bool,
        has_settings: bool,
    ) -> None:
        self.open: dict[TaskHost, MutableMapping[str, Any]] = {}
        self.host: TaskHost | None = None
        self.hosts: WeakSet[TaskHost] = WeakSet()
        self.recorders: list[Any] = []
        self.unrecorded: Any = None
        self._app_host = app_host
        self._request_host = request_host
        self._hold = hold
        self._has_settings = has_settings

    def _note_opened(self) -> None:
        hosts = tuple(self.open.items())  # which another thread may change meanwhile
        self.host = hosts[0][0] if len(hosts) == 1 and not self._hold else None
        if len(hosts) > 1:  # and not before: the state belongs to the app, which may look at all that is in it
            for host, state in hosts:
                state[_HOST_KEY] = host

    def host_of(self, scope: Scope) -> TaskHost | None:
        """Return the host that a request shares with others: that of its lifespan, if that runs in this event loop. Of
        several in one loop the state tells which; else it is the last opened one that takes tasks.
        """
        host = self.host
        if (SCOPE_KEY in scope and self._is_within(scope)) or scope["type"] == "lifespan" or self._hold:
            return None
        if host is not None and host.runs_here():
            return host
        here = [host for host in tuple(self.open) if host.runs_here()]  # another thread may open and close some
        told: TaskHost | None = scope.get("state", {}).get(_HOST_KEY)
        if told in here:
            return told
        here.sort(key=lambda host: not host.closing.is_set())
        return here[-1] if here else None

    def _is_within(self, scope: Scope) -> bool:
        """Return whether an ASGI scope with tasks is a request within that of another app, or of this app.

        Otherwise the scope is from an earlier call of this app, which has returned: the server's side calls the app
        again with the same scope, to retry for example. Each call is a request of its own.
        """
        tasks: RequestTasks = scope[SCOPE_KEY]
        return not (tasks.is_over and tasks.host in self.hosts)

    async def run_apart(
        self, app: ASGIApp, with_host: Callable[..., Awaitable[None]], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Run what does not share the host: a lifespan, or a request that has to have a host of its own.

        :param with_host: runs the app too, and takes a host for the tasks of the request
        """
        if scope["type"] == "lifespan":
            await self._run_lifespan(app, scope, receive, send)
        elif SCOPE_KEY in scope and self._is_within(scope):  # mounted on an app that has tasks
            if self._has_settings and scope[SCOPE_KEY].host not in self.hosts:
                raise FastAPITasksAlreadyAddedError(
                    "this app is mounted on one that has tasks, and uses those: the config and the limits of its own "
                    "add_tasks() mean nothing. Give them to the add_tasks() of the parent"
                )
            await app(scope, receive, send)
        else:
            await self._run_alone(with_host, scope, receive, send)

    async def _run_lifespan(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app's lifespan in the body of a host.

        The host is drained before the app hears of its shutdown, and before the server hears of a failed startup.
        """
        async with self._own(self._app_host()) as host:

            async def receive_when_drained() -> Message:
                try:
                    message = await receive()
                except BaseException:  # a server that cancels the lifespan means shutdown too
                    await _drain(host)
                    raise
                if message["type"] == "lifespan.shutdown":
                    await _drain(host)
                return message

            async def send_when_drained(message: Message) -> None:
                if message["type"] == "lifespan.startup.failed":
                    # So that nothing is left to be awaited: hypercorn looks whether this call is done.
                    await _drain(host)
                await send(message)

            self.open[host] = scope.get("state", {})
            self._note_opened()
            try:
                await app(scope, receive_when_drained, send_when_drained)
            finally:
                del self.open[host]
                self._note_opened()

    def _own(self, host: TaskHost) -> TaskHost:
        self.hosts.add(host)
        return host

    async def _run_alone(
        self, with_host: Callable[..., Awaitable[None]], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Run one request or session with a host of its own."""
        async with self._own(self._request_host()) as host:
            try:
                await with_host(scope, receive, send, host)
            finally:
                with CancelScope(shield=True):
                    await scope[SCOPE_KEY].routes_ended()
                if not self._hold and (scope[SCOPE_KEY].tasks is not None or host.running):
                    self._warn()

    def _warn(self) -> None:
        if not Installation._has_warned:
            Installation._has_warned = True
            _LOGGER.warning(
                "tasks were used while no lifespan of the app was running, so each request waits for its own: "
                "run the lifespan (uvicorn: --lifespan on, TestClient: `with TestClient(app)`, a mounted app: "
                "add_tasks() on its parent), or say add_tasks(app, hold=True) if that is what you want"
            )


async def _drain(host: TaskHost) -> None:
    report = await host.aclose()
    cancelled, abandoned = sum(report.cancelled.values()), sum(report.abandoned.values())
    if report.completed or cancelled or abandoned:
        _LOGGER.info(
            "tasks drained in %.3g s: %d ended by themselves, %d cancelled, %d abandoned",
            report.seconds,
            report.completed,
            cancelled,
            abandoned,
        )


class _HasTasks:
    """Marks the class of an app that has tasks."""

    _fastapi_tasks: ClassVar[Installation]


def installation_of(app: FastAPI) -> Installation | None:
    """Return what `add_tasks` has given to `app`, or None if it was not called on it."""
    return type(app)._fastapi_tasks if isinstance(app, _HasTasks) else None


def _with_tasks(base: type[FastAPI], installation: Installation) -> type[FastAPI]:
    async def call(self: FastAPI, scope: Scope, receive: Receive, send: Send, host: TaskHost | None = None) -> None:
        """Run the app. `host`: that of this one request, if it has to have one of its own."""
        host = host or installation.host_of(scope)
        if host is None:
            await installation.run_apart(partial(base.__call__, self), partial(call, self), scope, receive, send)
            return
        # From here on it is what every request of the app pays, whether it asks for tasks or not.
        request = RequestTasks(host, scope, send)
        token = host.set_current(request.scheduler)
        try:
            await base.__call__(self, scope, receive, request.send)
        except BaseException as exc:
            if request.has_tasks:
                await request.leave(exc)
            raise
        else:
            if request.has_tasks:
                await request.leave(None)
        finally:
            request.end()
            host.reset_current(token)

    names = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    own = {"_fastapi_tasks": installation, "__call__": call}
    with_tasks: type[FastAPI] = type(base.__name__, (base, _HasTasks), {**names, **own})
    return with_tasks
