"""`add_tasks()`, and the method `__call__` of an app with tasks.

`add_tasks()` gives the app a subclass of its class, with one method: `__call__`. Only this place is

- outside of every middleware, also of middleware added later, and of Starlette's own error middleware;
- outside of the wrappers that instrumentation puts around the middleware;
- there at the first request, with a lifespan and without.

OpenTelemetry and Sentry were tried in both orders. Each of the other hooks (the middleware stack, the lifespan alone,
`__call__` of an instance) fails one of these points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from starlette.types import Receive, Scope, Send

from taskphase import Journal, Queue, TaskConfig, TaskHost, TaskObserver

from ._installation import Installation
from ._request import SCOPE_KEY, RequestTasks
from ._telemetry import TelemetrySettings, explicit_observer, global_observer
from .errors import FastAPITasksAlreadyAddedError

if TYPE_CHECKING:
    from fastapi import FastAPI

    _App = FastAPI
else:
    _App = object  # the real base class is that of the app

F = TypeVar("F", bound=Callable[..., Any])


def _explains(func: F) -> F:
    """Decorate `add_tasks()`: the error for a setting of tasks says where such a setting goes."""

    @wraps(func)
    def call(*args: Any, **kwargs: Any) -> Any:
        for name in kwargs:
            if name in TaskConfig.__match_args__:
                raise TypeError(f"add_tasks() has no parameter {name!r}: write config=TaskConfig({name}=...)")
        return func(*args, **kwargs)

    return cast("F", call)


@_explains
def add_tasks(
    app: FastAPI,
    *,
    config: TaskConfig | None = None,
    max_running: int | None = None,
    max_pending: int | None = None,
    max_threads: int = 40,
    drain_timeout: float | timedelta = 0,
    shield_timeout: float | timedelta | None = None,
    hold: bool = False,
    observers: Iterable[TaskObserver] = (),
    queues: Iterable[Queue] = (),
    journal: Journal | None = None,
    telemetry: TelemetrySettings | Literal[False] | None = None,
) -> None:
    """Give `app` tasks: endpoints of the app, and of apps mounted on it, can take a parameter `tasks: Tasks`.

    `app = FastAPI()`, then `add_tasks(app)`. A failing task is logged, and touches no request. At shutdown tasks are
    cancelled, unless they have a shield or end within `drain_timeout`.

    Call this once, before the app starts, before or after `add_middleware()` and `include_router()`. Tasks can run from
    before the startup code of the app. At shutdown they are drained before any shutdown code of the app runs.

    :param config: settings for all tasks of the app
    :param max_running: the most tasks that run at a time, 1 or more; others wait, first in first out; default: no limit
    :param max_pending: the most tasks that wait, for their phase or anything else, 0 or more; default: no limit
    :param max_threads: the most threads of sync tasks, 1 or more; `def` endpoints have other threads
    :param drain_timeout: seconds or a `timedelta` at shutdown in which tasks may end by themselves, 0 or more
    :param shield_timeout: seconds or a `timedelta` after that for shielded tasks and threads; default: for
        ever
    :param hold: True if each request owns its tasks, and its ASGI call lasts until they have ended: for platforms that
        freeze the process after the call. Without a lifespan this is always so, with a warning
    :param observers: objects to tell of each task and scope; instances of subclasses of `TaskObserver`
    :param queues: engines that get the tasks of the functions in their lists: a `TaskiqQueue`, a `CeleryQueue`. Empty:
        every task runs here
    :param journal: keeps the tasks of its functions in a file: if the client has the response of a request, the tasks
        of the request run, also after a crash. Without a lifespan nothing is kept
    :param telemetry: spans and metrics for OpenTelemetry. Default: on if the program has set a global provider when the
        startup is complete (without a lifespan: at the first request). False: off. A dict with some of
        `tracer_provider`, `meter_provider` and `trace`: on, with the parameters of
        `taskphase.opentelemetry.TraceTasks`, also for tasks of the startup
    :raises FastAPITasksAlreadyAddedError: if the app has tasks
    :raises RuntimeError: if the app has started
    :raises TypeError: if `app` is no FastAPI, or a setting has the wrong type
    :raises ValueError: if a setting is out of its range; or for a journal with `hold=True`
    :raises ImportError: if `telemetry` is a dict, and OpenTelemetry is not installed
    """
    if not _is_fastapi(app):
        raise TypeError(f"add_tasks() takes a FastAPI app, not {app!r}: call it on the app that the server runs")
    if isinstance(app, _WithTasks):
        raise FastAPITasksAlreadyAddedError(
            "add_tasks() was called on this app before; call it once, with all settings"
        )
    if app.middleware_stack is not None:
        raise RuntimeError("add_tasks() was called on an app that has been started; call it where the app is made")
    _check_hold(hold, journal)

    # Several hosts read these lists, and an iterator can be read only once. `TaskHost()` refuses all other types.
    watchers = tuple(observers) if isinstance(observers, Iterable) else observers
    outlets = tuple(queues) if isinstance(queues, Iterable) else queues

    def make_host(**more: Any) -> TaskHost:
        limits: dict[str, Any] = {"max_running": max_running, "max_pending": max_pending, "max_threads": max_threads}
        return TaskHost(
            config=config, shield_timeout=shield_timeout, observers=watchers, queues=outlets, **limits, **more
        )

    def app_host() -> TaskHost:
        host = make_host(drain_timeout=drain_timeout, journal=journal)
        host.takes_over = False  # before the startup of the app is complete
        return host

    def request_host() -> TaskHost:
        host = make_host(drain_timeout=math.inf)
        host.tells_drain = False
        return host

    app_host()  # raises for bad settings now, not at startup
    if (tracing := explicit_observer(telemetry, watchers)) is not None:
        watchers = (tracing, *watchers)  # outermost: the others are told inside of its span
    overruled = (config, max_running, max_pending, max_threads, watchers, outlets, journal, telemetry)
    installation = Installation(
        app_host=app_host,
        request_host=request_host,
        drain_timeout=drain_timeout,
        hold=hold,
        has_journal=journal is not None,
        has_settings=overruled != (None, None, None, 40, (), (), None, None),
        find_telemetry=lambda: global_observer(watchers) if telemetry is None else None,
    )
    cls: Any = type(app)
    app.__class__ = _with_tasks(cls)
    app._fastapi_tasks = installation  # type: ignore[attr-defined]


def _is_fastapi(app: object) -> bool:
    """Return whether `app` is a FastAPI app. By name: instrumentation may have replaced `FastAPI` by a subclass."""
    return any(f"{cls.__module__}.{cls.__qualname__}" == "fastapi.applications.FastAPI" for cls in type(app).__mro__)


def _check_hold(hold: object, journal: Journal | None) -> None:
    if not isinstance(hold, bool):
        raise TypeError(f"hold must be a bool, not {hold!r}")
    if hold and journal is not None:
        raise ValueError(
            "hold=True and journal=... exclude each other: a journal belongs to a lifespan, and recovers tasks in the "
            "background. Leave one of them out"
        )


class _WithTasks(_App):
    """The first base class of an app with tasks."""

    _fastapi_tasks: Installation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        installation = self._fastapi_tasks
        host = installation.host
        if (
            host is None
            or installation.around
            or SCOPE_KEY in scope
            or scope["type"] == "lifespan"
            or not host.runs_here()
        ):
            await installation.surrounded(super().__call__)(scope, receive, send)
            return
        # Every request of the app pays for the code from here on, with tasks or without. So this is `run_request()`
        # again: a call of a coroutine costs a tenth of it.
        request = RequestTasks(host, scope, send)
        token = host.set_current(request.scope)
        try:
            await super().__call__(scope, receive, request.send)
        except BaseException as exc:
            if (leaving := request.leave(exc)) is not None:
                await leaving
            raise
        else:
            if (leaving := request.leave(None)) is not None:
                await leaving
        finally:
            host.reset_current(token)


def installation_of(app: FastAPI) -> Installation | None:
    """Return the tasks of `app`, or None without `add_tasks(app)`."""
    return app._fastapi_tasks if isinstance(app, _WithTasks) else None


@cache
def _with_tasks(base: type[Any]) -> type[Any]:
    """Return the class with tasks. There are few: for FastAPI's own, and for subclasses by apps and instrumentation."""
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    return type(base.__name__, (_WithTasks, base), names)
