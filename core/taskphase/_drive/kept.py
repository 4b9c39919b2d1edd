"""The jobs that wait for the journal, were recovered by the journal, or are being handed over to a queue."""

from __future__ import annotations

from .._machine.drain import accepts
from .._machine.life import ENDS, NOT_DUE, TOLD_TO_STOP, LifeEvent
from ..errors import HandOverFailed, TasksUnportableError
from .job import Job, move, order_of, record_of
from .keeping import Place
from .outlet import HandOver
from .outlets import bring_home
from .phases import Phases


class Kept(Phases):
    """The part of a runner that knows a journal and queues. For the loop's thread."""

    __slots__ = ()

    def note_recorded(self, job: Job) -> None:
        """Bring a job further whose journal has written the task; or have the job fail with the error of its record.

        Nothing happens to a job that does not wait for its journal.
        """
        if job not in self.gates.recording:
            return
        record = record_of(job)
        with self.busy():
            try:
                if record is None or record.error is None:
                    self.resume(job)
                else:
                    self.alive[job] = self.seam.start(job)  # for the handler: see `attempt()`
            except Exception as exc:
                self._cannot_start(job, exc)
            finally:
                self.gates.recording.pop(job, None)

    def recover(self, job: Job) -> None:
        """Take a job that a journal has recovered, past `max_pending`. While the host is open."""
        with self.busy():
            self._take(job, self.stamp())
            self.moving = job
            try:
                self._tell_scheduled(job, None, self.telling)
                self._place(job, None, None)
            except Exception as exc:
                self._cannot_start(job, exc)
            finally:
                self.moving = None

    def cancel_for_good(self, job: Job) -> None:
        """As `cancel()`, for user code: a journal then forgets the task. Nothing happens to a job that has ended."""
        if job.status not in ENDS and (record := record_of(job)) is not None:
            record.is_unwanted = True
        self.cancel(job)

    def cut_off(self, job: Job) -> bool:
        """Make the hand-over of `job` fail soon, because the drain waits for it no longer. Its handler goes on.

        :return: False if `job` is not being handed over, or is for its journal to keep
        """
        order = order_of(job)
        if order is None or record_of(job) is not None or job.status in NOT_DUE | ENDS | TOLD_TO_STOP:
            return False
        order.cut()
        if job in self.gates.pauses.ends:
            with self.busy():
                self.resume(job)
                self.gates.pauses.remove(job)
        return True

    def run_here(self, job: Job, error: Exception) -> bool:
        """Make `job` run here after all, if its hand-over has failed by `error`. While the runner is busy.

        :return: False if the queue may have it, its queue does not ask for that, no room is left, or stage 1 of
            the drain is over
        """
        order: HandOver = order_of(job)
        refused = isinstance(error, HandOverFailed) and error.outcome == "refused"
        if not refused or order.is_cut or order.outlet.queue.fallback is None:
            return False
        is_free = not (self._waiting or self._is_full())
        has_room = self._max_pending is None or is_free or self._count_pending() < self._max_pending
        if not (has_room and accepts(self.stage, by_shielded=False)):
            return False
        try:
            bring_home(job)
        except TasksUnportableError:
            return False
        return True

    def _note_entered(self, job: Job) -> None:
        if self.outlets is not None:
            self.outlets.enter(job)
        record = record_of(job)
        if record is not None and record.place is Place.RECOVERED:
            move(job, LifeEvent.RECORD)
