"""The seam of a journal: what a runner tells the journal of each task, and asks before the first step of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from .._machine.config import TaskConfig


class Record(Protocol):
    """One task of a journal. For the loop's thread, but for `is_unwanted` and `will_wait()`.

    :ivar is_recovered: True if the journal had the task before this host did
    :ivar is_unwanted: True if user code has cancelled the task: the journal forgets the task, whatever its end.
        Otherwise a task that was cancelled stays in the journal
    :ivar headers: go with the task to the process that recovers the task. An observer may add some in `scheduled()`,
        which is before the write
    :ivar error: the exception with which the task fails before its first step; None as long as the journal works
    """

    is_recovered: bool
    is_unwanted: bool
    headers: dict[str, str]
    error: Exception | None

    def will_wait(self) -> bool:
        """Return whether the task would have to wait for a write if its phase came now. From any thread."""
        ...

    def note_held(self, job: Any) -> None:
        """Note that the task waits for its phase."""
        ...

    def must_wait(self, job: Any) -> bool:
        """Return whether the task, whose phase has come, has to wait for a write. See `Runner.note_recorded()`."""
        ...

    @property
    def must_begin(self) -> bool:
        """True if `begin()` comes before the first step."""
        ...

    @property
    def stays(self) -> bool:
        """True if the journal keeps the task, which was cancelled, for another process."""
        ...

    async def begin(self, job: Any) -> None:
        """Wait until the journal has counted this run. In the native task of the run, which has a slot. May end the
        job.
        """
        ...

    def note_ended(self, job: Any) -> None:
        """Note that the task has ended."""
        ...


class Keeper(Protocol):
    """The part of a journal that belongs to one host.

    :ivar recovered: the number of tasks that the host has recovered since it opened
    """

    recovered: int

    def configure(self, job: Any) -> str | None:
        """Give `job` the settings that its function has in the journal. In `schedule()`, in any thread.

        :return: the name of the function in the file; None if the journal does not have the function
        """
        ...

    def prepare(self, job: Any, function: str, scope: Any) -> None:
        """Give `job`, which has its settings, a `Record`. In `schedule()`, in any thread.

        :param function: what `configure()` has returned
        :raises TasksUnportableError: if the journal cannot carry an argument
        """
        ...

    @property
    def owes(self) -> bool:
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
