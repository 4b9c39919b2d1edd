"""The data of the page: what a `History` and a host know now, as JSON."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from itertools import islice
from types import FrameType
from typing import Any, cast

from anyio.lowlevel import checkpoint

from taskphase import Queue, Task, TaskHost, TaskStatus

from ._history import History
from ._stories import BEGINNING, CHANGES, REQUEST, Ended, Request, Story
from ._text import escaped, name_of, place, queue_message, texts_of

MOST_ALIVE = 200
"""The most tasks that the page shows as alive."""

MOST_FRAMES = 6
"""The most frames of a task that the page shows: the innermost."""

MOST_SEARCHED = 1000
"""The most tasks that a host may have for a look at their frames: the search for them takes a microsecond a task."""

BATCH = 100
"""So many tasks are written between two turns of the event loop: that takes about a millisecond."""

# What a task waits for, or does, in each status.
KINDS: dict[str, str] = {
    TaskStatus.NEW: "start",
    TaskStatus.STARTING: "start",
    TaskStatus.DEFERRED: "phase",
    TaskStatus.RECORDING: "record",
    TaskStatus.DELAYED: "delay",
    TaskStatus.LIMITED: "limit",
    TaskStatus.WAITING: "slot",
    TaskStatus.RUNNING: "run",
    TaskStatus.HANDING_OVER: "handover",
    TaskStatus.CANCELLING: "cancel",
    TaskStatus.WITHDRAWING: "cancel",
    TaskStatus.HANDLING: "handler",
    TaskStatus.ABORTING: "handler",
    TaskStatus.RETRYING: "retry",
}

_RUNNING = TaskStatus.RUNNING
_IN_ATTEMPT = {TaskStatus.RUNNING, TaskStatus.CANCELLING, TaskStatus.HANDLING, TaskStatus.ABORTING}
_IN_HAND_OVER = {TaskStatus.HANDING_OVER, TaskStatus.WITHDRAWING}

_LOOPS = {"anyio", "asyncio", "trio", "uvloop"}

_COUNTS = ("running", "waiting", "limited", "delayed", "deferred", "retrying", "handing_over", "recording", "threads")
_ENDS = ("succeeded", "failed", "cancelled", "dropped", "handed_over", "recovered")


class Picture:
    """The state of a history and a host, for one reader who reads it again and again.

    :param after: the cursors of the pictures that the reader has, of all workers, with commas between them
    """

    def __init__(self, history: History, host: TaskHost, after: str = "") -> None:
        self._stories = history._stories
        self._host = host
        self._worker = f"{os.getpid()}-{self._stories.token}"
        known = {worker: number for worker, _, number in (each.partition(":") for each in after.split(","))}
        number = known.get(self._worker, "")
        self._is_whole = re.fullmatch("[0-9]{1,18}", number) is None  # more digits are not ours
        self._number = 0 if self._is_whole else int(number)
        self._last: str | None = None
        self._journal = ""

    @property
    def cursor(self) -> str:
        """The worker, and the number of tasks that have ended, as far as this picture has told of them."""
        return f"{self._worker}:{self._number}"

    async def pieces(self) -> AsyncGenerator[str]:
        """Yield the pieces of one JSON object; nothing, if nothing has changed since the last call.

        Between the pieces the event loop has its turn.
        """
        stories = self._stories
        journal = await stories.journal.read(self._host)
        alive = list(stories.oldest(MOST_ALIVE))
        ended, number = stories.ended_after(self._number)
        if len(ended) > BATCH:
            await checkpoint()
        head = self._head(number, len(alive)) + ',"alive":[' + await self._write_alive(alive) + "]"
        if head == self._last and not ended and journal == self._journal:
            return
        is_whole, self._is_whole = self._is_whole, False
        self._last, self._number = head, number
        now = _round(stories.now())
        yield _json({"whole": is_whole, "cursor": self.cursor, "now": now})[:-1] + "," + head
        of_tasks = (*(story[REQUEST] for _, story, _ in alive), *(task.request for task in ended))
        requests = {request.id: request for request in of_tasks if request is not None}
        lists = {
            "requests": map(self._request, requests.values()),
            "tasks": map(self._ended, ended),
        }
        for key, rows in lists.items():
            yield f',"{key}":['
            async with aclosing(_in_batches(rows)) as pieces:
                async for piece in pieces:
                    yield piece
            yield "]"
        if journal != self._journal:
            self._journal = journal
            yield f',"journal":{journal}'
        yield "}"

    def _head(self, number: int, alive: int) -> str:
        """Return the counts and the failures."""
        stories, host = self._stories, self._host
        counts = host.statistics()
        facts = {
            "worker": self._worker,
            "pid": os.getpid(),
            "keep": stories.keep,
            "draining": host.closing.is_set(),
            "counts": {name: getattr(counts, name) for name in (*_COUNTS, *_ENDS)},
            "refused": [[*key, *last] for key, last in tuple(stories.refused.items())],
            "durations": stories.durations(number),
            "more_alive": max(0, len(stories.alive) - alive),
            "failures": self._failures(),
        }
        return _json(facts)[1:-1]

    async def _write_alive(self, alive: list[tuple[Task[Any], Story, str | None]]) -> str:
        if len(alive) > BATCH:
            await checkpoint()
        counts = self._host.statistics()
        count = sum(getattr(counts, name) for name in _COUNTS[:-1])
        # Only the event loop of `host` may read the frames of its tasks.
        here: set[int] = {task.id for task in self._host.tasks()} if count <= MOST_SEARCHED else set()
        rows = (
            self._alive(task, story, arguments, is_here=task.id in here)
            for task, story, arguments in alive
            if task.status in KINDS
        )
        return "".join([piece async for piece in _in_batches(rows)])

    def _request(self, request: Request) -> dict[str, Any]:
        info, began = request.info, request.began
        texts = texts_of(info) if request.ended is None else info
        return {
            "id": request.id,
            "method": texts.get("method"),
            "route": texts.get("route"),
            "path": texts.get("path"),
            "label": " ".join(texts.values()) or None,
            "began": _round(began + self._stories.wall),
            "outcome": None if request.route_ended is None else "failed" if request.has_failed else "succeeded",
            "route_ended": _since(began, request.route_ended),
            "first_message": _since(began, request.first_message),
            "ended": _since(began, request.ended),
        }

    def _alive(self, task: Task[Any], story: Story, arguments: str | None, *, is_here: bool) -> dict[str, Any]:
        protection, status = task.config.protection, task.status
        where = _where(task) if is_here and status in _IN_ATTEMPT else []
        if status in _IN_HAND_OVER:
            where = _where_handed(task, is_here=is_here)
        row = self._row(task, story[REQUEST], story[BEGINNING], story[CHANGES:], None, status, task.config.name)
        row["attempt"] = 0 if isinstance(task.config.queue, Queue) else task.attempt  # a hand-over is no attempt
        row["shield"] = protection if 0 < protection < math.inf else protection > 0
        row["where"] = where
        row["error"] = None
        return row | _seldom(arguments, queue_message(task))

    def _ended(self, task: Ended) -> dict[str, Any]:
        row = self._row(task, task.request, task.beginning, task.changes, task.end, task.status, task.name)
        row["attempt"] = task.changes.count(_RUNNING)
        row["error"] = task.failure
        return row | _seldom(task.arguments, task.message)

    def _row(
        self,
        task: Task[Any] | Ended,
        request: Request | None,
        beginning: float,
        changes: list[Any],
        end: float | None,
        status: TaskStatus,
        name: str | None,
    ) -> dict[str, Any]:
        return {
            "id": task.id,
            "parent": task.parent,
            "request": None if request is None else request.id,
            "function": name_of(task.function),
            "name": None if name is None else escaped(name),
            "phase": task.phase,
            "status": status,
            "scheduled": _round(beginning + self._stories.wall),
            "ended": _since(beginning, end),
            "segments": _segments(beginning, changes),
        }

    def _failures(self) -> list[dict[str, Any]]:
        """Return the failures by function, type of the exception and line; the last one first."""
        groups: dict[tuple[str, str, str], dict[str, Any]] = {}
        for task in self._stories.failures():
            assert task.failure is not None
            function, (error, message, where) = name_of(task.function), task.failure
            key = function, error, where
            group = groups.pop(key, None) or {"function": function, "error": error, "where": where, "count": 0}
            group["count"] += 1
            group["message"] = message
            group["last"] = _round(task.end + self._stories.wall)
            group["task"] = task.id
            group["request"] = None if task.request is None else task.request.id
            groups[key] = group
        return list(reversed(groups.values()))


def _seldom(arguments: str | None, message: tuple[str | None, str, bool] | None) -> dict[str, str | bool | None]:
    """Return the values that few tasks have."""
    row: dict[str, str | bool | None] = {} if arguments is None else {"arguments": arguments}
    return row if message is None else row | dict(zip(("queue", "message_id", "recovered"), message, strict=True))


def _where(task: Task[Any]) -> list[str]:
    """Return where a task waits, the outermost line first. The innermost frames of the event loop's package are one."""
    frames = task.frames()
    if frames is None:
        return ["in a thread"]
    end = len(frames)
    while end > 1 and _is_of_loop(frames[end - 1]) and _is_of_loop(frames[end - 2]):
        end -= 1
    return [place(frame.f_code, frame.f_lineno) for frame in frames[max(0, end - MOST_FRAMES) : end]]


