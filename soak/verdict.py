"""Judges one end of a task: was this end correct, and was another one possible?"""

from __future__ import annotations

from .kinds import ENDS, HANDLED, WITH_HANDLER
from .records import TOLERANCE, Answer, Findings, RequestRecord, TaskRecord, Terms

NEVER = 1 << 62  # nanoseconds
STATUSES = ("succeeded", "failed", "cancelled", "dropped")


class Verdict:
    """Judges the ends of the tasks of one run.

    :param marks: the times of the shutdown's events; the caller adds them as they happen
    """

    def __init__(self, terms: Terms, findings: Findings, marks: dict[str, int]) -> None:
        self._terms = terms
        self._findings = findings
        self._marks = marks

    def earliest_cut(self, *, shield: bool) -> int:
        """Return the earliest time at which the drain may cancel a task."""
        if self._terms.ending == "forced":
            return 0
        patience = self._terms.drain_timeout
        if shield:
            if self._terms.shield_timeout is None:
                return NEVER
            patience += self._terms.shield_timeout
        asked = self._marks.get("asked")
        return NEVER if asked is None else asked + max(int(patience * 1e9) - TOLERANCE, 0)

    @property
    def may_abandon(self) -> bool:
        """Return whether threads may be left behind."""
        return self._terms.ending == "forced" or self._terms.shield_timeout is not None

    def on_answer(self, name: str, answer: Answer, accepted: int) -> None:
        """Judge a complete response, when its request is over."""
        if answer.status == 200 and answer.count != accepted:
            self._findings.add("count", f"request {name} tells of {answer.count} tasks, {accepted} were accepted")
        known = {200, 418, 503} if self._terms.limited else {200, 418}
        if answer.status not in known and self._terms.ending != "forced":
            self._findings.add("status", f"request {name} was answered with {answer.status}")

    def on_end(self, task: TaskRecord, request: RequestRecord, at: int, status: str, attempts: int) -> None:
        """Judge the end of a task, which came not later than `at`."""
        if not task.is_known:
            self._findings.add("twice", f"task {task.number} has an end, and was not accepted")
            return
        if status not in STATUSES:
            self._findings.add("lost", f"{task} is {status} when all is over")
            return
        self._findings.ends[task.kind, status] += 1
        self._on_attempts(task, status, attempts)
        if (status == "dropped") != request.drops(task) and not self._may_be_cut(task, status, at):
            outcome = request.outcome or "no outcome"
            self._findings.add("dropped", f"{task} is {status}, and its route has {outcome}")
        if task.logged != (status == "failed"):
            self._findings.add("logged", f"{task} is {status}, and that was logged {task.logged} times")
        if status == "cancelled":
            self._on_cancelled(task, at)
        elif status != "dropped":
            self._on_result(task, status)

    def _on_attempts(self, task: TaskRecord, status: str, attempts: int) -> None:
        if attempts != task.attempts and not (task.in_thread and task.attempts < attempts):
            self._findings.add("attempts", f"{task} had {task.attempts} attempts, its handle tells {attempts}")
        if task.attempts != task.ended and not task.in_thread:
            self._findings.add("lost", f"{task} is {status}, and its function has not ended")
        if task.attempts and status == "dropped":
            self._findings.add("dropped", f"{task} has begun, and was dropped")

    def _may_be_cut(self, task: TaskRecord, status: str, at: int) -> bool:
        return status == "cancelled" and at >= self.earliest_cut(shield=task.shield)

    def _on_cancelled(self, task: TaskRecord, at: int) -> None:
        # A task that has not begun has no earlier event, so the end itself is the latest possible time.
        moment = at if task.how != "cancelled" else task.at
        if moment < self.earliest_cut(shield=task.shield):
            self._findings.add("cancelled", f"{task} was cancelled, and nobody was allowed to")
        if task.how == "returned" and self._terms.ending != "forced":
            self._findings.add("result", f"{task} has returned, and is cancelled")
        if task.how == "raised" and task.kind not in WITH_HANDLER:
            self._findings.add("result", f"{task} has raised, and is cancelled")
        if task.in_thread and task.attempts and not self.may_abandon:
            self._findings.add("result", f"{task} has begun in its thread, and is cancelled")

    def _on_result(self, task: TaskRecord, status: str) -> None:
        end = ENDS[task.kind]
        is_right = (status, task.attempts) == (end.status, end.attempts) and task.how == end.how
        if task.in_thread and task.kind == "thread_timeout":
            # Its thread still runs, or never got a slot; or the loop was too busy to see the timeout before the result.
            is_right = task.how == "returned" or (status == "failed" and not task.how)
        if is_right:
            if task.handled != HANDLED.get(task.kind, 0):
                self._findings.add("handler", f"{task} is {status}, and its handler was called {task.handled} times")
        elif not self._was_cut_short(task, status):
            ended = f"{task.attempts} attempts, the last one {task.how or 'not ended'}"
            self._findings.add("result", f"{task} is {status} after {ended}")

    def _was_cut_short(self, task: TaskRecord, status: str) -> bool:
        """Return whether the drain began while the handler ran, so that no other attempt follows."""
        cut = self.earliest_cut(shield=task.shield)
        return status == "failed" and task.kind in WITH_HANDLER and task.how == "raised" and task.at >= cut
