"""`Forms`: a task as a row of the file, and a row as a task."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from math import inf
from typing import Any

from .._drive.identity import new_message_id
from .._drive.job import Job, order_of
from .._drive.outlets import route, without_partials
from .._machine.calling import name_of, shown
from .._machine.config import TaskConfig
from .._machine.scope import Phase
from .._machine.text import exportable
from .._queue import carried, queue_of, trace_headers
from .._scope import Scope
from .._task import Task
from ..errors import TasksUnportableError
from ._arguments import pack
from ._record import Keeps, Place, Record
from ._statements import Recovered

# The header of a task that runs here although a queue takes its function.
_QUEUE = "taskphase.queue"

# A hand-over of a task that the journal keeps need not end before the host.
_OUTBOX = TaskConfig(shield=False)


class Forms:
    """The functions of a journal in one host, with their settings.

    :param config: the settings of the host
    :param names: the name of each function in the file
    :param configs: the settings of each function, by its name in the file
    :param functions: the functions, by their names in the file
    :param carry: the context variables to keep, by name
    """

    def __init__(
        self,
        config: TaskConfig,
        names: Mapping[Callable[..., Any], str],
        configs: Mapping[str, TaskConfig],
        functions: Mapping[str, Callable[..., Any]],
        carry: Mapping[str, ContextVar[str]],
    ) -> None:
        self._config = config
        self._names = names
        self._configs = configs
        self._functions = functions
        self._carry = carry
        self._last: dict[str | None, tuple[TaskConfig, TaskConfig]] = {}

    def configure(self, job: Job) -> str | None:
        """See `taskphase._drive.keeping.Keeper.configure()`."""
        func, _, _ = without_partials(job)
        try:
            name = self._names.get(func)
        except Exception:  # the class of a user's object has no hash
            return None
        if name is not None:
            self._configure(job, name)
        return name

    def prepare(self, job: Job, name: str, scope: Scope | None, keeper: Keeps) -> None:
        """See `taskphase._drive.keeping.Keeper.prepare()`."""
        _, args, kwargs = without_partials(job)
        _check_key(name, job.config.key)
        arguments = pack(name, args, kwargs)
        headers = carried(self._carry, f"{shown(name)} cannot go into the journal")
        headers |= trace_headers(headers)
        if job.config.queue == "here":
            headers[_QUEUE] = "here"
        self._adapt(job)
        if scope is not None and scope.info.get("method") == "WEBSOCKET":
            scope = None  # it has no response to wait for
        # The file decides about the key, and a hand-over comes after its record.
        is_early = job.phase is Phase.IMMEDIATE and (job.config.key is not None or queue_of(job.config) is not None)
        parcel = job._own_parcel()
        parcel.message_id = parcel.message_id or new_message_id()
        parcel.record = Record(keeper, name, arguments, headers, scope, is_early=is_early)

    def _configure(self, job: Job, name: str) -> None:
        job.config = self._shared(name, job.config, lambda before: before.kept(self._configs[name]))

    def _shared(self, name: str | None, before: TaskConfig, change: Callable[[TaskConfig], TaskConfig]) -> TaskConfig:
        """Return `change(before)`: the same object as the last time, if `before` is the same."""
        last, after = self._last.get(name, (None, before))
        if last is not before:
            after = change(before)
            self._last[name] = before, after
        return after

    def _adapt(self, job: Job) -> None:
        """Give a hand-over all the time that it needs. Pickle the call of a task that runs here, in a process."""
        order = order_of(job)
        if order is None:
            job._pack()
            return
        order.deadline = inf
        job.config = self._shared(None, job.config, lambda before: before.merge(_OUTBOX))

    def make(self, found: Recovered, keeper: Keeps) -> Job:
        """Return a recovered task. Call this in the context of the task.

        :raises TypeError: if the function has other parameters now
        """
        for name, variable in self._carry.items():
            if name in found.headers:
                variable.set(found.headers[name])
        if "opentelemetry.trace" in sys.modules:
            from .._messaging import continue_trace

            continue_trace(found.headers)
        func = self._functions[found.function]
        own_name = None if found.name == name_of(func) else found.name
        own = TaskConfig(name=own_name, key=found.key, delay=found.delay)  # its delay has begun: here is the rest
        job: Task[Any] = Task(func, found.args, found.kwargs, self._config.merge(own))
        job.phase = Phase(found.phase)
        parcel = job._own_parcel()
        parcel.message_id = found.message_id
        self._configure(job, found.function)
        if _QUEUE not in found.headers:
            route(job, keeper.runner.outlets)
        self._adapt(job)
        headers = dict(found.headers)
        parcel.record = Record(keeper, found.function, "", headers, None, Place.RECOVERED, is_recovered=True)
        return job


def _check_key(function: str, key: str | None) -> None:
    if key is not None and exportable(key) != key:
        raise TasksUnportableError(
            f"the key of {shown(function)} cannot go into the journal: it has a character that is no text (a lone "
            "surrogate, as in file names with unknown bytes)"
        )
