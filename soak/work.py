"""The functions of the tasks, in the server, and the ledger of all accepted tasks."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from pathlib import Path
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from fastapi_tasks import Task, Tasks, TasksClosedError, TasksSaturatedError, current_host, current_task, retry
from taskphase import NoCurrentError, TaskStatus

from .journal import Journal
from .kinds import ALONE_PHASE, ATTEMPTS, CHILD, NAP, THREAD, THREAD_TOO_LONG, TIMEOUT, Order

JOURNAL = Journal(Path(os.environ["SOAK_JOURNAL"]))
HANG = float(os.environ.get("SOAK_HANG", "60"))

REQUEST: ContextVar[str] = ContextVar("REQUEST", default="?")
"""The request that scheduled the task."""

REAP_EVERY = 0.2  # seconds
ENDED = frozenset({TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.DROPPED})


@contextmanager
def attempt(number: int) -> Iterator[int]:
    """Journal one attempt, and yield its number."""
    this = current_task().attempt
    JOURNAL.write("began", number, this, REQUEST.get())
    try:
        yield this
    except Exception:
        JOURNAL.write("ended", number, this, "raised")
        raise
    except BaseException:
        JOURNAL.write("ended", number, this, "cancelled")
        raise
    JOURNAL.write("ended", number, this, "returned")


async def quick(number: int) -> None:
    with attempt(number):
        pass


async def nap(number: int) -> None:
    with attempt(number):
        await anyio.sleep(NAP)


async def hang(number: int) -> None:
    with attempt(number):
        await anyio.sleep(HANG)


async def fail(number: int) -> None:
    with attempt(number):
        await checkpoint()
        raise ValueError(number)


async def succeed_at_last(number: int) -> None:
    with attempt(number) as this:
        await checkpoint()
        if this < ATTEMPTS:
            raise ConnectionError(number)


def thread(number: int) -> None:
    with attempt(number):
        time.sleep(THREAD)


def thread_timeout(number: int) -> None:
    with attempt(number):
        time.sleep(THREAD_TOO_LONG)


async def parent(number: int) -> None:
    with attempt(number):
        await anyio.sleep(NAP)
        ledger.schedule_child(bool(current_task().config.shielded))


async def note(task: Task[Any], _error: Exception) -> None:
    JOURNAL.write("handled", task.args[0], task.attempt)


def again(task: Task[Any], _error: Exception) -> float:
    JOURNAL.write("handled", task.args[0], task.attempt)
    return 0.005


_retry = retry(attempts=ATTEMPTS, on=ValueError, backoff=0.005)


def until_exhausted(task: Task[Any], error: Exception) -> float | None:
    JOURNAL.write("handled", task.args[0], task.attempt)
    return _retry(task, error)


WORK: dict[str, tuple[Callable[[int], Any], dict[str, Any]]] = {
    "quick": (quick, {}),
    "nap": (nap, {}),
    "hang": (hang, {}),
    "fail": (fail, {}),
    "handled": (fail, {"on_error": note}),
    "timeout": (hang, {"timeout": TIMEOUT}),
    "retry": (succeed_at_last, {"retry": again}),
    "exhaust": (fail, {"retry": until_exhausted}),
    "thread": (thread, {}),
    "thread_timeout": (thread_timeout, {"timeout": TIMEOUT}),
    "parent": (parent, {}),
}


class Ledger:
    """The handles of all tasks whose end is not in the journal yet."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._open: dict[int, Task[Any]] = {}
        self._next = 0.0

    def schedule(self, tasks: Tasks, request: str, order: Order) -> int:
        """Schedule one task for a request. Return 1, the number of scheduled tasks."""
        func, settings = WORK[order.kind]
        definition = tasks.task(name=order.kind, shield=order.shield, when=order.when, **settings)
        place = definition if order.phase == "immediate" else getattr(definition, order.phase)
        self._journal(place.schedule, func, request, order)
        return 1

    def schedule_child(self, shield: bool) -> None:
        """Schedule a task from another task. The call may be refused while the host closes."""
        definition = current_host().task(name=CHILD, shield=shield)
        try:
            self._journal(definition.schedule, quick, REQUEST.get(), Order(CHILD, ALONE_PHASE, shield))
        except (TasksClosedError, TasksSaturatedError):
            pass

    def reap(self, *, everything: bool = False) -> None:
        """Journal the end of ended tasks, or, with `everything`, the state of all tasks. Call this regularly in the
        loop's thread.
        """
        now = time.monotonic()
        if everything or now >= self._next:
            self._next = now + REAP_EVERY
            for number, task in list(self._open.items()):
                if everything or task.status in ENDED:
                    del self._open[number]
                    JOURNAL.write("final", number, task.status.value, task.attempt)

    def _journal(self, schedule: Callable[..., Task[Any]], func: Any, request: str, order: Order) -> None:
        number = next(self._numbers)
        try:
            task = schedule(func, number)
        except (TasksClosedError, TasksSaturatedError) as error:
            JOURNAL.write("refused", number, "closed" if isinstance(error, TasksClosedError) else "saturated")
            raise
        JOURNAL.write("accepted", number, request, order.kind, order.phase, int(order.shield), order.when)
        self._open[number] = task


ledger = Ledger()


class Log(logging.Handler):
    """Journals the failures in place of their tracebacks; prints records about the whole host."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR and str(record.msg).startswith("task "):
            self.format(record)  # formats the traceback, like a user's handler
            try:
                JOURNAL.write("logged", current_task().args[0])
            except NoCurrentError:
                JOURNAL.write("logged", 0)
        elif record.levelno >= logging.ERROR or "closing the task host" in str(record.msg):
            print(self.format(record), flush=True)


logging.getLogger("taskphase").addHandler(Log())
logging.getLogger("taskphase").propagate = False
