"""The plain task group of a host, for work that is no task: `host.tg`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from anyio import CancelScope, create_task_group, sleep_forever
from anyio.abc import TaskGroup

from . import report
from .cancelling import is_cancelled_around
from .raised import leaves
from .seam import NativeSeam, outlast

if TYPE_CHECKING:
    from contextvars import Context


class RawGroup(TaskGroup):
    """A task group that stays usable while its host is open, even after a failure.

    A failure or a cancellation ends an anyio task group for ever. So this class keeps two real groups open:

    1. New work starts in the first group of `_groups`. A task of the host, `_hold()`, keeps that group open.
    2. When the first group ends, the second one, the spare, takes new work at once.
    3. The next work that starts opens another spare.

    A new group opens only at a later turn of the event loop. Without the spare, work that starts before that turn would
    be refused, or cancelled with the old group.

    :ivar names: the name of each running work, by its native task
    :ivar is_closing: whether `close()` was called
    """

    def __init__(self, seam: NativeSeam[Any], on_change: Callable[[], None]) -> None:
        self.names: dict[object, str] = {}
        self.is_closing = False
        self._seam = seam
        self._on_change = on_change
        self._groups: list[TaskGroup] = []
        self._holders = 0
        self._is_opening = False

    def open(self, opened: Callable[[], None] | None = None) -> None:
        """Open another group, first of all the first one. `opened()` is called as soon as work can start."""
        self._is_opening = True
        self._holders += 1
        self._seam.start_beside(partial(self._hold, opened), name="taskphase.RawGroup._hold")

    def close(self) -> list[str]:
        """Cancel all work, including work that starts later; return the names of the running work."""
        self.is_closing = True
        for group in self._groups:
            group.cancel_scope.cancel()
        return list(self.names.values())

    @property
    def is_open(self) -> bool:
        """Whether a real task group is open or about to open."""
        return self._holders > 0

    @property
    def cancel_scope(self) -> CancelScope:  # type: ignore[override]
        """The cancel scope of the group that takes new work."""
        return self._current().cancel_scope

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: object = None, context: Context | None = None
    ) -> Any:
        """Start a coroutine (anyio >= 4.14); see `anyio.abc.TaskGroup.create_task()`."""
        name = str(getattr(coro, "__qualname__", coro) if name is None else name)
        try:
            group: Any = self._current()
        except RuntimeError:
            coro.close()
            raise
        return group.create_task(self._run_named(coro, name), name=name, context=context)

    if not hasattr(TaskGroup, "create_task"):  # from 4.14 on, anyio's own calls `create_task()`

        def start_soon(self, func: Callable[..., Any], *args: Any, name: object = None) -> Any:  # type: ignore[misc, override]
            """Start a coroutine function; see `anyio.abc.TaskGroup.start_soon()`."""
            name = _name(func, name)
            return self._current().start_soon(lambda: self._run_named(func(*args), name), name=name)

    async def start(self, func: Callable[..., Any], *args: object, name: object = None, **options: Any) -> Any:
        """Start a coroutine function, and wait for `task_status.started()`; see `anyio.abc.TaskGroup.start()`."""
        name = _name(func, name)

        def run_named(*, task_status: Any) -> Coroutine[Any, Any, Any]:
            return self._run_named(func(*args, task_status=task_status), name)

        return await self._current().start(run_named, name=name, **options)

    async def __aenter__(self, *_: object) -> NoReturn:
        raise RuntimeError("this task group belongs to a host: the host enters and exits it")

    __aexit__: Any = __aenter__

    def _current(self) -> TaskGroup:
        if not (self._groups and self._holders):
            raise RuntimeError("this task group belongs to a host that is closed: it takes no work")
        if not self.is_closing:
            if len(self._groups) > 1 and self._groups[0].cancel_scope.cancel_called:
                del self._groups[0]
            if not self._has_spare:
                self.open()
        return self._groups[0]

    @property
    def _has_spare(self) -> bool:
        return len(self._groups) > 1 or self._is_opening

    async def _hold(self, opened: Callable[[], None] | None) -> None:
        try:
            while True:
                try:
                    # asyncio's own `cancel()`, as at the end of `asyncio.run()`, ends the group; `outlast()` opens
                    # the next one.
                    await outlast(self._seam, partial(self._hold_one, opened))
                except BaseException as exc:
                    if is_cancelled_around() or any(
                        isinstance(leaf, KeyboardInterrupt | SystemExit) for leaf in leaves(exc)
                    ):
                        raise
                    report.group_failed(exc)
                if self.is_closing or self._has_spare:
                    return  # otherwise open another group: new work needs one
        finally:
            self._holders -= 1
            self._on_change()

    async def _hold_one(self, opened: Callable[[], None] | None) -> None:
        async with create_task_group() as group:
            self._groups.append(group)
            self._is_opening = False
            try:
                if opened is not None:
                    opened()
                if self.is_closing:
                    group.cancel_scope.cancel()
                await sleep_forever()
            finally:
                # While the host closes, work may still start, and is cancelled in the old group.
                if group in self._groups and not self.is_closing:
                    self._groups.remove(group)

    async def _run_named(self, coro: Coroutine[Any, Any, Any], name: str) -> Any:
        this = self._seam.running()
        self.names[this] = name
        try:
            return await coro
        finally:
            del self.names[this]


def _name(func: Callable[..., Any], name: object) -> str:
    return str(getattr(func, "__qualname__", func) if name is None else name)
