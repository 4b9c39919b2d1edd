"""Tasks of asyncio: told apart by number, ended, and thrown into."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any

from .record import Actor


class SimulatedTask(asyncio.Task[Any]):
    """A task that is hashed by its number, so that no set of tasks is in the order of their addresses."""

    def __init__(self, actor: Actor, coro: Any, **options: Any) -> None:
        self.actor = actor
        self.strings: Strings | None = None
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self.actor.number


def coro_of(task: asyncio.Task[Any]) -> Any:
    """Return the coroutine that `task` was made of."""
    strings = getattr(task, "strings", None)
    return task.get_coro() if strings is None else strings.coro


def has_started(task: asyncio.Task[Any]) -> bool:
    """Tell whether `task` has taken its first step."""
    return getcoroutinestate(coro_of(task)) != CORO_CREATED


def ending_of(task: asyncio.Task[Any]) -> str:
    """Return what ended a task that has ended: nothing, "cancelled", or the name of an exception."""
    if task.cancelled():
        return "cancelled"
    # Not `exception()`, which would count as having asked for it.
    error = getattr(task, "_exception", None)
    return "" if error is None else type(error).__name__


def settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    """Give `future` its result, unless nobody waits for it any more."""
    if not future.done():
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)


def drop(task: asyncio.Task[Any]) -> None:
    """Have asyncio say nothing when `task` goes as it is."""
    if task.done():
        if not task.cancelled():
            task.exception()  # so that asyncio does not log that nobody has asked
        return
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    try:
        coro_of(task).close()
    except BaseException:  # noqa: S110
        pass  # it will not end, whatever happens to it


class Strings:
    """Runs a coroutine as it would run by itself, and can throw into it at its next resumption."""

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
        self.coro.close()  # it may never have been started


async def puppet(strings: Strings) -> Any:
    return await strings