def _where_handed(task: Task[Any], *, is_here: bool) -> list[str]:
    """Return where a hand-over waits: its queue, and the lines of the queue and of its engine."""
    frames = [frame for frame in (is_here and task.frames()) or () if not _is_of_loop(frame)]
    name, *_ = cast("tuple[str, str, bool]", queue_message(task))
    return [f"the queue {name!r}", *(place(frame.f_code, frame.f_lineno) for frame in frames[-MOST_FRAMES:])]


def _is_of_loop(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in _LOOPS


def _segments(began: float, changes: list[Any]) -> list[list[Any]]:
    """Return what the task has waited for and done: for each step the kind, and its beginning in seconds since
    `schedule()`; for an attempt that another one follows, also the type of its exception.
    """
    kind = "start"
    segments: list[list[Any]] = [[kind, 0]]
    steps = iter(changes)
    for status, moment in zip(steps, steps, strict=True):
        if type(status) is tuple:
            status, error = cast("tuple[TaskStatus, str]", status)  # noqa: PLW2901
            segments[-1].append(error)
        before, kind = kind, KINDS.get(status, "start")
        if moment is changes[1] and kind not in ("run", "handover"):
            segments[0][0] = kind  # it waits from the beginning
        elif kind != before or kind == "run":
            segments.append([kind, _since(began, moment)])
    return segments


def _since(began: float, moment: float | None) -> float | None:
    return None if moment is None else _round(moment - began)


def _round(seconds: float) -> float:
    return int(seconds * 1e6 + 0.5) / 1e6  # three times as fast as `round(seconds, 6)`


_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


async def _in_batches(rows: Iterable[dict[str, Any]]) -> AsyncGenerator[str]:
    """Yield rows as JSON with commas between them, some rows at a time."""
    rows = iter(rows)
    comma = ""
    while batch := list(islice(rows, BATCH)):
        yield comma + _json(batch)[1:-1]
        comma = ","
        await checkpoint()
