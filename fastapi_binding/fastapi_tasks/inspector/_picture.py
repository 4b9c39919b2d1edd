"""The data of the page: what a `History` and a host know now, as JSON."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import fields
from itertools import islice
from types import FrameType
from typing import Any

from anyio.lowlevel import checkpoint

from taskphase import HostStatistics, Task, TaskHost, TaskStatus

from ._history import History
from ._stories import Request, Story, clock
from ._text import escaped, is_of_loop, place, texts_of

MOST_ALIVE = 200
"""The most tasks that the page shows as alive."""

MOST_FRAMES = 6
"""The most frames of a task that the page shows: the innermost."""

MOST_SEARCHED = 1000
"""The most tasks that may be alive for a look at their frames: the search for them takes a microsecond a task."""

BATCH = 100
"""The most tasks that are written between two turns of the event loop: that takes about a millisecond."""

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

_OF_THE_FUNCTION = {TaskStatus.RUNNING, TaskStatus.CANCELLING}
_IN_ATTEMPT = {*_OF_THE_FUNCTION, TaskStatus.HANDLING, TaskStatus.ABORTING}
_IN_HAND_OVER = {TaskStatus.HANDING_OVER, TaskStatus.WITHDRAWING}

_COUNTS = [field.name for field in fields(HostStatistics) if field.name != "oldest_running"]


class Picture:
    """The state of a history and a host, for one reader who reads it again and again.

    :param after: the cursors of the pictures that the reader has, of all workers, with commas between them
    """

    def __init__(self, history: History, host: TaskHost, after: str = "") -> None:
        self._stories = history._stories
        self._host = host
        self._worker = f"{os.getpid()}-{self._stories.token}"
        known = {worker: last for worker, _, last in (each.partition(":") for each in after.split(","))}
        last = re.fullmatch(r"([0-9]{1,18})\.([0-9]{1,18})", known.get(self._worker, ""))  # more digits are not ours
        self._is_whole = last is None
        self._last, self._moment = (0, 0) if last is None else (int(last[1]), int(last[2]))
        self._head_before: str | None = None
        self._journal = ""

    @property
    def cursor(self) -> str:
        """The worker, the last task that has ended, and the microsecond of the look that this picture has told of."""
        return f"{self._worker}:{self._last}.{self._moment}"

    async def pieces(self) -> AsyncGenerator[str]:
        """Yield the pieces of one JSON object; nothing, if nothing has changed since the last call.

        Between the pieces the event loop has its turn.
        """
        stories = self._stories
        journal = await stories.journal.read(self._host)
        moment = int(clock() * 1e6)
        changed = [] if self._is_whole else stories.requests_after(self._moment / 1e6)
        alive = list(stories.oldest(MOST_ALIVE))
        ended = stories.ended_after(self._last)
        if len(ended) > BATCH:
            await checkpoint()
        head = self._head(len(alive)) + ',"alive":[' + await self._write_alive(alive) + "]"
        if head == self._head_before and not ended and not changed and journal == self._journal:
            return
        is_whole, self._is_whole = self._is_whole, False
        self._head_before, self._last, self._moment = head, ended[-1].id if ended else self._last, moment
        now = _round(clock() + stories.wall)
        yield _json({"whole": is_whole, "cursor": self.cursor, "now": now})[:-1] + "," + head
        told = (*changed, *(story.request for _, story in alive), *(story.request for story in ended))
        requests = {request.id: request for request in told if request is not None}
        lists = {
            "requests": map(self._request, requests.values()),
            "tasks": map(self._row, ended),
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

    def _head(self, alive: int) -> str:
        """Return the counts and the failures."""
        stories, host = self._stories, self._host
        counts = host.statistics()
        facts = {
            "worker": self._worker,
            "pid": os.getpid(),
            "keep": stories.keep,
            "draining": host.closing.is_set(),
            "counts": {name: getattr(counts, name) for name in _COUNTS},
            "refused": [[*key, *last] for key, last in tuple(stories.refused.items())],
            "durations": stories.durations() or None,
            "more_alive": max(0, len(stories.alive) - alive),
            "failures": self._failures(),
        }
        return _json(facts)[1:-1]

    async def _write_alive(self, alive: list[tuple[Task[Any], Story]]) -> str:
        # Only the event loop of `host` may read the frames of its tasks.
        is_searched = len(self._stories.alive) <= MOST_SEARCHED
        here: set[int] = {task.id for task in self._host.tasks()} if is_searched else set()
        rows = (self._alive(task, story, is_here=task.id in here) for task, story in alive if story.status in KINDS)
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

    def _alive(self, task: Task[Any], story: Story, *, is_here: bool) -> dict[str, Any]:
        protection = task.config.protection
        return {
            **self._row(story),
            "shield": protection if 0 < protection < math.inf else protection > 0,
            "where": _where(task, story, is_here=is_here),
        }

    def _row(self, story: Story) -> dict[str, Any]:
        row: dict[str, Any] = {
            "id": story.id,
            "parent": story.parent,
            "request": None if story.request is None else story.request.id,
            "function": escaped(story.function),
            "name": None if story.name is None else escaped(story.name),
            "phase": story.phase,
            "status": story.status,
            "scheduled": _round(story.beginning + self._stories.wall),
            "ended": _since(story.beginning, story.end),
            "segments": _segments(story),
            "attempt": story.changes[::3].count(TaskStatus.RUNNING),
            "error": story.failure,
        }
        # Few tasks have the others.
        if story.arguments is not None:
            row["arguments"] = story.arguments
        if story.message is not None:
            row["queue"], row["message_id"], row["recovered"] = story.message
        return row

    def _failures(self) -> list[dict[str, Any]]:
        """Return the failures by function, type of the exception and line; the last one first."""
        groups: dict[tuple[str, str, str], dict[str, Any]] = {}
        for story in self._stories.failures():
            assert story.failure is not None
            assert story.end is not None
            function, (error, message, where) = escaped(story.function), story.failure
            key = function, error, where
            group = groups.pop(key, None) or {"function": function, "error": error, "where": where, "count": 0}
            group["count"] += 1
            group["message"] = message
            group["last"] = _round(story.end + self._stories.wall)
            group["task"] = story.id
            group["request"] = None if story.request is None else story.request.id
            groups[key] = group
        return list(reversed(groups.values()))


def _where(task: Task[Any], story: Story, *, is_here: bool) -> list[str]:
    """Return where a task waits, the outermost line first.

    :param is_here: True if this event loop runs the task, and may read its frames
    """
    frames = task.frames() if is_here else ()
    if story.status in _IN_HAND_OVER and story.message is not None:
        own = [frame for frame in frames or () if not is_of_loop(frame)]  # of the queue and of its engine
        return [f"the queue {story.message[0]!r}", *_places(own)]
    if frames is None:
        if task.config.run_in == "process" and story.status in _OF_THE_FUNCTION:
            return ["in a process"]
        return ["in a thread"] if story.status in _IN_ATTEMPT else []
    # The innermost frames of the event loop's package are one.
    end = len(frames)
    while end > 1 and is_of_loop(frames[end - 1]) and is_of_loop(frames[end - 2]):
        end -= 1
    return _places(frames[:end])


def _places(frames: Sequence[FrameType]) -> list[str]:
    return [place(frame.f_code, frame.f_lineno) for frame in frames[-MOST_FRAMES:]]


def _segments(story: Story) -> list[list[Any]]:
    """Return what the task has waited for and done: for each step the kind, and its beginning in seconds since
    `schedule()`; for an attempt that another one follows, also the type of its exception.
    """
    segments: list[list[Any]] = [["start", 0]]
    for index, (status, moment, error) in enumerate(story.steps()):
        if error is not None:
            segments[-1].append(error)
        kind = KINDS.get(status, "start")
        if index == 0 and kind not in ("run", "handover"):
            segments[0][0] = kind  # it waits from the beginning
        elif kind != segments[-1][0] or kind == "run":
            segments.append([kind, _since(story.beginning, moment)])
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
