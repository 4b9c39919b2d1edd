"""A native task of asyncio for work of the host itself, beside the native tasks of its jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

Work = Callable[[], Coroutine[None, None, None]]


class Companion:
    """A native task that runs `work()`. As a context: see `NativeSeam.beside()`.

    asyncio's own `cancel()` may come before the first step of a native task, which then never runs. So a new native
    task follows, until one has begun.

    :param kept: has this object until `work()` has ended. (The event loop keeps no native task from the garbage
        collector)
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Work, name: str, kept: set[Companion]) -> None:
        self._loop, self._work, self._name, self._kept = loop, work, name, kept
        self._has_begun = False
        kept.add(self)
        self._start()

    def _start(self) -> None:
        self._native = self._loop.create_task(self._run(), name=self._name)
        self._native.add_done_callback(self._note_done)

    async def _run(self) -> None:
        self._has_begun = True
        await self._work()

    def _note_done(self, _: object) -> None:
        if self._has_begun:
            self._kept.remove(self)
        else:
            self._start()

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        while not (self._has_begun and self._native.done()):
            await asyncio.wait([self._native])
        if not self._native.cancelled() and (error := self._native.exception()) is not None:
            raise error
