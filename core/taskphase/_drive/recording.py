"""Who else is told of each task before it is placed: the recorders of tests. Nobody, in production."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from .._machine.scope import Verdict
    from .job import Job
    from .runner import Runner

Place = Callable[["Job"], None]


class Placer(Protocol):
    """Who decides what becomes of a job that a runner has taken: its scope, or the runner itself."""

    def _place(self, job: Job, /) -> None:
        """Have the runner start, hold or drop `job`. In the loop's thread."""
        ...

    def _verdict(self, job: Job, /) -> Verdict:
        """Tell what `_place()` would do with it now. In any thread."""
        ...


class Admitted(NamedTuple):
    """A job that a runner has taken, and has not placed yet.

    :ivar placer: its scheduler, or the runner itself
    """

    runner: Runner
    job: Job
    placer: Placer


class Recorder(Protocol):
    """What is told of the tasks of all runners."""

    def _take(self, admitted: Admitted, place: Place, /) -> Place:
        """Note a job that was admitted, and return what is to place it: `place`, or what calls it or does not. In the
        context and in the thread of `schedule()`.
        """
        ...

    async def finish(self, scope: object, /) -> None:
        """Wait until what `scope` has asked to start has ended, if that is what the recorder is for."""
        ...


# Empty unless a test records. A list that stays the same, so that `if RECORDERS` is all that a task pays.
RECORDERS: list[Recorder] = []


def recorded(runner: Runner, job: Job, placer: Placer) -> Place:
    """Tell everybody of `job`; return what is to place it."""
    admitted = Admitted(runner, job, placer)
    place: Place = placer._place
    for recorder in tuple(RECORDERS):
        place = recorder._take(admitted, place)
    return place


async def finished(scope: object) -> None:
    """Wait until what `scope` has asked to start has ended, for each recorder that wants that."""
    for recorder in tuple(RECORDERS):
        await recorder.finish(scope)
