"""The three errors that the simulation itself raises."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from traceback import StackSummary
from types import FrameType
from typing import Any, NamedTuple

from ..._drive.awaited import attributes_of
from ..._machine.text import plain

# Frames of a stack in a message, counted from the innermost: enough to get from anyio's frames to the user's code.
_FRAMES = 8


class Blocked(NamedTuple):
    """A task or a thread that has not ended, and its stack."""

    label: str
    stack: StackSummary


class Deadlock(Exception):
    """Nothing can run, no timer is set, and the main function has not ended.

    :ivar blocked: the waiting tasks and threads with their stacks, the oldest first
    """

    def __init__(self, blocked: Sequence[Blocked], steps: int, time: float) -> None:
        self.blocked: tuple[Blocked, ...] = tuple(blocked)
        super().__init__(
            f"nothing can run and no timer is set, after {steps} steps, at {plain(time)} s; "
            f"{len(blocked)} wait for ever:\n{_listed(blocked)}"
        )


class Livelock(Exception):
    """The main function has not ended within `max_steps` steps.

    A loop that polls with checkpoints is a livelock, because time moves only when nothing can run.

    :ivar alive: the tasks and threads that had not ended, with their stacks, the oldest first
    """

    def __init__(self, alive: Sequence[Blocked], steps: int, time: float) -> None:
        self.alive: tuple[Blocked, ...] = tuple(alive)
        super().__init__(
            f"the main function has not ended after {steps} steps, at {plain(time)} s; raise `max_steps` if it needs "
            f"more. Alive:\n{_listed(alive)}"
        )


class ForeignBlock(Exception):
    """A worker thread waits for something outside of the simulation. Use `taskphase.testing.pause()` or
    `anyio.from_thread` to wait.

    :ivar thread: the thread with its stack
    """

    def __init__(self, thread: Blocked, seconds: float) -> None:
        self.thread = thread
        super().__init__(
            f"a worker thread did not finish its step within {plain(seconds)} real seconds: it waits for something "
            f"outside of the simulation; wait with taskphase.testing.pause() instead:\n{_listed([thread])}"
        )


def stack_of(coro: Any) -> StackSummary:
    """Return the stack of a suspended coroutine, the innermost frame last."""
    return StackSummary.extract(_await_frames(coro))


def _await_frames(awaitable: Any) -> Iterator[tuple[FrameType, int]]:
    while (names := attributes_of(awaitable)) is not None:
        at = awaitable
        frame, awaitable = (getattr(at, name) for name in names)
        if frame is None:
            return
        yield frame, frame.f_lineno


def _listed(blocked: Iterable[Blocked]) -> str:
    lines: list[str] = []
    for label, stack in blocked:
        lines += [f"{label}\n", *StackSummary.from_list(list(stack)[-_FRAMES:]).format()]
    return "".join(lines).rstrip()
