"""What an exception means: for its task, and for other code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from sys import exception
from traceback import clear_frames
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from .._machine.dispatch import Outcome
from .._machine.life import TOLD_TO_STOP
from ..errors import StrayCancellation
from . import threads
from .cancelling import is_cancelled_around, no_loop_runs_here
from .job import leave_scope

if TYPE_CHECKING:
    from .job import Job

# Only frames of these modules are above the user's function.
_MODULES = ("attempt", "failing", "calls", "outlet", "threads", "processes", "portable")
_OWN = frozenset(f"{__package__}.{name}" for name in _MODULES)

_PLAIN_GROUPS = (BaseExceptionGroup, ExceptionGroup)
_DEEPEST = 100  # groups in one another

# Read these attributes by the descriptors of the base class: an exception class of the user may override them. For the
# same reason there is no `isinstance()` here: it may ask the object for its `__class__`.
_exceptions: Any = BaseExceptionGroup.exceptions
_traceback: Any = BaseException.__dict__["__traceback__"]
_cause: Any = BaseException.__dict__["__cause__"]


def judge(exc: BaseException, job: Job) -> tuple[Outcome, Any, BaseException | None]:
    """Decide what `exc`, raised by an attempt of `job`, means.

    The leaves of `exc`, which may be a group, are cancellations and others. The outcome:

    1. RAISED or EXITED with `exc`, if there is no cancellation.
    2. CANCELLED, if there are only cancellations and one was requested: by `cancel()`, by a scope around the task,
       natively, or by an abandoned thread.
    3. EXITED with `exc`, if others come with a requested cancellation, or if one of the others is no `Exception`.
    4. RAISED with a `StrayCancellation`, otherwise: nothing has requested the cancellation.

    :return: the outcome; the exception of the attempt; the part of `exc` that the caller must raise again, or None.
        This part is a `KeyboardInterrupt`, which must stop the program, or the cancellation of a scope around the
        task: that scope counts as cancelled only if the exception reaches it
    """
    seam = job._runner.seam
    cancelled = (seam.cancelled, threads.ThreadAbandoned)
    show_from_function(exc)
    parts = tuple(leaves(exc))
    is_enclosed = is_cancelled_around()
    cancellations = [part for part in parts if issubclass(type(part), cancelled)]
    others = [part for part in parts if not issubclass(type(part), cancelled)]
    belongs_elsewhere = (KeyboardInterrupt, seam.cancelled) if is_enclosed else (KeyboardInterrupt,)
    stray = [part for part in parts if issubclass(type(part), belongs_elsewhere)]
    if not cancellations:
        return Outcome.RAISED if issubclass(type(exc), Exception) else Outcome.EXITED, exc, _together(exc, stray)
    is_asked_for = (
        is_enclosed
        or job.status in TOLD_TO_STOP
        or seam.was_cancelled()
        or any(issubclass(type(part), threads.ThreadAbandoned) for part in cancellations)
    )
    if is_asked_for and not others:
        return Outcome.CANCELLED, exc, _together(exc, stray)
    if is_asked_for or any(not issubclass(type(part), Exception) for part in others):
        return Outcome.EXITED, exc, _together(exc, stray)
    failure = StrayCancellation(
        f"task {job.name!r} got a {seam.cancelled.__name__}, but nothing had requested a cancellation of the task: "
        "an object for which it waited was cancelled"
    )
    failure.__cause__ = exc
    return Outcome.RAISED, failure, None


def judge_handled(job: Job) -> tuple[Outcome, Any, BaseException | None]:
    """See `judge()`, for the exception that is being handled here. (In `attempt()` this makes the frame smaller.)"""
    return judge(cast(BaseException, exception()), job)


def is_caught(job: Job) -> bool:
    """Leave the cancel scope of `job`, if there is one. Return whether it has caught the exception that is being
    handled here.
    """
    return job._scope is not None and leave_scope(job, plain(cast(BaseException, exception())))


def is_garbage() -> bool:
    """Return whether the garbage collector closes this coroutine: the event loop has ended without its tasks."""
    return type(exception()) is GeneratorExit and no_loop_runs_here()


def show_from_function(exc: BaseException) -> None:
    """Let the traceback of `exc` begin at the user's function.

    The frames above that function belong to this library, and are noise for the user. They also have the task as a
    local variable, so each failed task would be a reference cycle, also by `f_back` of the user's frame; and error
    trackers send the local variables of each frame.
    """
    at = traceback_of(exc)
    while at is not None and at.tb_frame.f_globals.get("__name__") in _OWN:
        with suppress(RuntimeError):  # the frame still runs
            at.tb_frame.clear()
        at = at.tb_next
    BaseException.with_traceback(exc, at)


def forget_locals(error: BaseException, cancelled: type[BaseException]) -> None:
    """Clear the local variables of the code that `timeout` has cancelled. Call this after the error is logged.

    The variables include timers. A timer refers to the context of the task, and the context to the task: a reference
    cycle. A `TimeoutError` of the user has a traceback and stays unchanged: the code behind its cause may still run in
    another task, and before Python 3.13 `frame.clear()` closes a suspended coroutine.
    """
    if type(error) is TimeoutError and traceback_of(error) is None:
        cause = _cause.__get__(error)
        if issubclass(type(cause), cancelled):
            clear_frames(traceback_of(cause))


def traceback_of(exc: BaseException) -> TracebackType | None:
    """Return the traceback of `exc` without calling code of its class."""
    traceback: TracebackType | None = _traceback.__get__(exc)
    return traceback


def _together(exc: BaseException, parts: list[BaseException]) -> BaseException | None:
    """Return `parts` of `exc` as one exception, or None for no parts."""
    if not parts:
        return None
    if len(parts) == 1 and parts[0] is exc:
        return exc
    return BaseExceptionGroup("exceptions that do not belong to the task", parts)


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in `exc`, which may be a group, without calling code of its class."""
    return (each for each, depth in _walk(exc) if depth is None)


def plain(exc: BaseException) -> BaseException:
    """Return `exc`, or a plain group with its leaves: scopes look into a group by recursion, and call its `derive()`,
    which may be user code.
    """
    groups = ((type(each), depth) for each, depth in _walk(exc) if depth is not None)
    if all(kind in _PLAIN_GROUPS and depth < _DEEPEST for kind, depth in groups):
        return exc
    return BaseExceptionGroup("exceptions of a task", list(leaves(exc)))


def _walk(exc: BaseException) -> Iterator[tuple[BaseException, int | None]]:
    """Yield `exc` and the exceptions in it: groups with their depth, other exceptions with None."""
    left = [(exc, 0)]  # no recursion: a group may be deeper than the stack
    while left:
        each, depth = left.pop()
        is_group = issubclass(type(each), BaseExceptionGroup)
        yield each, depth if is_group else None
        if is_group:
            left += [(part, depth + 1) for part in reversed(_exceptions.__get__(each))]


def unwrapped(exc: BaseException) -> BaseException:
    """Return the only exception inside a group, however deep; or the group, if it has several."""
    inside = cast("tuple[BaseException, ...]", getattr(exc, "exceptions", ()))
    return unwrapped(inside[0]) if len(inside) == 1 else exc
