"""The guarantees, as functions of a story. Each raises `AssertionError` with the broken promise.

The promises in `ALWAYS` hold in every run, in any order of steps. The promises about the order of starts are in
`order`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise

from property_tests import foresight, model
from property_tests.programs import specs_in
from property_tests.reading import (
    A_MOMENT,
    REACHABLE,
    abandoned,
    asked,
    by_shielded,
    closing_time,
    deadlines,
    disturbed,
    due_at,
    from_thread,
    in_thread,
    pauses_of,
    place_of,
    signal_of,
    signals_of,
    spared_even_in_pauses_until,
    spared_until,
    the,
)
from property_tests.story import SECRET, Story
from taskphase import Phase, TasksClosedError, TasksSaturatedError, TaskStatus
from taskphase._machine.life import ENDS
from taskphase._machine.scope import Verdict

Promise = Callable[[Story], None]

S = TaskStatus
_WAITS_FOR_LIMIT = {S.DEFERRED, S.DELAYED, S.LIMITED, S.RETRYING}
_RUNS_NO_CODE = {S.DEFERRED, S.DELAYED, S.LIMITED, S.WAITING, S.STARTING, S.RETRYING}
_HOLDS_SLOT = {S.STARTING, S.RUNNING, S.CANCELLING, S.HANDLING, S.ABORTING}
_HOLDS_PLACE = {S.WAITING, *_HOLDS_SLOT}


def g1_no_task_starts_inside_schedule_or_more_often_than_it_was_asked_to(story: Story) -> None:
    for number, call, task in story.tasks():
        begins = story.when("begin", number)
        attempts = [event.detail for _, event in begins]
        assert attempts == list(range(1, len(attempts) + 1)), f"task {number} has made the attempts {attempts}"
        if not call.spec.sync:
            assert len(attempts) == task.attempt, f"task {number} counts {task.attempt} attempts, and made {attempts}"
        retries = len(story.when("asked", number))
        assert task.attempt <= 1 + retries, f"task {number} was started again without being asked"
        if begins:
            assert begins[0][0] > place_of(story, "taken", number), f"task {number} has started inside schedule()"


def g1_a_phase_comes_when_its_time_has_come(story: Story) -> None:
    for number, call, task in story.tasks():
        if call.phase is Phase.IMMEDIATE or not task.attempt:
            continue
        signal = signal_of(story, call)
        assert signal is not None, f"task {number} has started although its scope never came so far"
        for place, _ in story.when("begin", number)[:1]:
            assert place > signal[0], f"task {number} of {call.phase.value} has started before that"


def g2_each_task_has_one_end_and_nothing_is_alive_after_the_close(story: Story) -> None:
    closed, _ = the(story, "closed")
    for number, _, task in story.tasks():
        assert task.status in ENDS, f"task {number} is {task.status}"
        ended = story.when("ended", number)
        assert len(ended) <= 1, f"task {number} has ended {len(ended)} times"
        if not (from_thread(story, number) and abandoned(story, story.calls[number].by)):
            assert ended, f"nobody has heard of the end of task {number}"
        if ended:
            assert ended[0][1].detail is task.status, f"task {number} ended as {ended[0][1].detail}, is {task.status}"
        for begin, end in (("begin", "finish"), ("handler", "handled")):
            begun, ends = len(story.when(begin, number)), story.when(end, number)
            assert begun == len(ends) or abandoned(story, number), f"{begin} of task {number} without its {end}"
            late = [place for place, _ in ends if place > closed]
            patience_ended = in_thread(story, number) and story.program.shield_timeout is not None
            assert not late or patience_ended, f"task {number} was alive after the close"


def g2_each_change_of_a_status_is_in_the_table(story: Story) -> None:
    for before, after in pairwise(story.events):
        for number, (was, is_) in enumerate(zip(before.tasks, after.tasks, strict=False)):
            assert is_ in REACHABLE[was], f"task {number} was {was}, and became {is_}"


def g2_the_counts_are_true(story: Story) -> None:
    # No count contains a task that is on its way from a thread.
    for event in story.events:
        if event.counts is None or event.what == "call":
            continue
        statuses = Counter(event.tasks)
        running, waiting, deferred, delayed, limited = event.counts
        assert delayed == statuses[S.DELAYED], f"{delayed} are said to be delayed: {event}"
        assert limited == statuses[S.LIMITED], f"{limited} are said to be limited: {event}"
        assert waiting == statuses[S.WAITING], f"{waiting} are said to wait: {event}"
        assert deferred == statuses[S.DEFERRED], f"{deferred} are said to be deferred: {event}"
        least = sum(statuses[status] for status in _HOLDS_SLOT)
        assert running >= least, f"{running} are said to run, and {least} do: {event}"
    told, ends = story.host.statistics(), Counter(task.status for _, _, task in story.tasks())
    for status in ENDS:
        assert getattr(told, status.value) == ends[status], f"{told}, and in truth {ends}"
    assert told.running == told.waiting == told.deferred == told.delayed == told.limited == told.retrying == 0


def g2_no_gate_keeps_a_task_after_the_close(story: Story) -> None:
    gates = story.host._runner.gates
    assert not (gates.pauses.ends or gates.pauses._heap or gates.pauses.retrying)
    assert not gates._keys
    # The place of a thread that was abandoned has no next holder.
    assert not gates.lines or any(abandoned(story, number) for number, _, _ in story.tasks()), gates.lines


def g3_g16_what_nobody_disturbs_ends_as_if_it_were_alone(story: Story) -> None:
    for number, call, task in story.tasks():
        if disturbed(story, number) or task.status is S.DROPPED:
            continue
        for expected in foresight.ends_of(call.spec):
            assert (task.status, task.attempt) == expected, (
                f"task {number} is {task.status} after {task.attempt} attempts; alone it is {expected}"
            )


def g4_handlers_get_their_task_and_its_exception_and_each_failure_is_logged_once(story: Story) -> None:
    for number, call, task in story.tasks():
        failed_attempts = [e for _, e in story.when("finish", number) if e.detail not in ("returned", "cancelled")]
        handled = story.when("handler", number)
        for _, event in handled:
            about, exc = event.detail
            assert about == number, f"the handler of {number} was called with task {about}"
            assert type(exc).__name__ in ("Boom", "TimeoutError"), f"the handler got {exc!r}"
        if call.spec.handler is None:
            assert not handled
        elif handled or not _ended_without_a_thread_for_its_handler(story, number):
            assert len(handled) == (task.status is S.FAILED), f"{len(handled)} handlers, and the task is {task.status}"
        questions = [event.detail for _, event in story.when("asked", number)]
        assert all(about == number for about, _ in questions), f"the policy of {number} was asked of {questions}"
        if call.spec.timeout is None and not abandoned(story, number):
            assert len(questions) <= len(failed_attempts), f"{questions} after {len(failed_attempts)} failures"
        name = f"'task-{number}'"
        errors = [log for log in story.logs if log.level == logging.ERROR and name in log.text]
        final = [log for log in errors if f"task {name} failed in attempt {task.attempt}" in log.text]
        assert len(final) == (task.status is S.FAILED), f"task {number} is {task.status}, logged {len(final)} times"
        assert all(log.tag == number for log in errors), f"logged in the context of {errors}"
        # A thread that `timeout` has left behind has no frames in the traceback.
        assert all("Traceback" in log.text or "timed out after" in log.text for log in errors), "no traceback"
        how = [event.detail for _, event in story.when("handled", number)]
        of_handlers = [log for log in errors if "the error handler of task" in log.text]
        left_behind = abandoned(story, number) and len(of_handlers) < how.count("Boom")
        assert left_behind or len(of_handlers) == how.count("Boom"), (
            f"failing handlers {how}, logged {len(of_handlers)} times"
        )
    assert not [log for log in story.logs if SECRET in log.text], "an argument is in a log"


def _ended_without_a_thread_for_its_handler(story: Story, number: int) -> bool:
    """Return whether the host may have stopped waiting while the handler waited for a thread."""
    handler, ended = story.calls[number].spec.handler, story.first("ended", number)
    is_late = ended is None or ended[1].time >= deadlines(story)[1] - A_MOMENT
    return is_late and handler is not None and handler.sync


def g5_a_task_is_dropped_exactly_by_policy(story: Story) -> None:
    for number, call, task in story.tasks():
        dropped = task.status is S.DROPPED
        logs = [log for log in story.logs if f"task 'task-{number}' was dropped" in log.text]
        assert len(logs) == dropped, f"a drop of task {number} is logged {len(logs)} times"
        if _was_dropped_for_its_key(story, number):
            continue
        level = logging.WARNING if call.spec.when is None else logging.DEBUG
        assert all((log.level, log.tag) == (level, number) for log in logs), f"logged as {logs}"
        signals = signals_of(story, call.scope)
        if call.phase is Phase.IMMEDIATE or not signals:
            assert not dropped, f"task {number} was dropped without a reason"
            continue
        verdict = model.verdict_of(signals, call.phase, call.spec.when or "success")
        assert not dropped or verdict is Verdict.DROP, f"task {number} was dropped, and should be: {verdict}"
        if verdict is Verdict.DROP:
            assert dropped or task.status is S.CANCELLED, f"task {number} should be dropped, and is {task.status}"
            assert not task.attempt


def g9_before_its_time_the_drain_cancels_nothing_and_refuses_nothing(story: Story) -> None:
    first, second = deadlines(story)
    for number, call in enumerate(story.calls):
        place, event = the(story, "refused" if call.task is None else "taken", number)
        if isinstance(call.refusal, TasksClosedError):
            limit = second if by_shielded(story, call, place) else first
            closed = story.first("closed")
            idle = closed is not None and closed[1].time <= event.time + A_MOMENT
            assert idle or event.time >= limit - A_MOMENT, f"task {number} was refused at {event.time}"
        elif call.task is not None:
            limit = second if by_shielded(story, call, place) else first
            assert event.time <= limit + A_MOMENT, f"task {number} was taken at {event.time}, after {limit}"


def g9_what_is_swept_ends_at_once_and_the_host_closes_with_its_last_task(story: Story) -> None:
    first, _ = deadlines(story)
    closed = the(story, "closed")[1].time
    last = closing_time(story)
    for number, call, task in story.tasks():
        ended = story.first("ended", number)
        if ended is None:
            last = max([last, *(event.time for _, event in story.when("finish", number))])
            continue
        time = ended[1].time
        last = max(last, time)
        deadline = spared_until(story, call.spec)
        if foresight.stops_at_once(call.spec) and time > deadline + A_MOMENT:
            begin = story.first("call", number)
            assert begin is not None
            assert begin[1].time >= first - A_MOMENT, f"task {number} was swept at {deadline}, and ended at {time}"
        if task.status is S.CANCELLED and not asked(story, number):
            spared = spared_even_in_pauses_until(story, call.spec)
            assert time >= spared - A_MOMENT, f"task {number} was cancelled at {time}, before {spared}"
    if not any(abandoned(story, number) for number, _, _ in story.tasks()):
        assert closed <= last + A_MOMENT, f"closed at {closed}, and the last task ended at {last}"


def g9_a_pause_that_ends_after_stage_1_is_cancelled_when_stage_1_or_the_pause_begins(story: Story) -> None:
    (first, _), closing = deadlines(story), closing_time(story)
    for number, call, task in story.tasks():
        ended = story.first("ended", number)
        if call.spec.shield or ended is None or asked(story, number):
            continue
        is_cut = False
        for begin, end in pauses_of(story, number):
            if end > first + A_MOMENT and begin < first - A_MOMENT:
                is_cut = True
                time = max(begin, closing)
                assert task.status is S.CANCELLED, f"task {number} is {task.status}, and was in a pause until {end}"
                assert abs(ended[1].time - time) <= A_MOMENT, f"task {number} ended at {ended[1].time}, not at {time}"
        if task.status is S.CANCELLED and not is_cut:
            assert ended[1].time >= first - A_MOMENT, f"task {number} was cancelled at {ended[1].time}, before {first}"


def g9_what_was_cut_short_is_logged_by_name(story: Story) -> None:
    logs = [log.text for log in story.logs if "closing the task host" in log.text and log.level == logging.WARNING]
    assert len(logs) <= 2, f"more than one log for each kind: {logs}"
    cut = {name.split(" ")[0] for text in logs for name in text.rsplit(": ", 1)[1].split(", ")}
    for number, call, task in story.tasks():
        ended = story.first("ended", number)
        if task.status is S.CANCELLED and not asked(story, number) and ended is not None:
            assert f"task-{number}" in cut, f"task {number} was cancelled by the drain, and that is not in {cut}"
        if f"task-{number}" in cut:
            assert task.status is S.CANCELLED or abandoned(story, number), (
                f"task {number} is {task.status}, and in {cut}"
            )
            spared = spared_even_in_pauses_until(story, call.spec)
            assert not asked(story, number) or ended is None or ended[1].time >= spared - A_MOMENT


def g15_the_limits_hold(story: Story) -> None:
    most, pending_most = story.program.max_running, story.program.max_pending
    retried = any(spec.retry is not None for spec in specs_in(story.program))
    for event in story.events:
        statuses = Counter(event.tasks)
        holding = sum(statuses[status] for status in _HOLDS_SLOT)
        assert most is None or holding <= most, f"{holding} run: {event}"
        if most is not None and event.counts is not None and event.counts[1]:
            assert event.counts[0] >= most, f"a task waits although a slot is free: {event}"
        pending = sum(statuses[status] for status in (S.WAITING, S.DEFERRED, S.DELAYED, S.LIMITED))
        # A retry is never refused.
        assert pending_most is None or retried or pending <= pending_most, f"{pending} are pending: {event}"
    for number, call in enumerate(story.calls):
        if isinstance(call.refusal, TasksSaturatedError):
            refusal = call.refusal
            assert not story.when("begin", number), f"task {number} was refused, and has begun"
            if refusal.limit is not None:
                continue
            assert pending_most is not None
            pending = refusal.waiting + refusal.deferred + refusal.delayed + refusal.limited
            assert pending <= pending_most or retried
    used: set[int] = set()
    for event in story.events:
        if event.number >= 0 and event.what in ("begin", "finish") and story.calls[event.number].spec.sync:
            (used.add if event.what == "begin" else used.discard)(event.number)
            assert len(used) <= story.program.max_threads, f"{len(used)} threads at a time"


def g16_an_attempt_has_its_time_and_a_retry_its_pause(story: Story) -> None:
    for number, call, _task in story.tasks():
        begins = [event for _, event in story.when("begin", number)]
        finishes = [event for _, event in story.when("finish", number)]
        if call.spec.timeout is not None and foresight.stops_at_once(call.spec):
            for begin, finish in zip(begins, finishes, strict=False):
                took = finish.time - begin.time
                assert took <= call.spec.timeout + A_MOMENT, f"an attempt at task {number} took {took} s"
        asked_at = [event for _, event in story.when("asked", number)]
        for answered, begin in zip(asked_at, begins[1:], strict=False):
            assert call.spec.retry is not None
            waited = begin.time - answered.time
            assert waited >= call.spec.retry.after - A_MOMENT, f"task {number} waited {waited} s before a retry"
            if story.program.max_running is None and not call.spec.sync and not call.spec.limited:
                assert waited <= call.spec.retry.after + A_MOMENT, f"task {number} waited {waited} s before a retry"


def g17_the_handle_tells_what_has_become_of_its_task(story: Story) -> None:
    for number, _, task in story.tasks():
        assert task.started.is_set() is bool(task.attempt)
        if story.first("started", number) is not None:
            assert task.attempt, f"task {number} is said to have started"
        if task.status is S.SUCCEEDED:
            assert task.return_value == number
            assert task.exception is None
        elif task.status is S.FAILED:
            assert task.exception is not None
    for place, event in story.when("cancel"):
        if event.detail is None and event.tasks[event.number] in _RUNS_NO_CODE:
            after = story.events[place + 1 :]
            begun = [e for e in after if e.what == "begin" and e.number == event.number]
            assert not begun, f"task {event.number} has begun after it was cancelled"


def g18_a_task_begins_exactly_when_its_phase_and_delay_are_over(story: Story) -> None:
    for number, call, _ in story.tasks():
        due, begin = due_at(story, number), story.first("begin", number)
        if begin is None:
            continue
        assert due is not None
        earliest = due[1] + (call.spec.delay or 0)
        time = begin[1].time
        assert time >= earliest - A_MOMENT, f"task {number} has begun at {time}, before {earliest}"
        if story.program.max_running is None and not call.spec.sync and not call.spec.limited:
            assert time <= earliest + A_MOMENT, f"task {number} has begun at {time}, and could at {earliest}"


def g18_no_barrier_waits_for_a_delay_or_a_limit(story: Story) -> None:
    for _, event in story.when("settled"):
        answered = the(story, "answered", event.number)[1].time
        assert event.time <= answered + A_MOMENT, f"the route was left at {event.time}, and could be at {answered}"


def g19_no_more_than_most_have_a_place_first_in_first_out(story: Story) -> None:
    most = story.program.most
    limited = [number for number, call in enumerate(story.calls) if call.spec.limited]
    is_exact = not any(abandoned(story, number) for number in limited)
    code: Counter[int] = Counter()
    line: list[set[int]] = []
    for event, following in zip(story.events, [*story.events[1:], None], strict=True):
        statuses = {number: event.tasks[number] for number in limited if number < len(event.tasks)}
        holding = {number for number, status in statuses.items() if status in _HOLDS_PLACE}
        assert len(holding) <= most, f"{holding} have places: {event}"
        if event.number in statuses and event.what in ("begin", "finish", "handler", "handled"):
            code[event.number] += 1 if event.what in ("begin", "handler") else -1
            # After a timeout the handler of a task may run beside its thread: the task has one place for both.
            assert len(+code) <= most, f"the code of {code} runs: {event}"
        waiting = {number for number, status in statuses.items() if status is S.LIMITED}
        for place, earlier in enumerate(line):
            ahead = {number for each in line[place + 1 :] for number in each} & holding
            assert not (earlier & waiting and ahead), f"{ahead} got places before {earlier & waiting}: {event}"
        line = [rest for each in (*line, waiting.difference(*line)) if (rest := each & waiting)]
        is_at_rest = following is None or following.time > event.time + A_MOMENT
        if is_exact and is_at_rest and waiting:
            assert len(holding) >= most, f"{waiting} wait although a place is free: {event}"


def g19_a_limit_refuses_a_task_in_schedule_exactly_when_it_is_full(story: Story) -> None:
    most = story.program.limit_pending
    limited = {number for number, call in enumerate(story.calls) if call.spec.limited}
    retried = any(story.calls[number].spec.retry is not None for number in limited)
    for event in story.events:
        waiting = [n for n in limited if n < len(event.tasks) and event.tasks[n] in _WAITS_FOR_LIMIT]
        assert most is None or retried or len(waiting) <= most, f"{waiting} wait: {event}"
        if event.what == "refused":
            refusal = story.calls[event.number].refusal
            if isinstance(refusal, TasksSaturatedError) and refusal.limit is not None:
                assert event.number in limited, f"task {event.number} has no limit"
                on_their_way = [n for n in limited if n < event.number and event.tasks[n] is S.NEW]
                assert most is not None
                assert len(waiting) + len(on_their_way) >= most, f"task {event.number} was refused: {event}"


def g24_of_tasks_with_one_key_one_waits_or_runs_and_the_later_is_dropped_silently(story: Story) -> None:
    # Sync and async tasks have different functions.
    same = [
        [n for n, call in enumerate(story.calls) if call.spec.key and call.spec.sync is sync] for sync in (False, True)
    ]
    for numbers in same:
        for event in story.events:
            alive = _alive_in(event.tasks, numbers)
            assert len(alive) <= 1, f"{alive} have the same key: {event}"
    for number, call, task in story.tasks():
        if _was_dropped_for_its_key(story, number):
            assert call.spec.key is not None, f"task {number} has no key"
            assert task.status is S.DROPPED
            assert not story.when("begin", number)
            logs = [log for log in story.logs if f"task 'task-{number}' was dropped" in log.text]
            assert [log.level for log in logs] == [logging.DEBUG], f"logged as {logs}"
            after = next((i for i, e in enumerate(story.events) if S.DROPPED in e.tasks[number : number + 1]), None)
            if after is not None:
                others = _alive_in(story.events[after - 1].tasks, same[call.spec.sync])
                others += _alive_in(story.events[after].tasks, same[call.spec.sync])
                assert others, f"task {number} was dropped although its key is free"


def _alive_in(statuses: tuple[TaskStatus, ...], numbers: Iterable[int]) -> list[int]:
    """Return the tasks whose phase has come and that have not ended."""
    others = {S.NEW, S.DEFERRED, *ENDS}
    return [number for number in numbers if number < len(statuses) and statuses[number] not in others]


def _was_dropped_for_its_key(story: Story, number: int) -> bool:
    logs = [log for log in story.logs if f"task 'task-{number}' was dropped" in log.text]
    return any("the same key" in log.text for log in logs)


def g20_observers_are_told_of_each_task_in_order_and_of_one_end(story: Story) -> None:
    for number, _, task in story.tasks():
        told = [each for each in story.told if each.number == number]
        hooks = [each.hook for each in told]
        assert hooks[:1] == ["scheduled"], f"task {number}: {hooks}"
        assert hooks[-1] == "ended", f"task {number}: {hooks}"
        assert hooks.count("scheduled") == hooks.count("ended") == 1, f"task {number}: {hooks}"
        assert hooks.count("due") <= 1, f"task {number}: {hooks}"
        attempts = [each for each in told if each.hook in ("started", "attempt_ended")]
        assert [each.hook for each in attempts] == ["started", "attempt_ended"] * task.attempt, (
            f"task {number}: {hooks}"
        )
        assert not attempts or hooks[1] == "due", f"task {number}: {hooks}"
        assert [each.detail for each in attempts[::2]] == list(range(1, task.attempt + 1)), f"task {number}: {attempts}"
        assert told[-1].status is task.status, f"task {number} is {task.status}: {told[-1]}"
        for before, after in pairwise(told):
            assert after.status in REACHABLE[before.status or S.NEW], f"task {number}: {before}, {after}"
        for each in told:
            assert each.status in _STATUSES_OF[each.hook], f"task {number}: {each}"
            assert each.is_in_loop or each.hook == "scheduled", f"task {number}: {each}"
            assert each.hook in ("due", "ended") or each.tag == number, f"in another context: {each}"


def g20_an_attempt_has_ended_when_its_function_and_handler_have(story: Story) -> None:
    for number, _, task in story.tasks():
        ends = [each for each in story.told if each.number == number and each.hook == "attempt_ended"]
        pauses = [each.detail[1] for each in ends]
        assert pauses.count(None) == bool(pauses and task.status is not S.CANCELLED) or task.status is S.CANCELLED
        assert None not in pauses[:-1], f"task {number}: {ends}"
        if abandoned(story, number) or task.status is S.CANCELLED:
            continue
        if ends and ends[-1].detail[1] is None:
            assert (ends[-1].detail[0] is type(None)) is (task.status is S.SUCCEEDED), f"task {number}: {ends}"
        for hook_of_program in ("finish", "handled"):
            places = [place for place, _ in story.when(hook_of_program, number)]
            assert all(place < ends[-1].place for place in places), f"task {number}: {ends} and {places}"


def g20_observers_are_told_of_each_refusal_each_scope_and_the_drain(story: Story) -> None:
    refusals = [call.refusal for call in story.calls if call.refusal is not None]
    assert Counter(map(id, refusals)) == Counter(id(each.detail) for each in story.told if each.hook == "refused")
    changes: dict[int, list[str]] = {}
    for each in story.told:
        if each.hook == "scope_changed":
            changes.setdefault(each.detail[0], []).append(each.detail[1])
    for names in changes.values():
        assert names in (["route_succeeded", "ended"], ["route_failed", "ended"]), f"{names}"
    assert len(changes) == len(story.when("opened")), f"{len(changes)} scopes have changed"
    hooks = [each.hook for each in story.told]
    assert hooks.count("drained") <= 1
    if "drained" in hooks:
        late = set(hooks[hooks.index("drained") + 1 :])
        assert late <= {"refused", "scope_changed"}, f"told after the drain: {late}"


_STATUSES_OF = {
    "scheduled": {S.NEW},
    "due": {S.DELAYED, S.LIMITED, S.WAITING, S.STARTING},
    "started": {S.RUNNING},
    "attempt_ended": {S.RETRYING, *ENDS},
    "ended": ENDS,
}
"""The status of a task in a hook."""

ALWAYS: tuple[Promise, ...] = (
    g1_no_task_starts_inside_schedule_or_more_often_than_it_was_asked_to,
    g1_a_phase_comes_when_its_time_has_come,
    g2_each_task_has_one_end_and_nothing_is_alive_after_the_close,
    g2_each_change_of_a_status_is_in_the_table,
    g2_the_counts_are_true,
    g2_no_gate_keeps_a_task_after_the_close,
    g3_g16_what_nobody_disturbs_ends_as_if_it_were_alone,
    g4_handlers_get_their_task_and_its_exception_and_each_failure_is_logged_once,
    g5_a_task_is_dropped_exactly_by_policy,
    g9_before_its_time_the_drain_cancels_nothing_and_refuses_nothing,
    g9_what_is_swept_ends_at_once_and_the_host_closes_with_its_last_task,
    g9_a_pause_that_ends_after_stage_1_is_cancelled_when_stage_1_or_the_pause_begins,
    g9_what_was_cut_short_is_logged_by_name,
    g15_the_limits_hold,
    g16_an_attempt_has_its_time_and_a_retry_its_pause,
    g17_the_handle_tells_what_has_become_of_its_task,
    g18_a_task_begins_exactly_when_its_phase_and_delay_are_over,
    g18_no_barrier_waits_for_a_delay_or_a_limit,
    g19_no_more_than_most_have_a_place_first_in_first_out,
    g19_a_limit_refuses_a_task_in_schedule_exactly_when_it_is_full,
    g24_of_tasks_with_one_key_one_waits_or_runs_and_the_later_is_dropped_silently,
    g20_observers_are_told_of_each_task_in_order_and_of_one_end,
    g20_an_attempt_has_ended_when_its_function_and_handler_have,
    g20_observers_are_told_of_each_refusal_each_scope_and_the_drain,
)


def check(story: Story, promises: Iterable[Promise]) -> None:
    """Check each of `promises` against `story`.

    :raises AssertionError: with the timeline of the story as a note
    """
    if not story.when("closing"):  # cancelled before the host was open
        assert not story.calls
        return
    for promise in promises:
        try:
            promise(story)
        except AssertionError as exc:
            exc.add_note(f"{promise.__name__} is broken; again:\n{story.again}\n{story.run.timeline(150)}")
            raise
