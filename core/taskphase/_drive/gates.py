"""The gates between the phase of a task and its slot: its key, its journal, its delay, its limit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from functools import partial

from .._machine.life import ENDS, MAY_DROP, LifeEvent, TaskStatus
from .._machine.limit import Limit
from .inbox import consistent
from .job import Job, move, record_of
from .pauses import Pauses
from .watching import for_each


class Line:
    """One `Limit`, in one host.

    :ivar held: the holders of the places: jobs, and threads that have outlived a timeout
    :ivar waiting: the jobs that wait: for their phase, their journal, their delay, a place or their next attempt
    :ivar limited: the jobs that wait for a place, first in first out
    :ivar is_served: True while `_serve()` runs. A job that cannot start gives its place back in there; without this
        test each such job would be one level deeper in the stack
    """

    __slots__ = ("held", "is_served", "limited", "waiting")

    def __init__(self) -> None:
        self.held: set[object] = set()
        self.waiting: set[Job] = set()
        self.limited: OrderedDict[Job, None] = OrderedDict()
        self.is_served: bool = False


class Gates:
    """The keys, pauses and limits of one runner. For the loop's thread, while the runner is busy; `has_key_of()` and
    `line_of()` also for other threads.

    When a job may go on, because its pause is over or because it has got a place, the runner's `resume()` is called.
    (Only the jobs know their runner: otherwise the two would be a reference cycle.)

    *Invariant*, with a `Limit` that has a `max_pending`: a job is in `Line.waiting` before its place changes. Otherwise
    an interruption admits one job too many.

    :ivar recording: the jobs that wait for their journal
    :ivar lines: the limits in use
    :ivar limited_count: the number of jobs that wait for a place of their limit. From any thread. There may be a limit
        for each customer, so `schedule()` must not look at each line
    """

    def __init__(self) -> None:
        self.recording: dict[Job, None] = {}
        self.pauses: Pauses = Pauses()
        self.lines: dict[Limit, Line] = {}
        self.limited_count: int = 0
        self._keys: dict[tuple[str, str], Job] = {}
        self._held_keys: dict[Job, tuple[str, str]] = {}  # the name of a function may change meanwhile

    def __contains__(self, job: Job) -> bool:
        """Return whether `job` is DELAYED, RETRYING or LIMITED, or waits for its journal."""
        line = self.line_of(job)
        return job in self.pauses.ends or job in self.recording or (line is not None and job in line.limited)

    def limited(self) -> Iterator[Job]:
        """Yield the jobs that wait for a place of their limit. From any thread."""
        for line in consistent(lambda: list(self.lines.values())):
            yield from consistent(partial(list[Job], line.limited))

    def line_of(self, job: Job) -> Line | None:
        """Return the line of the job's limit, if the limit is in use."""
        limit = job.config.limit
        return None if limit is None else self.lines.get(limit)

    def has_key_of(self, job: Job) -> bool:
        """Return whether another job of the same function has the key of `job`."""
        key = _key_of(job)
        holder = None if key is None else self._keys.get(key)
        return holder is not None and holder.status not in ENDS

    def stop(self, job: Job) -> bool:
        """Take `job` through its gates. Return True if `job` has to wait at one, as its status then tells.

        The key of `job` must be free (see `has_key_of()`).

        :raises TasksClosedError: if the foreign task group is closed; then call `forget()`
        """
        config = job.config
        if job.status in MAY_DROP:
            if (key := _key_of(job)) is not None:
                self._held_keys[job] = key
                self._keys[key] = job
            if config.delay:
                self.pause(job, config.delay)
                move(job, LifeEvent.DELAY)
                return True
        if config.limit is None or job.status is TaskStatus.LIMITED:
            return False
        line = self.lines.setdefault(config.limit, Line())
        if line.limited or len(line.held) >= config.limit.most:
            line.waiting.add(job)
            self.limited_count += 1  # between these two lines no interruption is possible: they call no function
            line.limited[job] = None
            move(job, LifeEvent.LIMIT)
            return True
        line.held.add(job)
        line.waiting.discard(job)
        return False

    def record(self, job: Job) -> None:
        """Make `job` wait for its journal."""
        self.note_waits(job)
        self.recording[job] = None
        move(job, LifeEvent.RECORD)

    def pause(self, job: Job, seconds: float) -> None:
        """Make `job` wait for its delay or its next attempt."""
        self.note_waits(job)
        self.pauses.add(job, seconds)

    def forget(self, job: Job, *, keep_place: bool) -> None:
        """Forget a job that has ended, was refused, or is held back by a test.

        :param keep_place: True if the native task has not left yet. `give_back()` follows
        """
        held_key = self._held_keys.pop(job, None)
        if held_key is not None and self._keys.get(held_key) is job:
            del self._keys[held_key]
        self.pauses.remove(job)
        self.recording.pop(job, None)
        line = self.line_of(job)
        if line is not None:
            self._leave_line(line, job)
            line.waiting.discard(job)
            if not keep_place:
                self.give_back(job, job)

    def give_back(self, job: Job, holder: object, heir: object = None) -> None:
        """Give the place of `holder` back, and have the next jobs in line go on.

        :param job: a job with the limit to which the place belongs
        :param heir: the new holder of the place, or None
        """
        line, limit = self.line_of(job), job.config.limit
        if line is None or limit is None:
            return
        if holder in line.held:
            line.held.remove(holder)
            if heir is not None:
                line.held.add(heir)
        self._serve(line, limit)
        if not (line.held or line.waiting):
            self.lines.pop(limit, None)

    def _serve(self, line: Line, limit: Limit) -> None:
        if not line.is_served:
            line.is_served = True
            try:
                for_each(partial(self._go_on, line), _next_in(line, limit))
            finally:
                line.is_served = False

    def _go_on(self, line: Line, job: Job) -> None:
        line.held.add(job)
        line.waiting.discard(job)
        try:
            job._runner.resume(job)
        finally:  # an observer may raise KeyboardInterrupt
            self._leave_line(line, job)

    def _leave_line(self, line: Line, job: Job) -> None:
        if job in line.limited:
            self.limited_count -= 1
            del line.limited[job]

    def note_waits(self, job: Job) -> None:
        """Note that `job` waits."""
        limit = job.config.limit
        if limit is not None:
            self.lines.setdefault(limit, Line()).waiting.add(job)


def _key_of(job: Job) -> tuple[str, str] | None:
    """Return the function and the key of `job`; None if it has no key, or the file of its journal decides."""
    key = job.config.key
    return None if key is None or record_of(job) is not None else (job.function, key)


def _next_in(line: Line, limit: Limit) -> Iterator[Job]:
    while line.limited and len(line.held) < limit.most:
        yield next(iter(line.limited))
