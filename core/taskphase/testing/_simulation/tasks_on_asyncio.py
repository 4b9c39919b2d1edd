"""asyncio tasks: with a number, with an exception thrown into them, and dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any

from .record import Actor


class SimulatedTask(asyncio.Task[Any]):
    """A task whose hash is its number. Otherwise the order of a set of tasks would depend on addresses."""

    def __init__(self, actor: Actor, coro: Any, **options: Any) -> None:
        self.actor = actor
        self.interceptor: Interceptor | None = None
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self.actor.number


def ending_of(task: asyncio.Task[Any]) -> str:
    """Return how a task has ended: "" for a result, "cancelled", or the name of the exception."""
    if task.cancelled():
        return "cancelled"
    # `exception()` would mark the exception as retrieved.
    error = getattr(task, "_exception", None)
    return "" if error is None else type(error).__name__


def settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    """Set the result or the exception of `future`, unless the future is done."""
    if isinstance(error, StopIteration):  # no future takes one
        stop, error = error, RuntimeError("coroutine raised StopIteration")
        error.__cause__ = stop
    if not future.done():
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)


def drop(task: asyncio.Task[Any], coro: Any) -> None:
    """Close `coro`, the coroutine of `task`, or retrieve its exception, so that asyncio logs nothing about the task."""
    if task.done():
        if not task.cancelled():
            task.exception()  # mark the exception as retrieved
        return
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    try:
        coro.close()
    except BaseException:  # noqa: S110
        pass  # the coroutine refuses to end


class Interceptor:
    """Runs a coroutine unchanged, but can throw an exception into it at its next resumption."""

    def __init__(self, coro: Coroutine[Any, Any, Any]) -> None:
        self.coro = coro
        self.error: BaseException | None = None

    def __await__(self) -> Generator[Any, Any, Any]:
        value: Any = None
        error: BaseException | None = None
        while True:
            if self.error is not None:
                error, self.error = self.error, None
            try:
                asked = self.coro.send(value) if error is None else self.coro.throw(error)
            except StopIteration as stop:
                return stop.value
            value = error = None
            try:
                value = yield asked
            except BaseException as exc:
                error = exc

    def __del__(self) -> None:
        self.coro.close()  # perhaps the coroutine has never started


async def intercepted(interceptor: Interceptor) -> Any:
    return await interceptor
