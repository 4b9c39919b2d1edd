"""One recorded task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..._drive.job import Job
from ..._drive.runner import Runner
from ..._task import Task


@dataclass(eq=False, slots=True)
class Entry:
    """One recorded task.

    :ivar runner: the runner of its host, or of its task group
    :ivar parent: the task that has scheduled this task, or None
    :ivar scopes: the scope of this task, and the scopes of the parent
    :ivar claim: the account of the task: the recorder, or a request (see `TaskRecorder.claim()`)
    :ivar was_held: True if the task was held back: this happens only once
    """

    task: Task[Any]
    runner: Runner
    parent: Job | None
    scopes: tuple[object, ...]
    claim: object
    was_held: bool = False

    @property
    def is_held(self) -> bool:
        """True if the task was due, was held back (`run="never"`), and was not run by hand yet."""
        return self.task._is_new

    @property
    def is_at_rest(self) -> bool:
        """True if the task has ended, or waits to be run by hand."""
        return self.task._has_ended or self.is_held
