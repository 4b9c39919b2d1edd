"""Runs the tasks of a program on the real runtime, and records all events."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import anyio
import anyio.from_thread
import pytest
from anyio import CancelScope
from anyio.abc import TaskGroup

from property_tests.programs import Action, Cancel, Cling, Fail, Handler, Hold, Policy, Program, Schedule, Sleep, Wait
from property_tests.story import LEFT, SECRET, TAG, Event, Scheduled, Story, Told
from taskphase import (
    DrainReport,
    Limit,
    Phase,
    Task,
    TaskCancelled,
    TaskDropped,
    TaskHost,
    TaskNotFinished,
    TaskObserver,
    TasksClosedError,
    TasksError,
    TasksSaturatedError,
    TasksScheduler,
    TaskStatus,
    current_host,
    current_task,
)
from taskphase import Scope as TaskScope
from taskphase.testing import mark, pause
from taskphase.testing._simulation.schedule import here


class Boom(Exception):
    """An exception of the program itself."""


class Witness(TaskObserver):
    """Writes down what observers are told.

    :param place: returns how many events there are
    """

    def __init__(self, place: Callable[[], int], told: list[Told]) -> None:
        self._place = place
        self._told = told
        self._thread = get_ident()

    def _note(self, hook: str, task: Task[Any] | None, detail: Any = None) -> None:
        is_of_program = task is not None and task.name.startswith("task-")
        number = int(task.name.removeprefix("task-")) if task is not None and is_of_program else None
        status = None if task is None else task.status
        is_in_loop = get_ident() == self._thread
        self._told.append(Told(self._place(), hook, number, status, detail, TAG.get(), is_in_loop))

    def scheduled(self, task: Task[Any], scope: TaskScope | None) -> None:
        self._note("scheduled", task, scope)

    def refused(self, func: Callable[..., Any], error: TasksError) -> None:
        self._note("refused", None, error)

    def due(self, task: Task[Any]) -> None:
        self._note("due", task)

    def started(self, task: Task[Any]) -> None:
        self._note("started", task, task.attempt)

    def attempt_ended(self, task: Task[Any], error: BaseException | None, retry_after: float | None) -> None:
        self._note("attempt_ended", task, (type(error), retry_after))

    def ended(self, task: Task[Any]) -> None:
        self._note("ended", task)

    def scope_changed(self, scope: TaskScope, change: str) -> None:
        self._note("scope_changed", None, (id(scope), change))

    def drained(self, report: DrainReport) -> None:
        self._note("drained", None)


class Recorder:
    """Runs the actions of a program's tasks, and records events:

    - "call", then "taken" or "refused": before and after `schedule()`
    - "begin", "finish": an attempt, noted by the function itself; `detail`: its number, and how it finished
    - "handler", "handled": the same for the handler
    - "started", "ended": noted by a watcher that waits for the task
    - "cancel": a call of `cancel()`; `detail`: the thread, if the call comes from one
    - "opened", "answered", "settled", "over": a scope was opened; the last line of its route has run (`detail`: whether
      the route failed); the line after the route is reached; the last line of the scope has run
    - "closing", "closed": the host, as seen by the code that closes it; "closed" again when its body is left
    """

    def __init__(self, program: Program, *, jitter: bool, observers: Iterable[TaskObserver] = ()) -> None:
        self._jitters = jitter
        told: list[Told] = []
        self.host = TaskHost(
            drain_timeout=program.drain_timeout + self.jitter(None, 80),
            shield_timeout=program.shield_timeout,
            max_running=program.max_running,
            max_pending=program.max_pending,
            max_threads=program.max_threads,
            observers=[*observers, Witness(lambda: len(self.story.events), told)],
        )
        self.story = Story(program, self.host, told=told)
        self._limit = Limit(program.most, max_pending=program.limit_pending)
        self.sinks: dict[int, TasksScheduler] = {}
        self.is_open = False
        self.watchers: TaskGroup
        self._from_threads = anyio.create_memory_object_stream[Task[Any]](math.inf)

    # Recording.

    def note(self, what: str, number: int = -1, detail: Any = None) -> None:
        statuses = tuple(TaskStatus.NEW if call.task is None else call.task.status for call in self.story.calls)
        host = self.host
        counts = (host.running, host.waiting, host.deferred, host.delayed, host.limited) if self.is_open else None
        mark(f"{what} {number} {'' if detail is None else detail}")
        self.story.events.append(Event(here.schedule.now, what, number, detail, statuses, counts))

    @contextmanager
    def span(self, begin: str, end: str, number: int, detail: Any) -> Generator[None]:
        """Record the begin and the end of code of a task, and check the context in which the code runs."""
        self.note(begin, number, detail)
        how = "cancelled"
        try:
            assert TAG.get() == number, f"G6: the context is that of {TAG.get()}"
            seen = (None, number) if begin == "handler" else (None,)  # a handler runs in the context of its attempt
            assert LEFT.get() in seen, f"G6: {LEFT.get()} has left something in the context"
            assert current_host() is self.host, "G14: another host"
            assert current_task() is self.story.calls[number].task, "G14: another task"
            yield
            how = "returned"
        except Exception as exc:
            how = type(exc).__name__
            raise
        finally:
            LEFT.set(number)
            self.note(end, number, how)

    # Tasks.

    def schedule(self, action: Schedule, scope: int | None, by: int | None) -> Task[Any] | None:
        """Schedule a task; return it, or None after a refusal."""
        spec, number = action.task, len(self.story.calls)
        sink: Any = self.host if scope is None else self.sinks[scope]
        if scope is None or action.phase is Phase.IMMEDIATE:
            phase, place = Phase.IMMEDIATE, sink
        else:
            phase, place = action.phase, getattr(sink, action.phase.value)
        call = Scheduled(spec, by, scope, phase)
        self.story.calls.append(call)
        handler = None if spec.handler is None else self._handler(spec.handler, number)
        policy = None if spec.retry is None else self._policy(spec.retry, number)
        timeout = spec.timeout if spec.timeout is None else spec.timeout + self.jitter(number, 90)
        definition = place.task(
            name=f"task-{number}",
            shield=spec.shield,
            on_error=handler,
            when=spec.when,
            timeout=timeout,
            retry=policy,
            delay=None if spec.delay is None else spec.delay + self.jitter(number, 85),
            limit=self._limit if spec.limited else None,
            key=spec.key,
        )
        self.note("call", number, by)
        token = TAG.set(number)
        try:
            body = self._sync_body if spec.sync else self._body
            call.task = definition.schedule(body, number, scope, secret=SECRET)
        except (TasksClosedError, TasksSaturatedError) as exc:
            call.refusal = exc
        finally:
            TAG.reset(token)
        self.note("refused" if call.task is None else "taken", number)
        return call.task

    async def _body(self, number: int, scope: int | None, *, secret: str) -> int:
        attempt = current_task().attempt
        with self.span("begin", "finish", number, attempt):
            await self.follow(self.story.calls[number].spec.actions, scope, number, attempt)
        return number

    async def follow(self, actions: Iterable[Action], scope: int | None, number: int | None, attempt: int = 1) -> None:
        for place, action in enumerate(actions):
            if self._jitters:
                await anyio.sleep(self.jitter(number, place, attempt))
            match action:
                case Sleep(seconds):
                    await anyio.sleep(seconds)
                case Hold(seconds):
                    with CancelScope(shield=True):
                        await anyio.sleep(seconds)
                case Cling(seconds):
                    try:
                        await anyio.sleep(seconds)
                    except anyio.get_cancelled_exc_class():
                        with CancelScope(shield=True):
                            await anyio.sleep(seconds)
                case Wait(back):
                    if (target := self._back(back)) is not None:
                        with anyio.move_on_after(1):
                            if target is current_task():
                                with pytest.raises(TaskNotFinished):
                                    await target.wait()
                                await anyio.sleep_forever()
                            await target.wait()
                case Schedule():
                    task = self.schedule(action, scope, number)
                    if task is not None:
                        self.watchers.start_soon(self._watch, task)
                case _:
                    self._do_at_once(action, number, attempt)

    def _sync_body(self, number: int, scope: int | None, *, secret: str) -> int:
        attempt = current_task().attempt
        with self.span("begin", "finish", number, attempt):
            for action in self.story.calls[number].spec.actions:
                match action:
                    case Sleep(seconds) | Hold(seconds) | Cling(seconds):
                        pause(seconds)
                    case Wait():
                        pause()
                    case Schedule():
                        task = self.schedule(action, scope, number)
                        if task is not None:
                            anyio.from_thread.run_sync(self._from_threads[0].send_nowait, task)
                    case _:
                        self._do_at_once(action, number, attempt, "from a thread")
        return number

    def _do_at_once(self, action: Action, number: int | None, attempt: int, whence: str | None = None) -> None:
        match action:
            case Fail(attempts) if attempt <= attempts:
                raise Boom(number)
            case Cancel(back) if (target := self._back(back)) is not None:
                self.note("cancel", self.number_of(target), whence)
                target.cancel()

    def _handler(self, handler: Handler, number: int) -> Callable[..., Any]:
        def answer() -> None:
            if handler.answer == "raise":
                raise Boom(number)

        async def on_error(task: Task[Any], exc: Exception) -> None:
            with self.span("handler", "handled", number, (self.number_of(task), exc)):
                await anyio.sleep(handler.seconds)
                answer()

        def sync_on_error(task: Task[Any], exc: Exception) -> None:
            with self.span("handler", "handled", number, (self.number_of(task), exc)):
                pause(handler.seconds)
                answer()

        return sync_on_error if handler.sync else on_error

    def _policy(self, policy: Policy, number: int) -> Callable[..., float | None]:
        def ask(task: Task[Any], exc: Exception) -> float | None:
            self.note("asked", number, (self.number_of(task), exc))
            return policy.after + self.jitter(number, 95, task.attempt) if task.attempt <= policy.retries else None

        return ask

    def _back(self, back: int) -> Task[Any] | None:
        tasks = [task for _, _, task in self.story.tasks()]
        return tasks[-1 - back % len(tasks)] if tasks else None

    def number_of(self, task: Task[Any]) -> int:
        return int(task.name.removeprefix("task-"))

    def jitter(self, number: int | None, place: int, attempt: int = 1) -> float:
        """Return a delay that keeps events from happening at the same time; 0 without jitter."""
        who = 1 if number is None else math.sqrt(number + 2)  # linear terms of two tasks may add up to the same
        return 1e-4 * (1 + who * 0.618 + place * 0.0317 + attempt * 0.0011) if self._jitters else 0.0

    async def watch_those_of_threads(self) -> None:
        async with self._from_threads[1] as tasks:
            async for task in tasks:
                self.watchers.start_soon(self._watch, task)

    async def _watch(self, task: Task[Any]) -> None:
        number = self.number_of(task)
        try:
            await task.started.wait()
            self.note("started", number)
        except (TaskCancelled, TaskDropped):
            pass
        await task.wait()
        self.note("ended", number, task.status)
