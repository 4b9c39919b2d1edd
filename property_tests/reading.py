"""Reads facts about one task, one scope or the drain from a story."""

from __future__ import annotations

import math
from collections.abc import Iterator

from property_tests.programs import Spec
from property_tests.story import Event, Scheduled, Story
from taskphase import Phase, TaskStatus
from taskphase._machine.life import ENDS, LIFE
from taskphase._machine.scope import ScopeEvent

A_MOMENT = 1e-9
"""Seconds. Times with a smaller difference are the same."""


def closing_time(story: Story) -> float:
    """Return the time at which the host was asked to close."""
    return the(story, "closing")[1].time


def spared_until(story: Story, spec: Spec) -> float:
    """Return the time until which the drain spares such a task."""
    first, second = deadlines(story)
    if spec.shield is True:
        return second
    return min(first + spec.shield, second) if spec.shield else first


def spared_even_in_pauses_until(story: Story, spec: Spec) -> float:
    """Return the time until which the drain spares such a task, even if the task is in a pause that ends later."""
    has_pauses = spec.delay or spec.retry is not None
    return closing_time(story) if has_pauses and not spec.shield else spared_until(story, spec)


def deadlines(story: Story) -> tuple[float, float]:
    """Return the times until which the drain spares unshielded tasks, and all tasks."""
    first = closing_time(story) + story.program.drain_timeout
    patience = story.program.shield_timeout
    return first, math.inf if patience is None else first + patience


REACHABLE: dict[TaskStatus, set[TaskStatus]] = {}
for _status in TaskStatus:
    _reached = {_status}
    while more := {to for status in _reached for to in LIFE[status].values()} - _reached:
        _reached |= more
    REACHABLE[_status] = _reached


def the(story: Story, what: str, number: int | None = None) -> tuple[int, Event]:
    found = story.first(what, number)
    assert found is not None, f"there is no {what} of {number}"
    return found


def place_of(story: Story, what: str, number: int) -> float:
    found = story.first(what, number)
    return math.inf if found is None else found[0]


def signal_of(story: Story, call: Scheduled) -> tuple[int, Event] | None:
    """Return the signal that starts the phase of this task."""
    over = story.first("over", call.scope)
    if call.phase is Phase.AFTER_RESPONSE:
        return over
    return story.first("answered", call.scope) or over


def due_at(story: Story, number: int) -> tuple[int, float] | None:
    """Return the event after which the phase of a task has come, and the time; None if the phase has not come."""
    call, taken = story.calls[number], the(story, "taken", number)
    if call.phase is Phase.IMMEDIATE:
        return taken[0], taken[1].time
    signal = signal_of(story, call)
    if signal is None:
        return None
    return max(taken[0], signal[0]), max(taken[1].time, signal[1].time)


def pauses_of(story: Story, number: int) -> Iterator[tuple[float, float]]:
    """Yield the begin and the end of each pause that the task has entered, unless something has cut the pause short."""
    spec, task = story.calls[number].spec, story.calls[number].task
    due = due_at(story, number)
    is_dropped = task is not None and task.status is TaskStatus.DROPPED
    if spec.delay and due is not None and not is_dropped:
        yield due[1], due[1] + spec.delay
    for _, event in story.when("asked", number)[: 0 if spec.retry is None else spec.retry.retries]:
        assert spec.retry is not None
        yield event.time, event.time + spec.retry.after


def is_gated(spec: Spec) -> bool:
    """Return whether the task may have to wait between its phase and its slot, or be dropped there."""
    return bool(spec.delay) or spec.limited or spec.key is not None


def signals_of(story: Story, scope: int | None) -> list[ScopeEvent]:
    if scope is None:
        return []
    answered, over = story.first("answered", scope), story.first("over", scope)
    signals: list[ScopeEvent] = []
    for signal in (answered, over):
        if signal is not None and not signals:
            signals.append(ScopeEvent.ROUTE_FAILED if signal[1].detail else ScopeEvent.ROUTE_SUCCEEDED)
    return [*signals, ScopeEvent.ENDED] if over is not None else signals


def by_scope(story: Story) -> dict[int, list[tuple[int, Scheduled]]]:
    """Return the tasks of each scope that have begun directly: not in a thread, with no wait after their phase."""
    scopes: dict[int, list[tuple[int, Scheduled]]] = {}
    for number, call, task in story.tasks():
        simple = not call.spec.sync and not from_thread(story, number) and not is_gated(call.spec)
        if call.scope is not None and task.attempt and simple and story.program.max_running is None:
            scopes.setdefault(call.scope, []).append((number, call))
    return scopes


def from_thread(story: Story, number: int) -> bool:
    by = story.calls[number].by
    return by is not None and story.calls[by].spec.sync


def asked(story: Story, number: int) -> bool:
    """Return whether the program, or a fault, has touched this task."""
    return story.first("cancel", number) is not None or number in story.hit()


def disturbed(story: Story, number: int) -> bool:
    """Return whether the task was cancelled for any reason."""
    deadline = spared_even_in_pauses_until(story, story.calls[number].spec)
    ended = story.first("ended", number)
    time = ended[1].time if ended is not None else max((e.time for _, e in story.when("finish", number)), default=0)
    return asked(story, number) or time >= deadline - A_MOMENT


def in_thread(story: Story, number: int) -> bool:
    """Return whether its function or its handler runs in a thread."""
    spec = story.calls[number].spec
    return spec.sync or (spec.handler is not None and spec.handler.sync)


def abandoned(story: Story, number: int | None) -> bool:
    """Return whether its thread, or its handler's thread, may have been left behind."""
    assert number is not None
    has_timeout = story.calls[number].spec.timeout is not None
    return in_thread(story, number) and (has_timeout or story.program.shield_timeout is not None)


def by_shielded(story: Story, call: Scheduled, place: int) -> bool:
    if call.by is None or not story.calls[call.by].spec.shield:
        return False
    return story.events[place].tasks[call.by] not in ENDS
