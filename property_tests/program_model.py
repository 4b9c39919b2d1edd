"""A model of a whole program: one scope and its tasks, in a host with limits that drains. All tasks with a `Limit` have
the same one, and all tasks with a key have the same key.

Like the model of the tables, which it uses, its only state is lists of past events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from property_tests.model import (
    Past,
    end_of,
    in_handler,
    may_drain,
    may_live,
    meaning_of_end,
    runs_code,
    sweep_of,
    takes,
    verdict_of,
)
from taskphase._machine.config import When
from taskphase._machine.dispatch import Outcome
from taskphase._machine.drain import DrainEvent, Sweep
from taskphase._machine.life import LifeEvent
from taskphase._machine.scope import Phase, ScopeEvent, Verdict

L, D = LifeEvent, DrainEvent


@dataclass(frozen=True, slots=True)
class Kind:
    """The settings of a task that affect the model. The delay has no length: PAUSE_ENDS ends the delay."""

    phase: Phase
    when: When = "always"
    shielded: bool = False
    has_handler: bool = True
    delayed: bool = False
    limited: bool = False
    keyed: bool = False


What = Enum("What", "SCHEDULE ARRIVE SIGNAL STEP FINISH HANDLER_ENDS PAUSE_ENDS CANCEL DRAIN")
Fate = Enum("Fate", "HAPPENS CHANGES_NOTHING CLOSED SATURATED ILLEGAL IMPOSSIBLE")


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a program. `task`: the task of the event; for SCHEDULE: the task that calls, or None.

    `flag`, for ENDED: the scope has failed, unless its route ended before; for SCHEDULE: the call comes from a thread,
    so the task is on its way until ARRIVE, of all such tasks; for FINISH: the policy asks for another attempt.
    """

    what: What
    task: int | None = None
    how: Kind | ScopeEvent | Outcome | DrainEvent | None = None
    flag: bool = False


