"""A simulated run of trio, and the replaced parts of anyio and trio while it runs: threads. trio itself passes calls
between thread and event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import outcome
import trio._core._run
import trio._threads

from ..._machine.calling import names_of
from . import privates
from .loop import Loop
from .offline import without_real_time
from .on_trio import Simulation, raise_cancelled
from .privates import anyio_eventloop, anyio_on_trio, check
from .schedule import Schedule
from .threads import Mailbox, current_worker, is_over


@contextmanager
def simulated(schedule: Schedule, main: Callable[[], Awaitable[Any]], name: str, patience: float) -> Generator[Loop]:
    """Return a new run. Patches anyio and trio while the context is open."""
    check_trio()
    backend = anyio_on_trio().TrioBackend
    simulation = Simulation(schedule, main, name, patience)
    with _workers_for_anyio(backend, simulation), without_real_time(backend):
        yield simulation


@cache
def check_trio() -> None:
    """Check trio's private names, in a run of trio that ends at once.

    :raises PrivateChanged: if a name is gone, or its value has another type
    """

    async def check_runner() -> None:
        context = check(privates.TRIO_MODULE, trio._core._run).GLOBAL_RUN_CONTEXT
        runner = check(privates.RUNNER, check(privates.RUN_CONTEXT, context).runner)
        check(privates.DEADLINES, runner.deadlines)
        check(privates.ENTRY_QUEUE, runner.entry_queue)
        task = check(privates.TRIO_TASK, runner.main_task)
        check(privates.CANCEL_STATUS, task._cancel_status)

    trio.run(check_runner)


@contextmanager
def _workers_for_anyio(backend: Any, simulation: Simulation) -> Generator[None]:
    """Make trio use workers in `simulation` while the context is open. `backend`: anyio's."""
    send_message: Any = trio._threads._send_message_to_trio

    async def run_sync_in_worker_thread(
        func: Any, args: Any, abandon_on_cancel: bool = False, limiter: Any = None
    ) -> Any:
        # anyio's own function does the same, but does not tell trio the name of `func`.
        def call() -> Any:
            with anyio_eventloop().claim_worker_thread(backend, token):
                return func(*args)

        token = trio.lowlevel.current_trio_token()
        return await trio.to_thread.run_sync(
            call, thread_name=names_of(func)[1], abandon_on_cancel=abandon_on_cancel, limiter=limiter
        )

    def send_message_to_trio(token: Any, message: Any) -> Any:
        worker = current_worker()
        if worker is not None:
            worker.check()
            object.__setattr__(message, "queue", Mailbox())  # there the thread waits for the answer
        return send_message(token, message)

    with (
        patch.object(backend, "run_sync_in_worker_thread", staticmethod(run_sync_in_worker_thread)),
        patch.object(trio._threads, "start_thread_soon", _starter(simulation)),
        patch.object(trio._threads, "_send_message_to_trio", send_message_to_trio),
    ):
        yield


def _starter(simulation: Simulation) -> Callable[..., None]:
    """Return a function to replace trio's `start_thread_soon()`."""
    original = vars(trio._threads)["start_thread_soon"]

    def start_thread_soon(
        func: Callable[[], Any], deliver: Callable[[outcome.Outcome[Any]], object], name: str | None = None
    ) -> None:
        if not simulation.is_mine():
            original(func, deliver, name)
            return

        def work() -> None:
            result = outcome.capture(func)
            if not is_over():
                deliver(result)

        simulation.hire(name or "thread", work, lambda: deliver(outcome.capture(raise_cancelled)))

    return start_thread_soon
