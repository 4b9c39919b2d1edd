"""What it means that an exception was raised: for its task, and for others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from operator import is_
from traceback import clear_frames
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, cast

from .._machine.dispatch import Outcome
from .._machine.life import TaskStatus
from ..errors import StrayCancellation
from . import threads
from .seam import is_cancelled_around

if TYPE_CHECKING:
    from .job import Job

_TOLD_TO_STOP = frozenset({TaskStatus.CANCELLING, TaskStatus.ABORTING})

# The modules whose frames are above the user's function.
_OWN = frozenset({f"{__package__}.attempt", threads.__name__})

# Looked up in the class itself: an exception of the user's may have one of its own.
_exceptions: Any = BaseExceptionGroup.exceptions
_traceback: Any = BaseException.__dict__["__traceback__"]
_cause: Any = BaseException.__dict__["__cause__"]


def judge(exc: BaseException, job: Job) -> tuple[Outcome, Any, BaseException | None]:
    """Tell what it means that `exc` was raised.

    :return: the outcome; the exception that the task fails with, or None; and the part of `exc` that is not for the
        task, but for the loop or for a scope around the task
    """
    seam = job._runner.seam
    cancelled = (seam.cancelled, threads.ThreadAbandoned)
    show_from_function(exc)
    parts = tuple(leaves(exc))
    is_enclosed = is_cancelled_around()
    cancellations = [part for part in parts if isinstance(part, cancelled)]
    others = [part for part in parts if not isinstance(part, cancelled)]
    stray = [
        part
        for part in parts
        if isinstance(part, KeyboardInterrupt) or (is_enclosed and isinstance(part, seam.cancelled))
    ]
    if not cancellations:
        return Outcome.RAISED if isinstance(exc, Exception) else Outcome.EXITED, exc, _together(exc, stray)
    is_asked_for = (
        is_enclosed
        or job._status in _TOLD_TO_STOP
        or seam.was_cancelled()
        or any(isinstance(part, threads.ThreadAbandoned) for part in cancellations)
    )
    if is_asked_for and not others:
        return Outcome.CANCELLED, None, _together(exc, stray)
    if is_asked_for or any(not isinstance(part, Exception) for part in others):
        return Outcome.EXITED, exc, _together(exc, stray)
    failure = StrayCancellation(
        f"task {job.name!r} got a {seam.cancelled.__name__} that nobody had asked for: something that it waited for "
        "was cancelled"
    )
    failure.__cause__ = exc
    return Outcome.RAISED, failure, None


def show_from_function(exc: BaseException) -> None:
    """Let the traceback of `exc` begin at the function that was called.

    The frames above the function are those of this library. They say nothing to its author. They have the task as a
    local, so that each failed task would be a reference cycle. And error trackers send the locals of each frame.
    """
    at = traceback_of(exc)
    while at is not None and (module := _module(at)) in _OWN:
        _empty(at.tb_frame)
        at = at.tb_next
        if module == threads.__name__:  # frames of the thread pool follow, and then the rest of ours, in the thread
            mine = next((frame for frame in _from(at) if _module(frame) == module), at)
            while at is not None and at is not mine:
                _empty(at.tb_frame)
                at = at.tb_next
    BaseException.with_traceback(exc, at)


def forget_locals(error: BaseException, cancelled: type[BaseException]) -> None:
    """Let go of the locals of the code that `timeout` has cancelled. Among them are timers, and a timer has the context
    of the task, which has the task: a reference cycle. To be called when the error has been logged.

    A `TimeoutError` of the user's has a traceback, and is left alone. The code behind its cause may go on, in a task
    of its own, and until Python 3.13 to clear the frame of a suspended coroutine closes the coroutine.
    """
    if type(error) is TimeoutError and traceback_of(error) is None:
        cause = _cause.__get__(error)
        if isinstance(cause, cancelled):
            clear_frames(traceback_of(cause))


def traceback_of(exc: BaseException) -> TracebackType | None:
    """Return the traceback of `exc`. No code of its class is called."""
    traceback: TracebackType | None = _traceback.__get__(exc)
    return traceback


def _empty(frame: FrameType) -> None:
    """Drop the locals of a frame that is left out. The frame of the function refers to this one by `f_back`, and the
    locals refer to the task.
    """
    with suppress(RuntimeError):  # it still runs
        frame.clear()


def _module(at: TracebackType) -> object:
    return at.tb_frame.f_globals.get("__name__")


def _from(at: TracebackType | None) -> Iterator[TracebackType]:
    while at is not None:
        yield at
        at = at.tb_next


def _together(exc: BaseException, parts: list[BaseException]) -> BaseException | None:
    """Return `parts` of `exc` as one exception, or None if there are none."""
    if not parts:
        return None
    if len(parts) == 1 and parts[0] is exc:
        return exc
    return BaseExceptionGroup("what does not belong to the task", parts)


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in `exc`, which may be a group. No code of the group's class is called."""
    if isinstance(exc, BaseExceptionGroup):
        for inner in _exceptions.__get__(exc):
            yield from leaves(inner)
    else:
        yield exc


def plain(exc: BaseException) -> BaseException:
    """Return `exc`, or a plain group of its exceptions: scopes call `derive()` of a group, which may be user code."""
    if not isinstance(exc, BaseExceptionGroup):
        return exc
    parts: tuple[BaseException, ...] = _exceptions.__get__(exc)
    plain_parts = [plain(part) for part in parts]
    is_plain = type(cast("object", exc)) in (BaseExceptionGroup, ExceptionGroup)
    if is_plain and all(map(is_, parts, plain_parts)):
        return cast("BaseException", exc)
    return BaseExceptionGroup("what a task raised", plain_parts)