class World:
    """All past events."""

    def __init__(
        self,
        max_running: int | None = None,
        max_pending: int | None = None,
        most: int = 1,
        limit_pending: int | None = None,
    ) -> None:
        """`most` and `limit_pending`: the parameters of the `Limit`."""
        self.max_running, self.max_pending = max_running, max_pending
        self.most, self.limit_pending = most, limit_pending
        self.kinds: list[Kind] = []
        self.pasts: list[Past] = []
        self.signals: list[ScopeEvent] = []
        self.drain: list[DrainEvent] = []
        self.on_their_way: list[int] = []
        self.arrived: list[int] = []
        self.limited: list[int] = []
        self.line: list[int] = []
        self.starts: list[int] = []

    def copy(self) -> World:
        """Return a copy, to try another continuation."""
        other = World(self.max_running, self.max_pending, self.most, self.limit_pending)
        for name in ("kinds", "pasts", "signals", "drain", "on_their_way", "arrived", "limited", "line", "starts"):
            setattr(other, name, getattr(self, name)[:])
        return other

    def running(self) -> int:
        """Return the number of tasks with a slot: from the request to start until the end, but not in a pause (G16)."""
        return sum(runs_code(past) or past[-1:] == (L.START,) for past in self._alive())

    def held(self) -> int:
        """Return the number of tasks with a place of the limit: from before the slot until the end of an attempt and
        its handler, but not in a pause (G19).
        """
        alive = self._alive(lambda kind: kind.limited)
        return sum(runs_code(past) or past[-1:] in ((L.QUEUE,), (L.START,)) for past in alive)

    def has_no_place(self) -> bool:
        """Return whether a task with the limit has to wait for a place: first in, first out (G19)."""
        return bool(self.limited) or self.held() >= self.most

    def waiting_for_limit(self) -> int:
        """Return the number of tasks that count for the limit's own `max_pending` (G19)."""
        alive = self._alive(lambda kind: kind.limited)
        waits = ((L.DEFER,), (L.DELAY,), (L.LIMIT,), (L.RETRY,))
        return sum(past[-1:] in waits for past in alive)

    def pending(self) -> int:
        """Return the number of tasks that count for the host's `max_pending` (G15)."""
        waits = ((L.DEFER,), (L.DELAY,), (L.LIMIT,), (L.QUEUE,))
        return sum(past[-1:] in waits for past in self._alive())

    def key_is_taken(self) -> bool:
        """Return whether a task with the key waits or runs: its phase has come, and it has not ended (G24)."""
        return any(past not in ((), (L.DEFER,)) for past in self._alive(lambda kind: kind.keyed))

    def _alive(self, of: Callable[[Kind], bool] = lambda _: True) -> list[Past]:
        both = zip(self.kinds, self.pasts, strict=True)
        return [past for kind, past in both if of(kind) and end_of(past) is None]

    def full(self) -> bool:
        return self.max_running is not None and self.running() >= self.max_running

    def idle(self) -> bool:
        return not self.on_their_way and all(end_of(past) for past in self.pasts)

    def fate(self, event: Event) -> Fate:
        """Return what `event` would meet now."""
        past = () if event.task is None else self.pasts[event.task]
        match event.what, event.how:
            case What.SCHEDULE, Kind() as kind:
                after = self if event.flag else self.copy()
                if not event.flag:
                    after.arrive()
                return after._fate_of_schedule(kind, event)
            case What.ARRIVE, _:
                return Fate.HAPPENS if self.on_their_way else Fate.IMPOSSIBLE
            case What.PAUSE_ENDS, _:
                return Fate.HAPPENS if past[-1:] in ((L.RETRY,), (L.DELAY,)) else Fate.IMPOSSIBLE
            case What.SIGNAL, signal:
                happens = ScopeEvent.ENDED not in self.signals if signal is ScopeEvent.ENDED else not self.signals
                return Fate.HAPPENS if happens else Fate.CHANGES_NOTHING
            case What.CANCEL, _:
                return Fate.HAPPENS if may_live(past, L.CANCEL) else Fate.CHANGES_NOTHING
            case What.DRAIN, DrainEvent() as drained:
                if drained is D.IDLE and not self.idle():
                    return Fate.IMPOSSIBLE
                return Fate.HAPPENS if may_drain(self.drain, drained) else Fate.ILLEGAL
            case What.FINISH, _ if in_handler(past):
                return Fate.IMPOSSIBLE
            case _:
                happens = may_live(past, self._meaning(event)) and in_handler(past) is (event.what is What.HANDLER_ENDS)
                return Fate.HAPPENS if happens else Fate.ILLEGAL

    def _fate_of_schedule(self, kind: Kind, event: Event) -> Fate:
        by_shielded = False
        if event.task is not None:
            if L.STEP not in self.pasts[event.task]:
                return Fate.IMPOSSIBLE
            by_shielded = self.kinds[event.task].shielded and end_of(self.pasts[event.task]) is None
        if not takes(self.drain, by_shielded=by_shielded):
            return Fate.CLOSED
        verdict = verdict_of(self.signals, kind.phase, kind.when)
        if verdict is Verdict.DROP or (verdict is Verdict.START and kind.keyed and self.key_is_taken()):
            return Fate.HAPPENS
        would_wait = verdict is Verdict.HOLD or kind.delayed or (kind.limited and self.has_no_place())
        counts = kind.limited and would_wait and self.limit_pending is not None
        if counts and self.waiting_for_limit() >= (self.limit_pending or 0):
            return Fate.SATURATED
        would_wait = would_wait or self.full()
        saturated = self.max_pending is not None and would_wait and self.pending() >= self.max_pending
        return Fate.SATURATED if saturated else Fate.HAPPENS

    def _meaning(self, event: Event) -> LifeEvent:
        assert event.task is not None
        match event.how:
            case Outcome() as outcome:
                again = event.flag and L.CANCEL not in self.pasts[event.task]
                return meaning_of_end(outcome, again=again, has_handler=self.kinds[event.task].has_handler)
            case _:
                meanings = {What.STEP: L.STEP, What.HANDLER_ENDS: L.FAIL}
                return meanings.get(event.what, L.CANCEL)

    def happen(self, event: Event) -> None:
        """Add `event` and all events that must follow."""
        match event.what, event.how:
            case What.SCHEDULE, Kind() as kind:
                if not event.flag:
                    self.arrive()
                (self.on_their_way if event.flag else self.arrived).append(len(self.kinds))
                self.kinds.append(kind)
                self.pasts.append(())
            case What.ARRIVE, _:
                self.arrive()
            case What.SIGNAL, ScopeEvent() as signal:
                if signal is ScopeEvent.ENDED and not self.signals:  # a scope without a route ends both
                    self.signals.append(ScopeEvent.ROUTE_FAILED if event.flag else ScopeEvent.ROUTE_SUCCEEDED)
                self.signals.append(signal)
            case What.DRAIN, DrainEvent() as drained:
                self.drain.append(drained)
                self._sweep()
            case What.PAUSE_ENDS, _:
                self.arrive()
                self._let_go(event.task)
            case _:
                self._add(event.task, self._meaning(event))
        self._settle()

    def arrive(self) -> None:
        """Let tasks from threads arrive: they were scheduled before the current event (G8)."""
        while self.on_their_way:
            self.arrived.append(self.on_their_way.pop(0))
            self._settle()

    def _sweep(self) -> None:
        everybody = sweep_of(self.drain) is Sweep.EVERYBODY or self.drain[-1] is D.ABORT
        for task, kind in enumerate(self.kinds):
            swept = everybody or (sweep_of(self.drain) is Sweep.UNSHIELDED and not kind.shielded)
            if swept and may_live(self.pasts[task], L.CANCEL):
                self._add(task, L.CANCEL)

    def _settle(self) -> None:
        self.line = [task for task in self.line if self.pasts[task][-1] is L.QUEUE]
        self.limited = [task for task in self.limited if self.pasts[task][-1] is L.LIMIT]
        for phase in Phase:  # an earlier phase first; in a phase in order (G1)
            for task in self.arrived:
                past = self.pasts[task]
                if self.kinds[task].phase is phase and past in ((), (L.DEFER,)):
                    verdict = verdict_of(self.signals, phase, self.kinds[task].when)
                    if verdict is Verdict.START:
                        self._let_go(task)
                    elif verdict is Verdict.DROP:
                        self._add(task, L.DROP)
                    elif not past:
                        self._add(task, L.DEFER)
        while self.limited and self.held() < self.most:  # first in, first out; a place before a slot (G19)
            self._ask_for_slot(self.limited.pop(0))
        while self.line and not self.full():  # first in, first out (G15)
            self._start(self.line.pop(0))

    def _let_go(self, task: int | None) -> None:
        """Let a task go on that is due, or whose pause is over: key (G24), delay (G18), limit (G19), slot (G15)."""
        assert task is not None
        kind, is_due = self.kinds[task], self.pasts[task] in ((), (L.DEFER,))
        if is_due and kind.keyed and self.key_is_taken():
            self._add(task, L.DROP)
        elif is_due and kind.delayed:
            self._add(task, L.DELAY)
        elif kind.limited and self.has_no_place():
            self._add(task, L.LIMIT)
            self.limited.append(task)
        else:
            self._ask_for_slot(task)

    def _ask_for_slot(self, task: int) -> None:
        if self.full() or self.line:
            self._add(task, L.QUEUE)
            self.line.append(task)
        else:
            self._start(task)

    def _start(self, task: int) -> None:
        self._add(task, L.START)
        self.starts.append(task)

    def _add(self, task: int | None, event: LifeEvent) -> None:
        assert task is not None
        self.pasts[task] = (*self.pasts[task], event)
