"""Threads for a client that only has sync calls. They do not keep the program from its end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from queue import SimpleQueue
from threading import Thread

from anyio import Event

from ._drive.loops import native_seam


class Daemons:
    """A few threads of one event loop. anyio's own would let the end of the program wait for a client that hangs.

    :param most: the number of threads, which start when they are needed
    """

    def __init__(self, most: int, name: str) -> None:
        self._seam = Context().run(native_seam)  # it keeps its context, and the context here has a task
        self._most = most
        self._name = name
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = 0

    async def call(self, func: Callable[[], None]) -> None:
        """Call `func` in a thread, in a copy of the current context. If this call is cancelled, a thread that has begun
        goes on; if it is cancelled before that, no thread calls `func`.

        :raises BaseException: the exception of `func`
        """
        is_wanted = True
        context = copy_context()
        ended = Event()
        errors: list[BaseException] = []

        def work() -> None:
            if not is_wanted:
                return
            try:
                context.run(func)
            except BaseException as exc:  # an exit would end the thread, and look like a success
                errors.append(exc)
            with suppress(RuntimeError):  # the event loop has ended
                self._seam.call_from_thread(ended.set)

        try:
            self._begin_thread()
            self._calls.put(work)
            await ended.wait()
        finally:
            is_wanted = False
        if errors:
            raise errors.pop()

    def end(self) -> None:
        """Let the threads end, each after its call. No call follows."""
        for _ in range(self._threads):
            self._calls.put(None)

    def _begin_thread(self) -> None:
        if self._threads < self._most:
            try:
                Thread(target=_work, args=(self._calls,), name=self._name, daemon=True).start()
            except RuntimeError:  # the system has no thread left
                if not self._threads:
                    raise
            else:
                self._threads += 1


def _work(calls: SimpleQueue[Callable[[], None] | None]) -> None:
    while (call := calls.get()) is not None:
        call()
        del call
