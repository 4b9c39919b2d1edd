"""What the simulation itself finds: three things, and no others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from traceback import StackSummary
from types import FrameType
from typing import Any, NamedTuple

# Frames, the innermost last: enough to reach from anyio's own into the user's code.
_FRAMES = 8


class Blocked(NamedTuple):
    """A task, or a thread, that waits for something that does not come."""

    label: str
    stack: StackSummary


class Deadlock(Exception):
    """Nothing can run, no timer is set, and the main function has not ended.

    :ivar blocked: who waits, the oldest first, each with its stack
    """

    def __init__(self, blocked: Sequence[Blocked], steps: int, time: float) -> None:
        self.blocked: tuple[Blocked, ...] = tuple(blocked)
        super().__init__(
            f"nothing can run and no timer is set, after {steps} steps, at {time:g} s; "
            f"{len(blocked)} wait for ever:\n{_listed(blocked)}"
        )


class Livelock(Exception):
    """The main function has not ended within the budget of steps, `max_steps`.

    A loop that polls with checkpoints is one: time moves only when nothing can run.

    :ivar alive: who had not ended, the oldest first, each with its stack
    """

    def __init__(self, alive: Sequence[Blocked], steps: int, time: float) -> None:
        self.alive: tuple[Blocked, ...] = tuple(alive)
        super().__init__(
            f"not at an end after {steps} steps, at {time:g} s; raise `max_steps` if it only takes long. "
            f"Alive:\n{_listed(alive)}"
        )


class ForeignBlock(Exception):
    """A worker thread is blocked by something that the simulation does not control.

    Have it wait by `taskphase.testing.pause()` or by `anyio.from_thread`.

    :ivar thread: the thread, with its stack
    """

    def __init__(self, thread: Blocked, seconds: float) -> None:
        self.thread = thread
        super().__init__(
            f"a worker thread did not come back within {seconds:g} real seconds: it waits for something that the "
            f"simulation does not control; use taskphase.testing.pause() there:\n{_listed([thread])}"
        )


def stack_of(coro: Any) -> StackSummary:
    """Return where a suspended coroutine waits, the innermost frame last."""
    return StackSummary.extract(_await_frames(coro))


def _await_frames(awaitable: Any) -> Iterator[tuple[FrameType, int]]:
    while awaitable is not None:
        # A coroutine, a generator, or an async generator.
        prefix = next((p for p in ("cr", "gi", "ag") if getattr(awaitable, f"{p}_frame", None) is not None), None)
        if prefix is None:
            return
        frame = getattr(awaitable, f"{prefix}_frame")
        yield frame, frame.f_lineno
        awaitable = getattr(awaitable, "gi_yieldfrom" if prefix == "gi" else f"{prefix}_await")


def _listed(blocked: Iterable[Blocked]) -> str:
    lines: list[str] = []
    for label, stack in blocked:
        lines += [f"{label}\n", *StackSummary.from_list(list(stack)[-_FRAMES:]).format()]
    return "".join(lines).rstrip()
