"""`await task()`: a task that runs where it is called, for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio import create_task_group

from .._machine.config import UNSET
from .on_group import GroupSeam
from .runner import Runner

if TYPE_CHECKING:
    from .job import Job


async def run_inline(job: Job) -> None:
    """Run `job` to its end, with all attempts. A cancellation of the caller cancels the job."""
    async with create_task_group() as tg:
        runner = Runner(GroupSeam(tg), config=UNSET)
        runner.adopt(job)
