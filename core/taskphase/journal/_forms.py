"""A task as a row of the file, and a row as a task."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from traceback import format_exception_only
from typing import Any

from .._drive.identity import new_message_id
from .._drive.job import Job, order_of
from .._drive.keeping import Place, Record
from .._drive.outlets import Outlets, route
from .._drive.portable import without_partials
from .._machine.calling import name_of, shown
from .._machine.config import TaskConfig
from .._machine.scope import Phase
from .._machine.text import exportable
from .._queue import carried, trace_headers
from .._scope import Scope
from .._task import Task
from ..errors import TasksUnportableError
from ._arguments import pack, unpack
from ._statements import Row

# The header of a task that runs here although a queue takes its function.
_QUEUE = "taskphase.queue"

# A hand-over of a task that the journal keeps need not end before the host.
_OUTBOX = TaskConfig(shield=False)


class Forms:
    """The functions of a journal in one host, with their settings.

    :param config: the settings of the host
    :param names: the name of each function in the file
    :param configs: the settings of each function
    :param carry: the context variables to keep, by name
    """

    def __init__(
        self,
        config: TaskConfig,
        names: Mapping[Callable[..., Any], str],
        configs: Mapping[Callable[..., Any], TaskConfig],
        carry: Mapping[str, ContextVar[str]],
    ) -> None:
        self._config = config
        self._names = names
        self._configs = configs
        self._functions = {name: func for func, name in names.items()}
        self._carry = carry
        self._last: dict[Callable[..., Any], tuple[TaskConfig, TaskConfig]] = {}  # most tasks have the same settings

    def prepare(self, job: Job, scope: Scope | None, outlets: Outlets | None) -> None:
        """See `taskphase._drive.keeping.Keeper.prepare()`."""
        name = self._configure(job)
        route(job, outlets)
        if name is None:
            return
        func, args, kwargs = without_partials(job.func, job.args, job._kwargs)
        key = job.config.key
        if key is not None and exportable(key) != key:
            raise TasksUnportableError(
                f"the key of {shown(name)} cannot go into the journal: it has a character that is no text (a lone "
                "surrogate, as in file names with unknown bytes)"
            )
        arguments = pack(name, func, args, kwargs)
        headers = carried(self._carry, f"{shown(name)} cannot go into the journal")
        headers |= trace_headers(headers)
        if job.config.queue == "here":
            headers[_QUEUE] = "here"
        _adapt(job)
        if scope is not None and scope.info.get("method") == "WEBSOCKET":
            scope = None  # it has no response to wait for
        parcel = job._own_parcel()
        parcel.message_id = parcel.message_id or new_message_id()
        parcel.record = Record(name, arguments, headers, scope)

    def make(self, found: Row, outlets: Outlets | None) -> Job:
        """Return a recovered task. Call this in the context of the task.

        :raises TypeError: if the function has other parameters now
        :raises ValueError: if the file was changed by hand: the arguments are no JSON
        """
        headers: dict[str, str] = json.loads(found.headers)
        for name, variable in self._carry.items():
            if name in headers:
                variable.set(headers[name])
        if "opentelemetry.trace" in sys.modules:
            from .._messaging import continue_trace

            continue_trace(headers)
        func = self._functions[found.function]
        own_name = None if found.name == name_of(func) else found.name
        own = TaskConfig(name=own_name, key=found.key, delay=found.delay)  # its delay has begun: here is the rest
        job: Task[Any] = Task(func, *unpack(found.arguments), self._config.merge(own))
        job.phase = Phase(found.phase)
        self._configure(job)
        parcel = job._own_parcel()
        parcel.message_id = found.message_id
        parcel.record = Record(found.function, "", headers, place=Place.RECOVERED, is_recovered=True)
        if _QUEUE not in headers:
            route(job, outlets)
        _adapt(job)
        return job

    def _configure(self, job: Job) -> str | None:
        """Give `job` the settings of its function, if the journal has it. Return its name in the file, or None."""
        func, _, _ = without_partials(job.func, job.args, job._kwargs)
        try:
            name = self._names.get(func)
        except Exception:  # the class of a user's object has no hash
            return None
        if name is not None:
            before, kept = self._last.get(func, (None, job.config))
            if before is not job.config:
                kept = job.config.kept(self._configs[func])
                self._last[func] = job.config, kept
            job.config = kept
        return name


def _adapt(job: Job) -> None:
    """Take the shield off a hand-over: the drain does not wait for it. Pickle the call of a task for a process."""
    if order_of(job) is None:
        job._pack()
    else:
        job.config = job.config.merge(_OUTBOX)


def row_of(job: Job, record: Record) -> Row:
    """Return the row of a task for the file."""
    return Row(
        *(str(job.message_id), record.function, exportable(job.name), job.phase.value, record.arguments),
        json.dumps(record.headers) if record.headers else "{}",
        job.config.key,
        job.config.delay,
    )


def text_of(error: BaseException) -> str:
    """Return the class and the text of an exception, for the file."""
    try:
        return exportable("".join(format_exception_only(error)).strip())
    except Exception:  # of the user's code
        return exportable(type(error).__qualname__)
