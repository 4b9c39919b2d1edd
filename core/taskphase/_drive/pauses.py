"""The jobs that wait for a time: for their delay, or for their next attempt. One timer serves all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush

from .job import Job
from .owner import Owner

_FEW = 64  # a heap of this size is not worth a cleaning


class Pauses:
    """The jobs of a runner that are DELAYED or RETRYING. For the loop's thread, while the runner is busy.

    *Invariant*: while `ends` is not empty, the timer is set for the earliest end, or `_ring()` runs.

    When a pause is over, the runner's `resume()` is called, and the job leaves.

    :ivar ends: the jobs, each with the end of its pause by the loop's clock
    :ivar retrying: the number of jobs that wait for their next attempt
    """

    def __init__(self) -> None:
        self.ends: dict[Job, float] = {}
        self.retrying: int = 0
        # With an entry of each job in `ends`, and with old entries: of jobs that have left.
        self._heap: list[tuple[float, int, Job]] = []
        self._rings_at = math.inf
        self._stop_timer: Callable[[], object] = _nothing

    def add(self, job: Job, seconds: float) -> None:
        """Make `job` wait for `seconds`.

        :raises TasksClosedError: if the foreign task group is closed; nothing has changed
        """
        runner = job._runner
        end = runner.seam.clock() + seconds
        self._set_timer(runner, end)
        self.ends[job] = end
        self.retrying += job.attempt > 0
        heappush(self._heap, (end, job.id, job))

    def remove(self, job: Job) -> None:
        """Take `job` out, if it is here."""
        if self.ends.pop(job, None) is None:
            return
        self.retrying -= job.attempt > 0
        if len(self._heap) > 2 * len(self.ends) + _FEW:
            self._heap = sorted((end, job.id, job) for job, end in self.ends.items())  # this is a heap, too
        if not self.ends:
            self._heap.clear()
            self._stop_timer()
            self._rings_at, self._stop_timer = math.inf, _nothing

    def _set_timer(self, runner: Owner[Job], end: float) -> None:
        if end < self._rings_at:
            stop = runner.seam.call_at(end, partial(self._ring, runner), partial(self._note_cancelled, runner))
            self._stop_timer()
            self._rings_at, self._stop_timer = end, stop

    def _ring(self, runner: Owner[Job]) -> None:
        with runner.busy():
            # The timer of uvloop may be a millisecond early.
            now = max(runner.seam.clock(), self._rings_at)
            self._rings_at, self._stop_timer = math.inf, _nothing
            try:
                while (job := self._first()) is not None and self.ends[job] <= now:
                    try:
                        runner.resume(job)
                    finally:  # an observer may raise KeyboardInterrupt
                        self.remove(job)
            finally:
                self._set_timer_again(runner)

    def _first(self) -> Job | None:
        """Return the job whose pause ends first."""
        heap = self._heap
        while heap and self.ends.get(heap[0][2]) != heap[0][0]:
            heappop(heap)
        return heap[0][2] if heap else None

    def _set_timer_again(self, runner: Owner[Job]) -> None:
        if (job := self._first()) is not None:
            self._set_timer(runner, self.ends[job])

    def _note_cancelled(self, runner: Owner[Job]) -> None:
        """Note that the timer was cancelled (see `Seam.call_at()`): cancel the jobs without a shield."""
        with runner.busy():
            self._rings_at, self._stop_timer = math.inf, _nothing
            try:
                runner.cancel_all(job for job in self.ends if not job.config.shielded)
            finally:
                self._set_timer_again(runner)


def _nothing() -> None:
    pass
