"""Connect anyio's calls into threads, and back, to the workers on trio."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from contextvars import Context, copy_context
from typing import Any, NamedTuple

import outcome
import trio
from trio.lowlevel import Abort

from .context import enter_library
from .on_trio import Simulation
from .privates import anyio_eventloop, replaced
from .schedule import here
from .threads import Reply, current_worker, is_over


class Message(NamedTuple):
    """A thread's request to the task that waits for the thread."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    context: Context
    reply: Reply
    is_async: bool

    async def serve(self) -> None:
        """Make the call in the current task, in the thread's context."""
        task = trio.lowlevel.current_task()
        before, task.context = task.context, self.context
        await trio.lowlevel.cancel_shielded_checkpoint()
        result = await outcome.acapture(self._call)
        task.context = before
        await trio.lowlevel.cancel_shielded_checkpoint()
        self._answer(result)

    async def serve_apart(self) -> None:
        """Make the call in a new task, which was started in the thread's context."""
        self._answer(await outcome.acapture(self._call))

    def serve_now(self) -> None:
        """Make the call at once; for sync functions."""
        self._answer(outcome.capture(self.context.run, self.func, *self.args))

    async def _call(self) -> Any:
        return await self.func(*self.args) if self.is_async else self.func(*self.args)

    def _answer(self, result: outcome.Outcome[Any]) -> None:
        if isinstance(result, outcome.Error):
            self.reply(None, result.error)
        else:
            self.reply(result.unwrap(), None)


class Call:
    """One call in a thread, and the task that waits for it."""

    def __init__(self, simulation: Simulation, *, abandon: bool, limiter: Any) -> None:
        self._task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        self._simulation = simulation
        self._abandon = abandon
        self._limiter = limiter
        self._token = trio.lowlevel.current_trio_token()
        self.raise_cancel: Callable[[], Any] | None = None

    def work(self, backend: Any, func: Any, args: Any) -> Callable[[], None]:
        """Return the worker's function: it calls `func`, and reports the result to the task."""
        context = copy_context()
        context.run(enter_library, None)
        module = anyio_eventloop()

        def work() -> None:
            here.call = self
            with module.claim_worker_thread(backend, self._token):
                result = outcome.capture(context.run, func, *args)
            if is_over():
                return
            try:
                self._token.run_sync_soon(self._report, result)
            except trio.RunFinishedError:
                pass  # the run has ended, and so has the task

        return work

    async def wait(self) -> Any:
        """Return the result of the function, or raise its exception. Serve the thread's requests meanwhile."""
        while True:
            message = await trio.lowlevel.wait_task_rescheduled(self._abort)
            if not isinstance(message, Message):
                return message.unwrap()
            await message.serve()

    def ask(self, message: Message) -> None:
        """Request the service of a message. Called in the thread."""
        self._token.run_sync_soon(self._serve, message)

    def _serve(self, message: Message) -> None:
        if not self._abandon:
            assert self._task is not None
            trio.lowlevel.reschedule(self._task, outcome.Value(message))
        elif message.is_async:
            trio.lowlevel.spawn_system_task(message.serve_apart, name=message.func, context=message.context)
        else:
            message.serve_now()

    def _report(self, result: outcome.Outcome[Any]) -> None:
        self._limiter.release_on_behalf_of(self)
        if self._task is not None:
            trio.lowlevel.reschedule(self._task, outcome.Value(result))

    def _abort(self, raise_cancel: Callable[[], Any]) -> Abort:
        self.raise_cancel = raise_cancel
        if self._abandon or self._simulation.is_unwinding:
            self._task = None
            return Abort.SUCCEEDED
        return Abort.FAILED


@contextmanager
def workers_for_anyio(backend: Any, simulation: Simulation) -> Generator[None]:
    """Make anyio use workers in `simulation` while the context is open."""
    bridge = _Bridge(backend, simulation)
    methods: tuple[Any, ...] = (
        bridge.run_sync_in_worker_thread,
        bridge.run_sync_from_thread,
        bridge.run_async_from_thread,
        bridge.check_cancelled,
    )
    with ExitStack() as stack:
        for method in methods:
            stack.enter_context(replaced(backend, method.__name__, staticmethod(method)))
        yield


class _Bridge:
    """Replaces methods of anyio's backend. Calls anyio's own methods outside of a simulation."""

    def __init__(self, backend: Any, simulation: Simulation) -> None:
        self._backend = backend
        self._simulation = simulation
        self._to_thread = backend.run_sync_in_worker_thread
        self._call = backend.run_sync_from_thread
        self._call_async = backend.run_async_from_thread
        self._check = backend.check_cancelled

    async def run_sync_in_worker_thread(
        self, func: Any, args: Any, abandon_on_cancel: bool = False, limiter: Any = None
    ) -> Any:
        if not self._simulation.is_mine():
            return await self._to_thread(func, args, abandon_on_cancel=abandon_on_cancel, limiter=limiter)
        await trio.lowlevel.checkpoint_if_cancelled()
        limiter = limiter or self._backend.current_default_thread_limiter()
        call = Call(self._simulation, abandon=abandon_on_cancel, limiter=limiter)
        await limiter.acquire_on_behalf_of(call)
        self._simulation.crew.hire(func, call.work(self._backend, func, args))
        return await call.wait()

    def run_sync_from_thread(self, func: Any, args: Any, token: Any) -> Any:
        worker = current_worker()
        if worker is None:
            return self._call(func, args, token)
        return worker.ask(lambda reply: here.call.ask(Message(func, args, copy_context(), reply, False)))

    def run_async_from_thread(self, func: Any, args: Any, token: Any) -> Any:
        worker = current_worker()
        if worker is None:
            return self._call_async(func, args, token)
        return worker.ask(lambda reply: here.call.ask(Message(func, args, copy_context(), reply, True)))

    def check_cancelled(self) -> None:
        if current_worker() is None:
            self._check()
        elif here.call.raise_cancel is not None:
            here.call.raise_cancel()
