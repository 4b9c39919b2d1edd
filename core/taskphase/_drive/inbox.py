"""The inbox of an event loop: jobs and calls from threads, signal handlers and finalizers, in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from .job import Job
    from .unit import Unit

T = TypeVar("T")

# A change in the loop's thread needs about 20 frames. Observers and nested cancel scopes may need more.
_ROOM = 100


class Wait(Enum):
    """For what a job will wait on arrival."""

    FOR_NOTHING = 0
    FOR_SLOT = 1
    FOR_LATER = 2
    """For its phase, its delay, a place of its limit or its turn to be handed over."""
    FOR_NO_SLOT = 3
    """For nothing, and it takes no slot: it is handed over."""


@dataclass(eq=False, slots=True)
class Mail:
    """A job on its way to the event loop, or a function for the loop to call.

    :ivar scope: the scope of the job, or None
    :ivar maker: see `Unit._held`
    :ivar wait: counts for `max_pending`, unless it is FOR_NOTHING or FOR_NO_SLOT
    :ivar is_ready: False while the thread of `schedule()` tells the observers. The loop must not read the mail before:
        for each task, `scheduled()` is the first call
    :ivar is_told: False if an observer has called `schedule()`. Then the loop tells the observers, on arrival
    :ivar is_cancelled: True if the loop must cancel the job as soon as the observers know the job
    :ivar call: the function for the loop to call; None for a job
    """

    job: Job | None
    scope: Unit[Job] | None = None
    maker: object = None
    wait: Wait = Wait.FOR_NOTHING
    is_ready: bool = True
    is_told: bool = True
    is_cancelled: bool = False
    call: Callable[[], None] | None = None


class Inbox:
    """The mails, first in first out. Any thread may call the methods, and so may code that interrupts a method.

    :ivar mails: other classes append to it, remove from it, and take its length
    """

    __slots__ = ("mails",)

    def __init__(self) -> None:
        self.mails: deque[Mail] = deque()

    def __iter__(self) -> Iterator[Mail]:
        # Not `tuple(self.mails)`: in its middle a finalizer may add a mail.
        return iter(consistent(self.mails.copy) if self.mails else ())

    def first_ready(self) -> Mail | None:
        """Return the first mail that is ready, or None."""
        if self.mails and self.mails[0].is_ready:
            return self.mails[0]
        return next((mail for mail in self if mail.is_ready), None)

    def remove_job(self, job: Job) -> None:
        """Remove the mail of `job`, if there is one."""
        for mail in self:
            if mail.job is job:
                self.mails.remove(mail)

    def cancel_on_arrival(self, job: Job) -> bool:
        """Make the loop cancel `job` on arrival, if the observers do not know `job` yet; return False if they do."""
        for mail in self:
            if mail.job is job and not (mail.is_ready and mail.is_told):
                mail.is_cancelled = True
                return True
        return False


def consistent(read: Callable[[], T]) -> T:
    """Return the result of `read()`, which reads a container that another thread may change meanwhile.

    In a free-threaded Python not even the copy of a `deque` or an `OrderedDict` is atomic: it raises if the container
    has changed. Then begin anew.
    """
    while True:
        try:
            return read()
        except RecursionError:  # a `RuntimeError`, too
            raise
        except (RuntimeError, KeyError):
            continue


def check_room(frames: int = _ROOM) -> None:
    """Make sure that a change cannot fail half-way for want of stack.

    :raises RecursionError: if the stack has no room for so many more frames
    """
    if frames:
        check_room(frames - 1)
