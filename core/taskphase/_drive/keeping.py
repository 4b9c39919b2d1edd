"""The seam of a journal: what a runner tells the journal of each task, and asks before the first step of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import JournalError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from .._machine.config import TaskConfig


class Place(Enum):
    """Where is the task?"""

    HERE = "here"
    """Only in this process."""
    ON_ITS_WAY = "on its way"
    """A write has begun."""
    IN_FILE = "in the file"
    RECOVERED = "recovered"
    """In the file, from where it was recovered. The run is not counted."""
    NOWHERE = "nowhere"
    """The write has failed, the file has another task with the key, the row was discarded, or the task has ended and is
    not due any more. If the task runs all the same, the journal knows nothing of it.
    """


@dataclass(eq=False, repr=False, slots=True)  # no text has the arguments: they may be secret
class Record:
    """One task of a journal. For the loop's thread, but for `is_unwanted`.

    :ivar function: the name of the function in the file
    :ivar arguments: as JSON; empty if the file has them already
    :ivar headers: go with the task to the process that recovers the task. An observer may add some in `scheduled()`,
        which is before the write
    :ivar route: the scope whose route has scheduled the task; None if there is none, or as soon as the end of the route
        knows the task
    :ivar place: where the task is
    :ivar is_recovered: True if the journal had the task before this host did
    :ivar is_unwanted: True if user code has cancelled the task: the journal forgets the task, whatever its end.
        Otherwise a task that was cancelled stays in the journal
    :ivar error: the exception with which the task fails before its first step; None as long as the journal works
    """

    function: str
    arguments: str
    headers: dict[str, str]
    route: Any = None
    place: Place = Place.HERE
    is_recovered: bool = False
    is_unwanted: bool = False
    error: JournalError | None = None

    @property
    def is_in_file(self) -> bool:
        """True if the file has the task."""
        return self.place is Place.IN_FILE or self.place is Place.RECOVERED

    @property
    def stays(self) -> bool:
        """True if the journal keeps the task, which was cancelled, for another process."""
        return self.is_in_file and not self.is_unwanted


class Keeper(Protocol):
    """The part of a journal that belongs to one host. Jobs of other functions have no `Record`: nothing happens to
    them, and they wait for nothing.

    :ivar recovered: the number of tasks that the host has recovered since it opened
    """

    recovered: int

    def prepare(self, job: Any, scope: Any, outlets: Any) -> None:
        """Prepare `job` for one of the queues, as `route()` does. If the journal has its function, give `job` the
        settings that the function has in the journal, and a `Record`. In `schedule()`, in any thread.

        :raises TasksUnportableError: if a queue or the journal cannot carry an argument
        """
        ...

    def will_wait(self, job: Any) -> bool:
        """Return whether the task would have to wait for a write if its phase came now. From any thread."""
        ...

    def note_deferred(self, job: Any) -> None:
        """Note that the task waits for its phase."""
        ...

    def ask_for_write(self, job: Any) -> bool:
        """Ask for a write of the task, whose phase has come, if the task has to wait for one. Return whether it has to:
        until `Runner.note_recorded()`.
        """
        ...

    async def begin(self, job: Any) -> None:
        """Wait until the journal has counted this run of a recovered task. In the native task of the run, which has a
        slot. May end the job.
        """
        ...

    def note_ended(self, job: Any) -> None:
        """Note that the task has ended."""
        ...

    @property
    def has_unwritten(self) -> bool:
        """True if tasks wait for their write, or were cut off while they waited: the host cannot close yet."""
        ...

    async def open(self) -> None:
        """Open the file.

        :raises JournalError: if that fails; then all is closed again
        """
        ...

    def running(self, seam: Any) -> AbstractAsyncContextManager[None]:
        """Return a context in which tasks are written and recovered. `seam`: the `NativeSeam` of the host."""
        ...

    def take_over(self) -> None:
        """From now on recover tasks of other hosts, until the drain begins."""
        ...

    def note_abandoned(self, calls: Any) -> None:
        """Note that threads go on with `calls`, which have the message ids of their jobs: no other host may run these
        jobs before the calls end.
        """
        ...

    async def close(self) -> None:
        """Let other hosts have the tasks that are left, and close the file. A cancellation does not shorten this."""
        ...


class AnyJournal(ABC):
    """The base class of `Journal`, which lives outside of this folder."""

    @abstractmethod
    def _keeper_for(self, runner: Any, config: TaskConfig) -> Keeper:
        """Return the part of the journal for a host that opens.

        :param config: the settings of the host
        """
