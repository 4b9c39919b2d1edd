"""`Journal`: the settings of a journal, and its tasks for users."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

from .._drive.keeping import AnyJournal
from .._machine.calling import name_of, shown
from .._machine.config import UNSET, TaskConfig, check_seconds
from .._machine.hints import listed
from .._machine.limit import check_count
from .._machine.text import exportable
from .._queue import check_carry
from . import _entries, _statements
from ._entries import JournalEntry, JournalOverview

if TYPE_CHECKING:
    from .._drive.runner import Runner
    from ._keeper import Keeper

# The overviews of an event loop have one thread of their own: all other threads may be in use, when the inspector shows
# why. One: a disk that hangs holds no other thread.
_LIMITER: RunVar[CapacityLimiter] = RunVar("taskphase.journal.overview")


class Journal(AnyJournal):
    """Keeps tasks in a file, so that they survive a crash of the process. The file is an SQLite database.

    :param path: the file, on a local disk, or a symlink to it. Its directory exists. Beside the file are files of
        SQLite, and one for each host
    :param functions: the functions whose tasks are kept; or a dict with the settings of each. A recovered run has these
        settings, too
    :param sync: "full": a task that is written survives a power cut. "normal": it survives a crash of the process
    :param timeout: seconds or a `timedelta`, more than 0: a write that takes longer has failed
    :param recoveries: 1 or more: a task whose process has died in that many recovered runs is kept as failed
    :param names: the names of functions in the file. Default: the module and the qualified name. A function that was
        renamed needs its old name here
    :param carry: context variables with a `str`. A recovered run sees their values, by these names in the file
    :raises TypeError: if a parameter has the wrong type
    :raises ValueError: if a parameter is out of its range, or two functions have the same name
    :raises RuntimeError: if the system has no `fcntl`, as Windows
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        functions: Iterable[Callable[..., Any]] | Mapping[Callable[..., Any], TaskConfig],
        *,
        sync: Literal["full", "normal"] = "full",
        timeout: float | timedelta = 5,
        recoveries: int = 3,
        names: Mapping[Callable[..., Any], str] | None = None,
        carry: Mapping[str, ContextVar[str]] | None = None,
    ) -> None:
        if sync not in ("full", "normal"):
            raise ValueError(f"sync must be 'full' or 'normal', not {sync!r}")
        timeout = check_seconds("timeout", timeout, finite=True)
        if not timeout:
            raise ValueError("timeout must be more than 0 seconds")
        check_count("recoveries", recoveries, least=1)
        try:
            from ._file import File
            from ._owners import lives
        except ImportError as exc:
            raise RuntimeError(f"a journal needs sqlite3 and fcntl, which this Python does not have: {exc}") from exc
        # Without symlinks: all processes look for the locks of others beside the file itself.
        self._path: Path = Path(os.path.realpath(path))
        self._file = File(self._path, sync, timeout)
        self._lives: Callable[[str], bool] = partial(lives, self._path)
        self._carry: Mapping[str, ContextVar[str]] = MappingProxyType(check_carry(carry))
        self._recoveries = recoveries
        self._configs: Mapping[Callable[..., Any], TaskConfig] = _configs_of(functions)
        self._names: Mapping[Callable[..., Any], str] = _names_of(self._configs, names or {})

    def _keeper_for(self, runner: Runner, config: TaskConfig) -> Keeper:
        from ._forms import Forms
        from ._keeper import Keeper
        from ._share import Share

        share = Share(self._file, frozenset(self._names.values()), self._recoveries, runner.seam)
        return Keeper(runner, Forms(config, self._names, self._configs, self._carry), share)

    def __repr__(self) -> str:
        return f"<Journal {str(self._path)!r}>"

    async def due(self) -> list[JournalEntry]:
        """Return the tasks that wait or run, of all processes, the oldest first. Needs no open host.

        :raises JournalError: if the file cannot be read
        """
        return await self._entries("due")

    async def failed(self) -> list[JournalEntry]:
        """Return the tasks that have failed for good, of all processes, the oldest first. Needs no open host.

        :raises JournalError: if the file cannot be read
        """
        return await self._entries("failed")

    async def overview(self, most: int = 100, *, arguments: bool = False) -> JournalOverview:
        """Return the oldest tasks that wait or run, the last failures, and the counts, of all processes. No task waits
        for this. A cancellation ends the wait.

        :param most: the most tasks in each list, 1 or more
        :param arguments: True to have `args` and `kwargs`, unless they are very long. Otherwise both are empty
        :raises JournalError: if the file cannot be read
        """
        check_count("most", most, least=1)
        work = partial(_entries.overview, lives=cache(self._lives), most=most, has_arguments=arguments)
        _LIMITER.set(limiter := _LIMITER.get(None) or CapacityLimiter(1))
        return await to_thread.run_sync(self._file.read, work, abandon_on_cancel=True, limiter=limiter)

    async def retry(self, id: str) -> bool:  # noqa: A002 - the name of the attribute
        """Run a failed task again, in any process. The run begins within seconds, as soon as a host is open.

        :return: False if no failed task has this `id`
        :raises JournalError: if the file cannot be written; or a due task of the same function has the same key
        """
        return await to_thread.run_sync(self._file.ask, partial(_statements.retry, message_id=exportable(id)))

    async def discard(self, id: str) -> bool:  # noqa: A002 - the name of the attribute
        """Delete a task from the file. A host that has the task (`owner` is "alive") runs it all the same, also after a
        delay or a pause between attempts: `Task.cancel()` there stops it. A recovered task that waits for its first
        step is dropped.

        :return: False if no task has this `id`
        :raises JournalError: if the file cannot be written
        """
        return await to_thread.run_sync(self._file.ask, partial(_statements.discard, message_id=exportable(id)))

    async def _entries(self, state: str) -> list[JournalEntry]:
        def read() -> list[JournalEntry]:
            if self._file.is_new():
                return []
            return self._file.read(partial(_entries.entries, state=state, lives=cache(self._lives)))

        return await to_thread.run_sync(read)


