"""`queue_contract()`: the checks, one after the other, with a real host and the engine of the test."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any
from uuid import uuid4

import anyio
import anyio.lowlevel
import anyio.to_thread

from ..._host import TaskHost
from ..._machine.calling import name_of
from ..._machine.life import TaskStatus
from ..._machine.text import plain
from ..._queue import Call, Queue
from ..._task import Task
from ...errors import HandOverFailed, TasksUnportableError
from .functions import CARRIED, QUEUE_CONTRACT, note, note_async
from .watching import loop_goes_on, nothing_opens

Line = Mapping[str, Any]
Fault = Callable[[], AbstractAsyncContextManager[object]]

VALUES = [1, "a\N{SNOWMAN}", {"deep": [None, True, 1.5]}]

# Seconds that a queue may take to obey a cancellation.
_TO_OBEY = 1.0


async def queue_contract(
    make_queue: Callable[..., Queue],
    work: Callable[[], Awaitable[object]] | None = None,
    *,
    down: Fault | None = None,
    hung: Fault | None = None,
    unportable: object = None,
    trace: bool = False,
    within: float = 10,
) -> None:
    """Check that a queue keeps the contract of `Queue`. For the tests of a subclass, in an event loop.

        def make_queue(**settings: Any) -> Queue:
            return SpoolQueue(folder, deadline=2, attempt_timeout=1, **settings)

        async def test_the_queue_keeps_the_contract() -> None:
            await queue_contract(make_queue, work)

    The contract hands functions of its own over. The worker makes the same queue by `make_queue(**QUEUE_CONTRACT)`, so
    that it knows these functions. They write to a temporary file: program and workers are on one machine.

    - Constructing a queue connects no socket, starts no thread, and changes no function.
    - A sync and an async function run in the worker, once or more. Each has the arguments of `schedule()`, the
      `message_id`, the values of `carry`, no `current_host()`, and with `trace` the trace of the program.
    - A call that is published twice runs under the same `message_id`.
    - A call that the engine cannot carry is refused in `schedule()`. The message does not contain the argument.
    - A cancelled attempt ends within a second, and the queue works after that.
    - The queue works again in a second host, after the first has closed its connection.
    - `down`, `hung`: no hand-over is confirmed, and none outlasts the deadline of the queue. Nothing blocks the event
      loop. `on_error` hears of each hand-over once, and a call that was told as refused never runs. A host that closes
      is not held. The queue works again after that.

    :param make_queue: returns a new queue with the given keyword arguments of `Queue`: `functions` and `carry`. The
        `deadline` and the `attempt_timeout` of the queue may be short
    :param work: runs all messages that the engine has. None: workers do so by themselves
    :param down: returns a context in which the engine refuses connections and messages. None: not checked
    :param hung: returns a context in which the engine takes connections and never answers. None: not checked
    :param unportable: an argument that the engine cannot carry; default: a lock
    :param trace: whether the workers continue the traces of the program: they have imported OpenTelemetry
    :param within: the most seconds until a worker has run a message
    :raises AssertionError: if the queue does not keep the contract
    """
    with TemporaryDirectory() as folder:
        contract = _Contract(make_queue, work, Path(folder) / "lines", within)
        await contract.check_constructor()
        await contract.check_delivery(trace=trace)
        await contract.check_twice()
        await contract.check_unportable(Lock() if unportable is None else unportable)
        await contract.check_cancelled()
        for fault in (down, hung):
            if fault is not None:
                await contract.check_fault(fault)


@contextmanager
def _new_trace() -> Generator[str]:
    """Make a span of a new trace current, without an SDK; return the id of the trace."""
    from opentelemetry import trace

    context = trace.SpanContext(uuid4().int, uuid4().int >> 64, False, trace.TraceFlags(trace.TraceFlags.SAMPLED))
    with trace.use_span(trace.NonRecordingSpan(context)):
        yield f"{context.trace_id:032x}"


class _Contract:
    def __init__(
        self,
        make_queue: Callable[..., Queue],
        work: Callable[[], Awaitable[object]] | None,
        file: Path,
        within: float,
    ) -> None:
        self._make_queue = make_queue
        self._work = work
        self._file = file
        self._within = within

    async def check_constructor(self) -> None:
        before = [(func.__name__, func.__module__, dict(vars(func))) for func in (note, note_async)]
        queue = await anyio.to_thread.run_sync(self._make_in_thread)  # where no event loop runs
        assert queue.functions == (note, note_async), f"the queue has other functions: {queue.functions}"
        after = [(func.__name__, func.__module__, dict(vars(func))) for func in (note, note_async)]
        assert after == before, "the queue has changed a function: keep what belongs to it elsewhere"
        note(str(self._file), ["direct"])
        [line] = self._lines()
        assert line["id"] is None, "the function cannot be called directly any more"

    def _make_in_thread(self) -> Queue:
        with nothing_opens():
            return self._make()

    def _make(self) -> Queue:
        return self._make_queue(**QUEUE_CONTRACT)

    async def check_delivery(self, *, trace: bool) -> None:
        queue = self._make()
        for word in ("first", "second"):  # the second host needs a new connection
            async with TaskHost(queues=[queue]) as host:
                tasks = [self._schedule(host, func, word, trace=trace) for func in (note, note_async)]
                for task, _ in tasks:
                    await self._handed_over(task)
                for task, trace_id in tasks:
                    for line in await self._ran(task):
                        expected = {
                            "id": task.message_id,
                            "function": task.func.__name__,
                            "task": name_of(task.func),
                            "values": VALUES,
                            "word": word,
                            "carried": f"carried {word}",
                            "trace": trace_id if trace else line["trace"],
                            "has_host": False,
                        }
                        assert line == expected, f"a worker has run {line}, not {expected}"

    def _schedule(
        self, host: TaskHost, func: Callable[..., Any], word: str, *, trace: bool
    ) -> tuple[Task[Any], str | None]:
        """Schedule a call, and then change its argument. Return the task and the id of its trace."""
        values: list[Any] = [*VALUES]
        with ExitStack() as stack:
            trace_id = None
            token = CARRIED.set(f"carried {word}")
            stack.callback(CARRIED.reset, token)
            if trace:
                trace_id = stack.enter_context(_new_trace())
            task = host.schedule(func, str(self._file), values, word=word)
        values.append("too late")
        return task, trace_id

    async def check_twice(self) -> None:
        queue = self._make()
        call = Call(uuid4().hex, note, name_of(note), (str(self._file), ["twice"]), {}, queue.options_of(note), {})
        prepared = queue.prepare(call)
        await queue.open()
        try:
            with anyio.fail_after(2 * queue.attempt_timeout):
                for _ in range(2):
                    await queue.publish(prepared, {})
        finally:
            await queue.close()
        await self._await_line(call.id)
        runs = [line for line in self._lines() if line["values"] == ["twice"]]
        assert {line["id"] for line in runs} == {call.id}, f"a call that was published twice has the ids {runs}"

    async def check_unportable(self, argument: object) -> None:
        queue = self._make()
        async with TaskHost(queues=[queue]) as host:
            message = self._refusal(host, argument)
            assert message is not None, f"schedule() has taken {argument!r}: raise TasksUnportableError in prepare()"
            assert repr(argument) not in message, "the message of the error has the argument, which may be secret"
            await self._works(host)
        assert not [line for line in self._lines() if line["values"][0] == "unportable"], "a refused call has run"

    def _refusal(self, host: TaskHost, argument: object) -> str | None:
        try:
            host.schedule(note, str(self._file), ["unportable", argument])
        except TasksUnportableError as exc:
            return str(exc)
        return None

    async def check_cancelled(self) -> None:
        queue = self._make()
        async with TaskHost(queues=[queue]) as host:
            await self._works(host)
            for turns in range(5):
                task = host.schedule(note, str(self._file), ["cancelled"])
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                task.cancel()
                await self._ends(task, _TO_OBEY, "a cancelled attempt")
                ends = (TaskStatus.CANCELLED, TaskStatus.HANDED_OVER)
                assert task.status in ends, f"a cancelled hand-over ends as {task.status.value}: {task!r}"
            await self._works(host)

    async def check_fault(self, fault: Fault) -> None:
        queue, errors = self._make(), list[HandOverFailed]()

        async def hear(_task: Task[Any], error: Exception) -> None:
            assert isinstance(error, HandOverFailed)
            errors.append(error)

        async with TaskHost(queues=[queue]) as host:
            await self._works(host)
            async with fault(), loop_goes_on():
                tasks = [host.task(on_error=hear).schedule(note, str(self._file), ["fault"]) for _ in range(5)]
                withdrawn = host.schedule(note, str(self._file), ["withdrawn"])
                await anyio.sleep(min(0.2, queue.deadline / 2))
                withdrawn.cancel()
                await self._ends(withdrawn, _TO_OBEY, "a cancelled attempt")
                for task in tasks:
                    await self._ends(task, queue.deadline + _TO_OBEY, "a hand-over")
                    assert task.status is TaskStatus.FAILED, f"the engine did not answer, and {task!r}"
                told = sorted(error.message_id for error in errors)
                assert told == sorted(str(task.message_id) for task in tasks), f"on_error has heard of {told}"
                await self._closes_in_time(queue)
            await self._works(host)
        refused = {error.message_id for error in errors if error.outcome == "refused"}
        ran = refused & {line["id"] for line in self._lines()}
        assert not ran, f"the queue has said that the engine has refused {ran}, and a worker has run it"

    async def _closes_in_time(self, queue: Queue) -> None:
        async with TaskHost(queues=[queue], shield_timeout=0.1) as host:
            host.schedule(note, str(self._file), ["closing"])
            await anyio.sleep(0.05)
            began = anyio.current_time()
        took = anyio.current_time() - began
        assert took < 0.1 + 2 * _TO_OBEY, f"a hand-over has held its host for {took:.1f} s"

    async def _works(self, host: TaskHost) -> None:
        """Check that the queue hands a task over, and that a worker runs the task. After a fault perhaps not the first
        one: the engine may lose a message that a worker takes at the moment of the fault.
        """
        ends_at = anyio.current_time() + self._within
        while True:
            task = host.schedule(note, str(self._file), ["works"])
            await task.wait()
            is_handed_over = task.status is TaskStatus.HANDED_OVER
            if is_handed_over and await self._find(str(task.message_id), self._within / 5):
                return
            if anyio.current_time() > ends_at:
                break
        await self._handed_over(task)
        await self._ran(task)

    async def _handed_over(self, task: Task[Any]) -> None:
        await self._ends(task, self._within, "a hand-over")
        if task.status is not TaskStatus.HANDED_OVER:
            cause = task.exception if task.status is TaskStatus.FAILED else None
            raise AssertionError(f"the queue has not taken {task!r}: {cause}") from cause

    async def _ends(self, task: Task[Any], seconds: float, what: str) -> None:
        with anyio.move_on_after(seconds) as scope:
            await task.wait()
        assert not scope.cancelled_caught, f"{what} has not ended after {plain(seconds)} s: {task!r}"

    async def _ran(self, task: Task[Any]) -> list[Line]:
        assert task.message_id is not None
        return await self._await_line(task.message_id)

    async def _await_line(self, message_id: str) -> list[Line]:
        found = await self._find(message_id, self._within)
        within = plain(self._within)
        assert found, f"no worker has run message {message_id} within {within} s: it runs {self._lines()[-3:]}"
        return found

    async def _find(self, message_id: str, seconds: float) -> list[Line]:
        """Wait until a worker has run the call, at most so many `seconds`; return the lines of its runs."""
        if self._work is not None:
            await self._work()
        with anyio.move_on_after(seconds):
            # Another process writes the file.
            while not [line for line in self._lines() if line["id"] == message_id]:  # noqa: ASYNC110
                await anyio.sleep(0.02)
        return [line for line in self._lines() if line["id"] == message_id]

    def _lines(self) -> list[Line]:
        if not self._file.exists():
            return []
        return [json.loads(line) for line in self._file.read_text(encoding="utf-8").splitlines()]
