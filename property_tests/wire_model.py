"""A naive model of the wire and of each task, from a description alone.

Each check is named after its guarantee, reads the journal, and says which rule was broken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from property_tests.apps import Described, Route
from property_tests.journal import FOR_EVER, OF_TASKS, Journal, Made, TaskError

# Predictions from a description.


def is_cancelled(described: Described, route: Route) -> bool:
    """Return whether a middleware or the server cancels the route before its end."""
    gives_up = any(layer.kind == "gives up" for layer in described.layers)
    return route.takes > 0 and (gives_up or route.client.cancelled_at is not None)


def fails(described: Described, route: Route) -> bool:
    """Return whether the route fails (G5): by itself, by a dependency, by a validation, or by a cancellation."""
    kinds = ("http error", "handled", "unhandled", "invalid request", "invalid response", "ws raise")
    raising = any(dep.raises == "enter" or (dep.raises and dep.scope == "function") for dep in route.deps)
    return route.kind in kinds or raising or is_cancelled(described, route)


def is_dropped(described: Described, made: Made) -> bool:
    """Return whether `when` does not fit the outcome (G5). An immediate task does not wait for an outcome."""
    when = made.plan.when or described.when
    if made.plan.phase == "immediate" or when == "always":
        return False
    return fails(described, described.routes[made.request]) is not (when == "failure")


def ends_of(described: Described, made: Made) -> set[str]:
    """Return the possible ends of a task (G2, G5). A host that does not wait cancels or refuses unshielded tasks (G9);
    nothing else does (G11).
    """
    if is_dropped(described, made):
        ends = {"dropped"}
    else:
        ends = {"failed" if made.plan.does in {"raise", "sync raise"} else "succeeded"}
    if described.mode == "lifespan" and (described.patience < FOR_EVER or described.stops_at is not None):
        # A shielded task that comes too late is refused, too. But once taken, it is not cancelled.
        ends |= {"refused"} if made.plan.shield else {"refused", "cancelled"}
    return ends


def status_of(described: Described, route: Route) -> int | None:
    """Return the response status of the route; None if a layer in between raises or gives up."""
    rough = any(layer.kind not in {"pass", "base", "gzip", "buffer", "linger"} for layer in described.layers)
    raises = any(dep.raises for dep in route.deps) or route.breaks or route.background == "raises"
    stays = route.client.leaves_after is None and route.client.cancelled_at is None
    if rough or raises or not stays:
        return None
    failing = {"http error": 418, "handled": 202, "unhandled": 500, "invalid request": 422, "invalid response": 500}
    return {**failing, "empty": 204, "redirect": 307}.get(route.kind, 200)


# Checks.


def positions(journal: Journal, request: int, *whats: str) -> list[int]:
    """Return the positions of these notes."""
    return [at for at, note in enumerate(journal.notes) if note.request == request and note.what in whats]


def place_of(journal: Journal, what: str, number: int) -> int | None:
    """Return the position of this note about the task."""
    return next((at for at, n in enumerate(journal.notes) if (n.what, n.number) == (what, number)), None)


def not_before(journal: Journal, made: Made, whats: tuple[str, ...], rule: str) -> None:
    """Assert that the task had not started before any of these notes about its request."""
    for at in positions(journal, made.request, *whats):
        note = journal.notes[at]
        assert made.number not in note.started, f"{rule}: {made} had started before {note.what!r} (note {at})"


def check_g1_never_inside_schedule_and_once(journal: Journal) -> None:
    begun = Counter(note.number for note in journal.notes if note.what == "begin")
    for made in journal.made.values():
        assert begun[made.number] <= 1, f"G1: {made} started {begun[made.number]} times"
        at = place_of(journal, "scheduled", made.number)
        assert at is None or made.number not in journal.notes[at].started, f"G1: {made} started inside schedule()"


def check_g1_barrier(journal: Journal) -> None:
    if journal.described.one_slot:  # a task that waits for a slot is the exception
        return
    for made in journal.made.values():
        first = next(iter(positions(journal, made.request, "wire")), None)
        scheduled = place_of(journal, "scheduled", made.number)
        if first is None or scheduled is None or scheduled > first or not waited_for(journal, made):
            continue
        assert made.number in journal.notes[first].started, f"G1: the response began before {made} had started"


def waited_for(journal: Journal, made: Made) -> bool:
    """Return whether the response waits for the start of the task. An abandoned thread may be overtaken; a websocket
    has no response.
    """
    is_session = journal.described.routes[made.request].kind.startswith("ws ")
    early = made.plan.phase != "after_response"
    dropped = is_dropped(journal.described, made)
    return early and not is_session and not dropped and made.origin != "racing" and made.status != "cancelled"


ROUTE_PARTS = ("enter", "route", "route end", "built", "function exit")


def request_parts(journal: Journal) -> tuple[str, ...]:
    """Return all kinds of notes about a request, except those about its tasks and the end of the call."""
    return tuple(sorted({note.what for note in journal.notes} - {*OF_TASKS, "over"}))


def check_g1_after_route(journal: Journal) -> None:
    for made in journal.made.values():
        if made.plan.phase == "after_route":
            not_before(journal, made, ROUTE_PARTS, "G1, after_route")


def check_g1_after_response(journal: Journal) -> None:
    parts = request_parts(journal)
    for made in journal.made.values():
        if made.plan.phase == "after_response":
            not_before(journal, made, parts, "G1, after_response")


def check_g1_phases_in_order(journal: Journal) -> None:
    order = ("immediate", "after_route", "after_response")
    for later in journal.made.values():
        begun = place_of(journal, "begin", later.number)
        if begun is None or later.plan.phase == "immediate":
            continue
        parts = ROUTE_PARTS if later.plan.phase == "after_route" else request_parts(journal)
        phase_begins = max(positions(journal, later.request, *parts), default=-1)
        for earlier in journal.made.values():
            scheduled = place_of(journal, "scheduled", earlier.number)
            if earlier.request != later.request or scheduled is None or scheduled > phase_begins:
                continue
            comes_first = order.index(earlier.plan.phase) < order.index(later.plan.phase)
            if comes_first and earlier.origin != "racing" and has_run(earlier):
                started = journal.notes[begun].started
                assert earlier.number in started, f"G1: {later} began before {earlier}, of an earlier phase"


def check_g1_at_once(journal: Journal) -> None:
    """Time moves only when nothing can run. So a task that starts at once, or with its phase, starts at exactly that
    time.
    """
    if journal.described.one_slot:
        return
    for made in journal.made.values():
        begun = place_of(journal, "begin", made.number)
        scheduled = place_of(journal, "scheduled", made.number)
        if begun is None or scheduled is None:
            continue
        moments = [scheduled]
        if made.plan.phase == "after_route":
            moments += positions(journal, made.request, *ROUTE_PARTS)
        if made.plan.phase == "after_response":
            if journal.described.mode != "lifespan":  # the end of an interrupted stream is not visible then
                continue
            moments += positions(journal, made.request, "over")
        due, at = max(journal.notes[moment].time for moment in moments), journal.notes[begun].time
        assert at == due, f"G1: {made} started at {at}, and not at once, at {due}"


def has_run(made: Made) -> bool:
    """Return whether the task has taken its first step."""
    return made.task is not None and made.task.attempt > 0


def check_g1_order_of_schedule(journal: Journal, backend: str) -> None:
    """On trio the first steps of a batch come in any order; with one slot, the order of the requests is visible."""
    if backend == "trio" and not journal.described.one_slot:
        return
    for later in journal.made.values():
        begun = place_of(journal, "begin", later.number)
        for earlier in list(journal.made.values())[: later.number]:
            lane = (earlier.request, earlier.plan.phase, earlier.origin, earlier.by)
            if begun is not None and has_run(earlier) and lane == (
                later.request, later.plan.phase, later.origin, later.by
            ):  # fmt: skip
                assert earlier.number in journal.notes[begun].started, f"G1, G8: {later} began before {earlier}"


def check_g2_one_end_g5_g9_g11(journal: Journal) -> None:
    notes = Counter((note.what, note.number) for note in journal.notes)
    for made in journal.made.values():
        allowed = ends_of(journal.described, made)
        assert made.status in allowed, f"G2, G5, G9, G11: {made} ended as {made.status}, not as {allowed}"
        begun, ended = notes["begin", made.number], notes["end", made.number]
        assert begun == ended, f"G2: {made} was left alive"
        assert begun or made.status in {"dropped", "refused", "cancelled"}, f"G2: {made} never ran"
        assert not begun or made.status not in {"dropped", "refused"}, f"G2, G5: {made} was {made.status} but ran"
        if made.task is not None and made.status == "succeeded":
            assert made.task.return_value == made.number, f"G17: {made} has another's result"
        if made.task is not None and made.status == "failed":
            assert isinstance(made.task.exception, TaskError), f"G2: {made} failed with {made.task.exception!r}"


def check_g4_g5_log(journal: Journal) -> None:
    for made in journal.made.values():
        said = [(level, text) for _, level, text in journal.logged if text.startswith(f"task 'task {made.number}' ")]
        if made.status == "dropped":
            level = "DEBUG" if made.plan.when or journal.described.when else "WARNING"
            how = "failed" if fails(journal.described, journal.described.routes[made.request]) else "succeeded"
            fitting = len(said) == 1 and said[0][0] == level and f"was dropped: its route {how}; " in said[0][1]
        elif made.status == "failed":
            fitting = len(said) == 1 and said[0][0] == "ERROR"
        else:
            fitting = not said
        assert fitting, f"G4, G5: of {made}, which was {made.status}, the log says {said}"


def check_g6_context(journal: Journal) -> None:
    for made in journal.made.values():
        assert made.seen in (None, made.context), f"G6: {made} saw {made.seen}"
    assert not journal.faults, f"broken: {journal.faults}"


def check_g9_drain(journal: Journal) -> None:
    stop = next((note for note in journal.notes if note.what == "stop"), None)
    if stop is None or journal.described.mode != "lifespan":
        return
    sweep = stop.time + journal.described.patience
    for note in journal.notes:
        if note.what == "cancelled":
            assert note.time >= sweep, f"G9: task {note.number} was cancelled at {note.time}, before {sweep}"
        if note.what == "end" and note.time > sweep:
            made = journal.made[note.number]
            spared = made.plan.shield or made.is_sync or is_late(journal, made, sweep)
            assert spared, f"G9: {made}, not shielded, ended at {note.time}, after {sweep}"
        if note.what == "scheduled" and note.time > sweep:
            by = journal.made.get(journal.made[note.number].by)
            assert by is not None, f"G9: {journal.made[note.number]} was taken at {note.time}, after {sweep}"
            assert by.plan.shield, f"G9: {journal.made[note.number]} was taken from {by} at {note.time}, after {sweep}"


def is_late(journal: Journal, made: Made, sweep: float) -> bool:
    """Return whether a shielded task scheduled this task after the sweep."""
    at = place_of(journal, "scheduled", made.number)
    return at is not None and journal.notes[at].time >= sweep


def check_g10_before_shutdown(journal: Journal) -> None:
    if journal.described.mode != "lifespan":
        return
    names = {note.what for note in journal.notes} & {"lifespan shutdown", "router shutdown"}
    assert "lifespan shutdown" in names, "G10: the app has not been shut down"
    for name in names:
        (shutdown,) = positions(journal, -1, name)
        late = [n for n in journal.notes[shutdown:] if n.what in {"begin", "end"}]
        assert not late, f"G10: after the {name} had begun: {late}"


def check_g13_call_lasts(journal: Journal) -> None:
    for note in journal.notes:
        if note.what == "over" and journal.described.mode != "lifespan":
            assert note.number == 0, f"G13: the call of request {note.request} left {note.number} tasks alive"
    warnings = [said for said in journal.logged if said[:2] == ("fastapi_tasks", "WARNING")]
    warns = journal.described.mode in {"none", "after lifespan", "elsewhere"}
    wanted = warns and any(made.task is not None for made in journal.made.values())
    assert wanted <= len(warnings) <= warns, f"G13: warned {len(warnings)} times"


def check_g12_answer(journal: Journal) -> None:
    for request, route in enumerate(journal.described.routes):
        if not route.kind.startswith("ws "):
            status = status_of(journal.described, route)
            if status is not None:
                got = journal.answers[request]
                raised = {"unhandled": "Unhandled", "invalid response": "ResponseValidationError"}.get(route.kind)
                assert got.status == status, f"G12: {route} answered {got.status}"
                name = None if got.raised is None else type(got.raised).__name__
                assert name == raised, f"G3: the call of {route} raised {got.raised!r}"


def check(journal: Journal, backend: str) -> None:
    """Assert every guarantee that the journal can show."""
    check_g1_order_of_schedule(journal, backend)
    for one in CHECKS:
        one(journal)


CHECKS: tuple[Callable[[Journal], None], ...] = (
    check_g1_never_inside_schedule_and_once,
    check_g1_barrier,
    check_g1_after_route,
    check_g1_after_response,
    check_g1_phases_in_order,
    check_g1_at_once,
    check_g2_one_end_g5_g9_g11,
    check_g4_g5_log,
    check_g6_context,
    check_g9_drain,
    check_g10_before_shutdown,
    check_g12_answer,
    check_g13_call_lasts,
)