def _configs_of(
    functions: Iterable[Callable[..., Any]] | Mapping[Callable[..., Any], TaskConfig],
) -> dict[Callable[..., Any], TaskConfig]:
    if isinstance(functions, Mapping):
        configs = dict(cast("Mapping[Callable[..., Any], TaskConfig]", functions))
    else:
        configs = dict.fromkeys(listed("functions", functions), UNSET)
    for func, config in configs.items():
        if not callable(func):
            raise TypeError(f"the functions of a journal must be callable, not {func!r}")
        if issubclass(type(func), partial):  # (`isinstance()` would run the code of a proxy)
            raise TypeError(f"a partial has no name in the file: list {shown(name_of(func))} itself, which it calls")
        if not isinstance(config, TaskConfig):
            raise TypeError(f"the settings of {shown(name_of(func))} must be a TaskConfig, not {config!r}")
    return {func: config.shared() for func, config in configs.items()}


def _names_of(
    functions: Iterable[Callable[..., Any]], pinned: Mapping[Callable[..., Any], str]
) -> dict[Callable[..., Any], str]:
    """Return the name of each function in the file."""
    names = {func: pinned.get(func, name_of(func)) for func in functions}
    if foreign := [func for func in pinned if func not in names]:
        raise ValueError(f"names has {shown(name_of(foreign[0]))}, which is no function of this journal")
    found: dict[str, Callable[..., Any]] = {}
    for func, name in names.items():
        if type(name) is not str or not name.isprintable() or not name:
            raise TypeError(f"the name of {shown(name_of(func))} must be a printable str, not {name!r}")
        if found.setdefault(name, func) is not func:
            raise ValueError(f"two functions of this journal have the name {shown(name)}: pin one with names={{...}}")
    return names
