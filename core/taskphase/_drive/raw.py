"""The plain task group of a host: for raw work, which is no task."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from anyio import CancelScope, Event, create_task_group
from anyio.abc import TaskGroup

from . import report
from .raised import leaves
from .seam import Seam, is_cancelled_around, outlast

if TYPE_CHECKING:
    from contextvars import Context


class RawGroup(TaskGroup):
    """A task group that can be used for as long as its host is open, whatever has failed in it.

    Work starts in a real task group, which a task of the host holds open. An exception there, or a cancellation, ends
    that group and cancels the work in it. Another real group, the spare one, is open already, and takes the next work.

    :ivar names: the name of each work that is running, by its native task
    :ivar is_closing: whether `close()` was called
    """

    def __init__(self, seam: Seam, on_change: Callable[[], None]) -> None:
        self.names: dict[object, str] = {}
        self.is_closing = False
        self._seam = seam
        self._on_change = on_change
        self._closing = Event()
        self._groups: list[TaskGroup] = []
        self._holders = 0
        self._is_opening = False

    def open(self, keeper: TaskGroup, opened: Callable[[], None]) -> None:
        """Open. `keeper` holds the real task groups; `opened` is called when work can start."""
        self._keeper = keeper
        self._hold_another(opened)

    def close(self) -> list[str]:
        """Cancel all work, and what is started from now on; return the names of what was running."""
        self.is_closing = True
        self._closing.set()
        for group in self._groups:
            group.cancel_scope.cancel()
        return list(self.names.values())

    @property
    def is_open(self) -> bool:
        """Whether a real task group is open, or is about to be."""
        return self._holders > 0

    @property
    def cancel_scope(self) -> CancelScope:  # type: ignore[override]
        """The scope of the group that takes what is started now."""
        return self._current().cancel_scope

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: object = None, context: Context | None = None
    ) -> Any:
        """Start a coroutine. With anyio >= 4.14; see `anyio.abc.TaskGroup.create_task()`."""
        name = str(getattr(coro, "__qualname__", coro) if name is None else name)
        try:
            group: Any = self._current()
        except RuntimeError:
            coro.close()
            raise
        return group.create_task(self._noted(coro, name), name=name, context=context)

    if not hasattr(TaskGroup, "create_task"):  # from 4.14 on, anyio's own calls `create_task()`

        def start_soon(self, func: Callable[..., Any], *args: Any, name: object = None) -> Any:  # type: ignore[misc, override]
            """Start a coroutine function. See `anyio.abc.TaskGroup.start_soon()`."""
            name = _name(func, name)
            return self._current().start_soon(lambda: self._noted(func(*args), name), name=name)

    async def start(self, func: Callable[..., Any], *args: object, name: object = None, **options: Any) -> Any:
        """Start a coroutine function, and wait until it says that it has started. See `anyio.abc.TaskGroup.start()`."""
        name = _name(func, name)

        def noted(*, task_status: Any) -> Coroutine[Any, Any, Any]:
            return self._noted(func(*args, task_status=task_status), name)

        return await self._current().start(noted, name=name, **options)

    async def __aenter__(self) -> NoReturn:
        raise RuntimeError("this task group belongs to a host, which opens and closes it")

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> NoReturn:
        await self.__aenter__()

    def _current(self) -> TaskGroup:
        if not (self._groups and self._holders):
            raise RuntimeError("this task group belongs to a host, which is closed: it takes no work")
        if not self.is_closing:
            if len(self._groups) > 1 and self._groups[0].cancel_scope.cancel_called:
                del self._groups[0]
            if not self._has_spare:
                self._hold_another()
        return self._groups[0]

    @property
    def _has_spare(self) -> bool:
        return len(self._groups) > 1 or self._is_opening

    def _hold_another(self, opened: Callable[[], None] | None = None) -> None:
        self._is_opening = True
        self._holders += 1
        self._keeper.start_soon(self._hold, opened)

    async def _hold(self, opened: Callable[[], None] | None) -> None:
        try:
            while True:
                try:
                    await outlast(self._seam, partial(self._hold_one, opened))
                except BaseException as exc:
                    if is_cancelled_around() or any(
                        isinstance(leaf, KeyboardInterrupt | SystemExit) for leaf in leaves(exc)
                    ):
                        raise
                    report.group_failed(exc)
                if self.is_closing or self._has_spare:
                    return
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
                await self._closing.wait()
            finally:
                if group in self._groups and not self.is_closing:
                    self._groups.remove(group)

    async def _noted(self, coro: Coroutine[Any, Any, Any], name: str) -> Any:
        this = self._seam.running()
        self.names[this] = name
        try:
            return await coro
        finally:
            del self.names[this]


def _name(func: Callable[..., Any], name: object) -> str:
    return str(getattr(func, "__qualname__", func) if name is None else name)
