"""The promised order of starts: G1 and G15.

The promise holds under the order of the event loop itself: first in, first out on asyncio; batch by batch on trio, each
batch in random order.
"""

from __future__ import annotations

import math

from property_tests.programs import specs_in
from property_tests.promises import Promise
from property_tests.reading import by_scope, from_thread, is_gated, place_of
from property_tests.story import Story
from taskphase import Phase, TaskStatus

S = TaskStatus


def g1_all_that_came_before_has_started_when_the_route_is_left(story: Story) -> None:
    if story.program.max_running is not None:
        return  # a task that has waited for a slot may be about to start
    for place, event in story.when("settled"):
        for number, call, task in story.tasks():
            if call.scope != event.number or call.by is not None or call.phase is Phase.AFTER_RESPONSE:
                continue
            if number >= len(event.tasks) or task.attempt == 0 or is_gated(call.spec):
                continue
            status = event.tasks[number]
            early = place_of(story, "taken", number) < place
            assert not early or status not in (S.NEW, S.DEFERRED, S.STARTING), (
                f"task {number} is {status} when the route is left"
            )


def g1_earlier_phases_start_before_later_ones(story: Story) -> None:
    order = list(Phase)
    for scope, calls in by_scope(story).items():
        for later in (Phase.AFTER_ROUTE, Phase.AFTER_RESPONSE):
            signal = story.first("answered" if later is Phase.AFTER_ROUTE else "over", scope)
            if signal is None:
                continue
            before = [c for c in calls if order.index(c[1].phase) < order.index(later)]
            late = [
                place_of(story, "begin", number)
                for number, call in calls
                if call.phase is later and place_of(story, "taken", number) < signal[0]
            ]
            for number, _ in before:
                if place_of(story, "taken", number) < signal[0]:
                    began = place_of(story, "begin", number)
                    assert began < min(late, default=math.inf), f"a task of {later.value} has started before {number}"


def g1_g15_starts_are_in_the_order_of_schedule(story: Story) -> None:
    """On asyncio, whose queue is first in, first out."""
    for calls in by_scope(story).values():
        for phase in Phase:
            begun = [place_of(story, "begin", n) for n, call in calls if call.phase is phase and call.by is None]
            assert begun == sorted(begun), f"the tasks of {phase.value} have started in another order"


def g15_slots_are_given_first_in_first_out(story: Story) -> None:
    """On asyncio, without retries and other waits."""
    if story.program.max_running is None:
        return
    if any(spec.handler or spec.retry or is_gated(spec) for spec in specs_in(story.program)):
        return
    immediate = [n for n, call, task in story.tasks() if call.phase is Phase.IMMEDIATE and task.attempt]
    immediate = [n for n in immediate if not from_thread(story, n) and not story.calls[n].spec.sync]
    begun = [place_of(story, "begin", number) for number in immediate]
    assert begun == sorted(begun), f"first steps at {begun}"


IN_ORDER: tuple[Promise, ...] = (
    g1_all_that_came_before_has_started_when_the_route_is_left,
    g1_earlier_phases_start_before_later_ones,
)

FIRST_IN_FIRST_OUT: tuple[Promise, ...] = (
    *IN_ORDER,
    g1_g15_starts_are_in_the_order_of_schedule,
    g15_slots_are_given_first_in_first_out,
)
