"""G8, G17: other threads change a container while it is read.

In a free-threaded Python, the copy of the container then raises. Here a subclass does, on each Python.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from tests.backends import turns

from taskphase import Limit, TaskHost
from taskphase._drive.inbox import Inbox, Mail, consistent


class ChangedMeanwhile:
    """A part of a container: the first copy raises, as if another thread had changed the container."""

    copies = 0

    def _note_copy(self) -> None:
        self.copies += 1
        if self.copies == 1:
            raise RuntimeError("mutated during iteration")


class Mails(ChangedMeanwhile, deque[Any]):
    def copy(self) -> deque[Any]:  # type: ignore[override]
        self._note_copy()
        return deque(self)


class Line(ChangedMeanwhile, OrderedDict[Any, None]):
    def __iter__(self) -> Iterator[Any]:
        self._note_copy()
        return super().__iter__()


class Lines(ChangedMeanwhile, dict[Any, Any]):
    def values(self) -> Any:
        self._note_copy()
        return super().values()


@pytest.mark.parametrize("error", [RuntimeError, KeyError])
def test_a_read_begins_anew_if_a_thread_has_changed_the_container_g8(error: type[Exception]) -> None:
    answers: list[object] = [error(), error(), [1]]

    def read() -> list[int]:
        answer: Any = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    assert consistent(read) == [1]


def test_a_read_without_room_on_the_stack_raises_g8() -> None:
    def read() -> None:
        raise RecursionError

    with pytest.raises(RecursionError):
        consistent(read)


async def test_tasks_are_found_in_lines_that_another_thread_changes_g17() -> None:
    limit = Limit(1)
    async with TaskHost(max_running=2) as host:
        tasks = [host.task(limit=limit).schedule(anyio.sleep_forever) for _ in range(2)]
        tasks += [host.schedule(anyio.sleep_forever) for _ in range(2)]
        await turns()
        runner = host._runner
        waiting = runner._waiting = Line(runner._waiting)
        limited = runner.gates.lines[limit].limited = Line(runner.gates.lines[limit].limited)
        assert len(limited) == len(waiting) == 1
        lines = runner.gates.lines = Lines(runner.gates.lines)
        lines.copies = limited.copies = waiting.copies = 0
        assert host.tasks() == tuple(tasks)
        assert lines.copies == limited.copies == waiting.copies == 2 + 1
        for task in tasks:
            task.cancel()


def test_mails_are_read_although_another_thread_adds_one_g8() -> None:
    inbox, mail = Inbox(), Mail(None)
    inbox.mails = Mails([mail])
    assert list(inbox) == [mail]
