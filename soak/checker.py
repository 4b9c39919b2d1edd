"""Proves from the journals of a server and its clients that no promise was broken.

The checker reads the server's journal once, in the order of writing, and forgets each ended task. So a journal of any
length can be checked. If two threads may write two events in either order, the order is not checked.
"""

from __future__ import annotations

from collections.abc import Iterable

from .journal import Event
from .kinds import ALONE_PHASE, PHASES
from .records import Answer, Findings, RequestRecord, TaskRecord, Terms
from .verdict import STATUSES, Verdict

SHUTDOWN = ("asked", "drained", "shutdown", "down")


def check(server: Iterable[Event], clients: Iterable[Event] = (), terms: Terms | None = None) -> Findings:
    """Return the violations of a run, and the ends of its tasks."""
    answers = {
        event.fields[0]: Answer(event.at, int(event.fields[1]), int(event.fields[2]))
        for event in clients
        if event.name == "answered"
    }
    checker = Checker(terms or Terms(), answers)
    for event in server:
        checker.see(event)
    checker.conclude()
    return checker.findings


class Checker:
    """Reads the events of a server in order. Each event is handled by the method of the same name."""

    def __init__(self, terms: Terms, answers: dict[str, Answer]) -> None:
        self.findings = Findings()
        self._terms = terms
        self._answers = answers
        self._tasks: dict[int, TaskRecord] = {}
        self._over = bytearray(1)  # by the task's number
        self._requests: dict[str, RequestRecord] = {}
        self._marks: dict[str, int] = {}
        self._verdict = Verdict(terms, self.findings, self._marks)

    def see(self, event: Event) -> None:
        """Read the next event."""
        if self._terms.ending == "forced" and "shutdown" in self._marks and not self._is_end(event):
            self.findings.late += 1
            return
        getattr(self, f"_{event.name}")(event.at, *event.fields)

    @staticmethod
    def _is_end(event: Event) -> bool:
        return event.name == "down" or (event.name == "final" and event.fields[1] in STATUSES)

    def _task(self, number: str) -> TaskRecord:
        index = int(number)
        if index >= len(self._over):
            self._over.extend(bytes(index + 1024 - len(self._over)))
        if self._over[index]:
            self.findings.add("twice", f"task {number} has ended, and goes on")
        return self._tasks.setdefault(index, TaskRecord(index))

    def _request(self, name: str) -> RequestRecord:
        return self._requests.setdefault(name, RequestRecord())

    def _lives(self, at: int, task: TaskRecord, what: str, *, is_end: bool = False) -> None:
        """Check that the task has no event after the app has heard of its shutdown, except from a thread that was left
        behind at the end of `shield_timeout`.
        """
        task.at = at
        if "drained" in self._marks or "shutdown" in self._marks:
            if is_end and task.in_thread and at >= self._verdict.earliest_cut(shield=True):
                return
            self.findings.add("shutdown", f"{task} has {what} after the shutdown of the app began")

    def _accepted(self, at: int, number: str, name: str, kind: str, phase: str, shield: str, when: str) -> None:
        task = self._task(number)
        if task.is_known:
            self.findings.add("twice", f"task {number} was accepted twice")
        task.request, task.kind, task.phase, task.shield, task.when = name, kind, phase, shield == "1", when
        self.findings.accepted += 1
        request = self._request(name)
        self._lives(at, task, "been accepted")
        if task.attempts:
            self._check_context(task)
            if task.is_deferred:
                self.findings.add("phase", f"{task} has begun before schedule() returned")
        if phase != ALONE_PHASE:
            request.accepted += 1
            if not (task.attempts or task.in_thread or phase == "after_response"):
                request.unstarted.add(task.number)

    def _refused(self, _at: int, number: str, why: str) -> None:
        self.findings.refused[why] += 1
        allowed = self._terms.limited if why == "saturated" else "asked" in self._marks
        if not allowed and self._terms.ending != "forced":
            self.findings.add("refused", f"task {number} was refused as {why}, and had no reason to be")
        self._task(number)
        self._settle(int(number))

    def _began(self, at: int, number: str, attempt: str, context: str) -> None:
        task = self._task(number)
        if int(attempt) != task.attempts + 1 or task.ended != task.attempts:
            self.findings.add("attempts", f"{task} begins attempt {attempt} after {task.attempts}, {task.ended} ended")
        task.attempts, task.context, task.how = int(attempt), context, ""
        self._lives(at, task, "begun")
        if task.is_known:
            self._check_context(task)
            if task.attempts == 1 and task.phase != ALONE_PHASE:
                self._check_start(at, task)

    def _check_context(self, task: TaskRecord) -> None:
        if task.context != task.request:
            self.findings.add("context", f"{task} sees the context of request {task.context}")

    def _check_start(self, at: int, task: TaskRecord) -> None:
        request = self._request(task.request or "")
        if task.phase == "after_route" and not request.outcome:
            self.findings.add("phase", f"{task} has begun before its route returned")
        if task.phase == "after_response":
            self._check_response(task, request)
        if request.drops(task):
            self.findings.add("dropped", f"{task} has begun, and its route has {request.outcome}")
        if not (self._terms.limited or task.in_thread):
            self._check_order(at, task, request)

    def _check_response(self, task: TaskRecord, request: RequestRecord) -> None:
        if not request.has_left:
            self.findings.add("phase", f"{task} has begun before its request was over")
        elif not request.is_sent and task.request in self._answers:
            self.findings.add("phase", f"{task} has begun before the last message was handed to the server")

    def _check_order(self, at: int, task: TaskRecord, request: RequestRecord) -> None:
        rank = PHASES.index(task.phase)
        if rank < request.rank:
            self.findings.add("order", f"{task} has begun after a task of a later phase")
        elif self._terms.in_order and rank == request.rank and task.number < request.last:
            self.findings.add("order", f"{task} has begun after task {request.last} of its phase")
        request.rank, request.last = max(rank, request.rank), task.number
        request.unstarted.discard(task.number)
        answer = self._answers.get(task.request or "")
        if answer is not None and answer.at < at and rank < 2 and not request.is_session:
            self.findings.add("barrier", f"{task} has begun after the client had the response")

    def _ended(self, at: int, number: str, attempt: str, how: str) -> None:
        task = self._task(number) if not self._awaits_thread(number) else self._tasks[int(number)]
        if int(attempt) != task.attempts or task.ended == task.attempts:
            self.findings.add("attempts", f"{task} ends attempt {attempt} of {task.attempts}, {task.ended} ended")
        task.ended, task.how = task.attempts, how
        self._lives(at, task, f"ended ({how})", is_end=True)
        if self._over[task.number]:
            del self._tasks[task.number]

    def _awaits_thread(self, number: str) -> bool:
        """Return whether a task is over, but its thread is not."""
        return int(number) in self._tasks and int(number) < len(self._over) and self._over[int(number)] == 1

    def _handled(self, at: int, number: str, attempt: str) -> None:
        task = self._task(number)
        if int(attempt) != task.attempts or task.ended != task.attempts or task.how == "returned":
            self.findings.add("handler", f"{task}: the handler is called for attempt {attempt}, which has not failed")
        task.handled += 1
        self._lives(at, task, "been handled")

    def _logged(self, at: int, number: str) -> None:
        task = self._task(number)
        task.logged += 1
        self._lives(at, task, "been logged")

    def _final(self, at: int, number: str, status: str, attempts: str) -> None:
        task = self._task(number)
        self._verdict.on_end(task, self._request(task.request or ""), at, status, int(attempts))
        self._settle(int(number))
        if task.in_thread and task.ended != task.attempts:
            self._tasks[task.number] = task  # its thread still runs

    def _settle(self, index: int) -> None:
        self._tasks.pop(index, None)
        self._over[index] = 1

    def _returned(self, _at: int, name: str) -> None:
        self._request(name).outcome = "returned"

    def _failed(self, _at: int, name: str) -> None:
        self._request(name).outcome = "failed"

    def _opened(self, _at: int, name: str) -> None:
        self._request(name).is_session = True
        self.findings.sessions += 1

    def _first(self, _at: int, name: str) -> None:
        request = self._request(name)
        late = [number for number in request.unstarted if number in self._tasks and not self._over[number]]
        request.unstarted.clear()
        if self._terms.limited or self._terms.ending == "forced":
            return
        for task in (self._tasks[number] for number in late):
            if not request.drops(task):
                self.findings.add("barrier", f"{task} has not begun, and the response begins")

    def _sent(self, _at: int, name: str) -> None:
        self._request(name).is_sent = True

    def _left(self, _at: int, name: str) -> None:
        request = self._request(name)
        request.has_left = True
        answer = self._answers.get(name)
        if answer is not None:
            self._verdict.on_answer(name, answer, request.accepted)

    def _asked(self, at: int) -> None:
        self._mark("asked", at)

    def _drained(self, at: int) -> None:
        self._mark("drained", at)

    def _shutdown(self, at: int, *counts: str) -> None:
        self._mark("shutdown", at)
        if any(count != "0" for count in counts) and self._terms.ending != "forced":
            self.findings.add("counts", f"running, waiting, deferred are {', '.join(counts)} at the app's shutdown")

    def _down(self, at: int) -> None:
        self._mark("down", at)

    def _mark(self, name: str, at: int) -> None:
        if name in self._marks:
            self.findings.add("marks", f"{name} comes twice")
        self._marks[name] = at

    def conclude(self) -> None:
        """Report the events that should have come, but did not."""
        unended = [task for task in self._tasks.values() if not self._over[task.number]]
        self.findings.lost = len(unended)
        if self._terms.ending == "killed":
            return
        if self._terms.ending == "graceful":
            for task in unended:
                self.findings.add("lost", f"{task} has no end")
        for task in self._tasks.values():
            if task.ended != task.attempts and self._over[task.number] and not self._verdict.may_abandon:
                self.findings.add("lost", f"the thread of {task} has no end")
        expected = SHUTDOWN if self._terms.ending == "graceful" else SHUTDOWN[2:]
        if tuple(self._marks) != expected:
            self.findings.add("marks", f"the shutdown was {', '.join(self._marks) or 'not noticed'}")
