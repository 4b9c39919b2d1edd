"""Random programs that hand tasks over to a queue, and the promises of G21 about their stories."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import anyio
from anyio import current_time
from hypothesis import strategies as st
from tests.queueing import FakeQueue, Refused, Step, archive

from property_tests.compact import Compact
from taskphase import (
    HandOverFailed,
    Phase,
    Task,
    TaskHost,
    TaskObserver,
    TasksClosedError,
    TasksSaturatedError,
    TaskStatus,
)
from taskphase._machine.life import ENDS
from taskphase.queues import Call
from taskphase.testing import Policy, simulate

S = TaskStatus
A_MOMENT = 1e-6  # seconds

# Virtual seconds of a handler.
HANDLING = {"returns": 0.0, "raises": 0.0, "takes time": 0.7, "hangs": math.inf}

# Without a shield_timeout a handler that hangs would hold its host for ever, as is promised.
LONG = 5.0


@dataclass(frozen=True, repr=False)
class Order(Compact):
    """One call of `schedule()`, at the time `at`; `cancel()` follows `cancel` seconds later, if that is a number."""

    at: float = 0
    phase: Phase = Phase.IMMEDIATE
    delay: float | None = None
    key: str | None = None
    here: bool = False
    handler: str | None = None
    cancel: float | None = None


@dataclass(frozen=True, repr=False)
class Plan(Compact):
    """A host with a queue. The route of its only scope lasts until 0.6, and the host begins to close at `at`."""

    orders: tuple[Order, ...] = ()
    steps: tuple[Step, ...] = ()
    then: Step = "confirm"
    opening: tuple[Step, ...] = ()
    most: int = 100
    deadline: float = 10
    attempt_timeout: float = 1.1
    fallback: str | None = None
    max_running: int | None = None
    max_pending: int | None = None
    drain_timeout: float = 0
    shield_timeout: float | None = None
    at: float = 1


STEPS: list[Step] = ["confirm", "slow", "refuse", "fail", "hang", "publish, then fail", "publish, then hang", "group"]

orders = st.builds(
    Order,
    at=st.sampled_from([0, 0, 0.25, 0.9]),
    phase=st.sampled_from(Phase),
    delay=st.sampled_from([None, None, 0.33, 2]),
    key=st.sampled_from([None, None, "key"]),
    here=st.sampled_from([False, False, False, True]),
    handler=st.sampled_from([None, *HANDLING]),
    cancel=st.sampled_from([None, None, None, 0, 0.05, 0.6]),
)
plans = st.builds(
    Plan,
    orders=st.lists(orders, min_size=1, max_size=5).map(tuple),
    steps=st.lists(st.sampled_from(STEPS), max_size=6).map(tuple),
    then=st.sampled_from(STEPS),
    opening=st.lists(st.sampled_from(["confirm", "slow", "refuse", "fail", "hang"]), max_size=2).map(tuple),
    most=st.sampled_from([1, 2, 100]),
    deadline=st.sampled_from([0, 0.5, 2.4, 10]),
    attempt_timeout=st.sampled_from([0.3, 1.1]),
    fallback=st.sampled_from([None, "here"]),
    max_running=st.sampled_from([None, 1]),
    max_pending=st.sampled_from([None, None, 0, 2]),
    drain_timeout=st.sampled_from([0, 0, 0.45, 3]),
    shield_timeout=st.sampled_from([None, 0, 0.4, 1.7]),
    at=st.sampled_from([0, 1, 4]),
)


@dataclass
class Attempt:
    """One call of `publish()`.

    :ivar how: "confirmed", "timed out", or the name of the exception
    :ivar first: the place of the begin among the begins and ends of all attempts
    :ivar last: the place of the end
    """

    message: str
    began: float
    first: int
    ended: float = math.inf
    last: float = math.inf
    how: str = ""


@dataclass
class Order_:
    """The story of one order."""

    order: Order
    task: Task[Any] | None = None
    refusal: Exception | None = None
    asked: float | None = None
    """When `cancel()` was called."""
    hooks: list[tuple[float, str, Any]] = field(default_factory=list)
    handled: list[tuple[float, Exception]] = field(default_factory=list)

    def at(self, hook: str) -> list[float]:
        return [time for time, name, _ in self.hooks if name == hook]

    @property
    def failures(self) -> list[HandOverFailed]:
        """The failures of the hand-over, as `attempt_ended` has told them."""
        return [error for _, name, error in self.hooks if name == "attempt_ended" and isinstance(error, HandOverFailed)]


class RecordingQueue(FakeQueue):
    """Writes down each attempt."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(
            archive,
            steps=plan.steps,
            then=plan.then,
            opening=plan.opening,
            most=plan.most,
            deadline=plan.deadline,
            attempt_timeout=plan.attempt_timeout,
            fallback=plan.fallback,
        )
        self.made: list[Attempt] = []
        self._places = count()

    async def publish(self, prepared: Call, headers: Mapping[str, str]) -> None:
        attempt = Attempt(prepared.id, current_time(), next(self._places))
        self.made.append(attempt)
        try:
            await super().publish(prepared, headers)
            attempt.how = "confirmed"
        except BaseException as exc:
            attempt.how = type(exc).__name__
            raise
        finally:
            attempt.ended, attempt.last = current_time(), next(self._places)
            if attempt.how in _CANCELLED and attempt.ended - attempt.began > self.attempt_timeout - A_MOMENT:
                attempt.how = "timed out"


class Watch(TaskObserver):
    def __init__(self, orders: dict[str, Order_]) -> None:
        self._orders = orders

    def _note(self, task: Task[Any], hook: str, detail: Any = None) -> None:
        self._orders[task.name].hooks.append((current_time(), hook, detail))

    def scheduled(self, task: Task[Any], scope: Any) -> None:
        self._note(task, "scheduled")

    def due(self, task: Task[Any]) -> None:
        self._note(task, "due")

    def started(self, task: Task[Any]) -> None:
        self._note(task, "started", task.attempt)

    def attempt_ended(self, task: Task[Any], error: BaseException | None, retry_after: float | None) -> None:
        self._note(task, "attempt_ended", error)

    def ended(self, task: Task[Any]) -> None:
        self._note(task, "ended", task.status)


class Story:
    """The run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.queue = RecordingQueue(plan)
        self.orders = {str(number): Order_(order) for number, order in enumerate(plan.orders)}
        self.host = TaskHost(
            queues=[self.queue],
            max_running=plan.max_running,
            max_pending=plan.max_pending,
            drain_timeout=plan.drain_timeout,
            shield_timeout=plan.shield_timeout,
            observers=[Watch(self.orders)],
        )
        self.closing = self.closed = math.inf
        self.beats: list[float] = []
        self.errors: list[str] = []

    async def main(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._beat)
            await self._host()
            group.cancel_scope.cancel()

    async def _host(self) -> None:
        async with anyio.create_task_group() as group, self.host:
            group.start_soon(self._scope, group)
            await anyio.sleep(self.plan.at)
            self.closing = current_time()
            await self.host.aclose()
            self.closed = current_time()

    async def _scope(self, group: Any) -> None:
        async with self.host.scope() as tasks:
            async with tasks.route():
                for number, story in self.orders.items():
                    group.start_soon(self._order, tasks, number, story)
                await anyio.sleep(0.6)
            await anyio.sleep(0.01)

    async def _order(self, tasks: Any, number: str, story: Order_) -> None:
        order = story.order
        await anyio.sleep(order.at)
        place = tasks if order.phase is Phase.IMMEDIATE else getattr(tasks, order.phase.value)
        handler = None if order.handler is None else self._handler(story, order.handler)
        settings: dict[str, Any] = {"queue": "here"} if order.here else {}
        definition = place.task(name=number, delay=order.delay, key=order.key, on_error=handler, **settings)
        try:
            story.task = definition.schedule(archive, int(number))
        except (TasksClosedError, TasksSaturatedError) as exc:
            story.refusal = exc
            return
        if order.cancel is not None:
            await anyio.sleep(order.cancel)
            story.asked = current_time()
            story.task.cancel()

    def _handler(self, story: Order_, how: str) -> Any:
        async def handle(task: Task[Any], error: Exception) -> None:
            assert task is story.task
            story.handled.append((current_time(), error))
            seconds = HANDLING[how]
            await anyio.sleep(LONG if seconds == math.inf and self.plan.shield_timeout is None else seconds)
            if how == "raises":
                raise LookupError

        return handle

    async def _beat(self) -> None:
        while True:
            self.beats.append(current_time())
            await anyio.sleep(0.125)

    def handed(self) -> Generator[tuple[Order_, Task[Any], str]]:
        """Yield what was scheduled for the queue: the order, the task and its message id."""
        for story in self.orders.values():
            if story.task is not None and not story.order.here:
                assert story.task.message_id is not None
                yield story, story.task, story.task.message_id

    def attempts_of(self, message: str) -> list[Attempt]:
        return [attempt for attempt in self.queue.made if attempt.message == message]


@contextmanager
def _quiet() -> Generator[list[tuple[int, Any]]]:
    """Collect the records of the logger: the level, and the message id."""
    records: list[tuple[int, Any]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append((record.levelno, getattr(record, "task_message_id", None)))

    logger, handler = logging.getLogger("taskphase"), Handler()
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield records
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def tell(plan: Plan, backend: Any, policy: Policy | None = None) -> Story:
    """Run `plan`; return its story."""
    story = Story(plan)
    with _quiet() as records:
        run = simulate(story.main, backend=backend, policy=policy)
        if run.exception is not None:
            run.exception.add_note(run.timeline(60))
            raise run.exception
    story.errors = [message for level, message in records if level == logging.ERROR]
    return story


# The promises.


def g21_each_task_ends_once_and_in_one_of_its_ends(story: Story) -> None:
    for number, order in story.orders.items():
        if order.task is None:
            assert order.hooks == [], f"{number} was refused, and observers know the task"
            continue
        assert order.task.status in ENDS, f"{number} is {order.task.status}"
        assert len(order.at("ended")) == 1, f"{number} has ended {order.at('ended')}"
        assert order.hooks[0][1] == "scheduled"
        assert order.hooks[-1][1:] == ("ended", order.task.status)
    assert story.host.tasks() == ()


def g21_handed_over_means_confirmed_and_confirmed_means_handed_over(story: Story) -> None:
    for _, task, message in story.handed():
        confirmed = [attempt for attempt in story.attempts_of(message) if attempt.how == "confirmed"]
        assert len(confirmed) == (task.status is S.HANDED_OVER), f"{task!r}: {story.attempts_of(message)}"


def g21_a_published_call_is_handed_over_or_told_as_unknown(story: Story) -> None:
    for order, task, message in story.handed():
        if message not in story.queue.ids or task.status is S.HANDED_OVER:
            continue
        if task.status is S.CANCELLED:
            assert order.asked is not None, f"{task!r} is with the queue, and no code has cancelled the task"
            continue
        assert [error.outcome for error in order.failures] == ["unknown"], f"{task!r}: {order.hooks}"


def g21_only_a_call_that_was_never_published_is_refused(story: Story) -> None:
    for order, task, message in story.handed():
        if any(error.outcome == "refused" for error in order.failures):
            assert message not in story.queue.ids, f"{task!r} was refused, and the queue has it"
            assert {attempt.how for attempt in story.attempts_of(message)} <= {Refused.__name__}
        if task.status is S.SUCCEEDED:
            assert story.plan.fallback == "here"
            assert [error.outcome for error in order.failures] == ["refused"]
            assert order.handled == []
            assert task.attempt == 1


def g21_a_handler_hears_of_a_failed_hand_over_once(story: Story) -> None:
    for order, task, message in story.handed():
        failures = order.failures
        assert len(failures) <= 1
        if task.status is S.FAILED:
            assert task.exception is failures[0]
            assert (failures[0].message_id, failures[0].queue) == (message, "later")
            assert failures[0].attempts >= len(story.attempts_of(message))
            assert story.errors.count(message) >= 1
        told = [error for _, error in order.handled]
        expected = failures if order.order.handler is not None and task.status is not S.SUCCEEDED else []
        assert told == expected, f"{task!r}: {told}, and not {expected}"


def g21_no_hand_over_outlasts_its_deadline(story: Story) -> None:
    for order, task, message in story.handed():
        for began in order.at("started")[:1]:
            until = min(began + story.plan.deadline, _last(story))
            late = [attempt for attempt in story.attempts_of(message) if attempt.ended > until + A_MOMENT]
            assert not late, f"{task!r} should be over at {until}: {late}"
            if order.failures:
                # `attempt_ended` comes after the handler.
                told = [time for time, hook, error in order.hooks if isinstance(error, HandOverFailed)]
                ended = min([*told, *(time for time, _ in order.handled)])
                assert ended <= until + A_MOMENT, f"{task!r} has failed at {ended}, and not at {until}"


def g21_only_failed_attempts_and_full_turns_keep_a_hand_over_from_its_first_attempt(story: Story) -> None:
    if story.plan.opening or any(map(_is_failure, story.queue.made)):
        return
    for order, task, _ in story.handed():
        for time, _, error in order.hooks:
            if isinstance(error, HandOverFailed) and error.attempts == 0 and order.order.handler is None:
                going_on = [attempt for attempt in story.queue.made if attempt.began < time <= attempt.ended]
                is_cut = time >= _last(story) or not order.at("started") or story.plan.deadline == 0
                is_cut = is_cut or (order.order.delay is not None and time <= story.closing + A_MOMENT)
                assert is_cut or len(going_on) >= story.plan.most, f"{task!r} was never tried: {order.hooks}"


def g21_no_more_attempts_go_on_than_allowed(story: Story) -> None:
    assert story.queue.most <= story.plan.most


def g21_beside_the_probe_of_a_queue_that_is_down_no_attempt_begins(story: Story) -> None:
    made = story.queue.made
    for attempt in made:
        over = [other for other in made if other.last < attempt.first and other.how not in _CANCELLED]
        failed = max((other.last for other in over if _is_failure(other)), default=-1)
        if any(other.last > failed for other in over if other.how == "confirmed") or failed < 0:
            continue  # the queue is up
        beside = [other for other in made if failed < other.first < attempt.first and other.last > attempt.first]
        assert not beside, f"{attempt} began beside the probe {beside}"


def g21_a_hand_over_begins_when_its_delay_is_over(story: Story) -> None:
    for order, task, message in story.handed():
        attempts = story.attempts_of(message)
        if not attempts:
            continue
        [due] = order.at("due")
        least = due + (order.order.delay or 0)
        assert attempts[0].began >= least - A_MOMENT, f"{task!r} was tried at {attempts[0].began}, and not at {least}"
        if (
            story.queue.most < story.plan.most
            and not any(map(_is_failure, story.queue.made))
            and not story.plan.opening
        ):
            assert attempts[0].began <= least + A_MOMENT, f"{task!r} was tried at {attempts[0].began}, not at {least}"


def g21_a_call_that_is_cut_off_before_its_first_attempt_is_never_tried(story: Story) -> None:
    sweep = story.closing
    for order, task, message in story.handed():
        ends = [time for time, _, error in order.hooks if isinstance(error, HandOverFailed)]
        for due in order.at("due"):
            is_late = order.order.delay and due <= sweep and due + order.order.delay > sweep + story.plan.drain_timeout
            if is_late and order.asked is None and task.status is not S.DROPPED:
                assert ends, f"{task!r} was delayed beyond stage 1, and has not failed: {order.hooks}"
                assert story.attempts_of(message) == []
                assert [error.outcome for error in order.failures] == ["refused"]


def g21_the_drain_keeps_its_budget(story: Story) -> None:
    plan = story.plan
    if plan.shield_timeout is None:
        return
    budget = plan.drain_timeout + plan.shield_timeout + 1
    assert story.closed - story.closing <= budget + A_MOMENT, f"closed after {story.closed - story.closing}: {plan}"


def g21_nothing_blocks_the_loop(story: Story) -> None:
    assert all(beat == number * 0.125 for number, beat in enumerate(story.beats)), story.beats


def g21_only_a_queue_that_was_opened_is_closed(story: Story) -> None:
    assert story.queue.connections.count("close") == bool(story.queue.made)
    if story.queue.made:
        assert story.queue.connections[-1] == "close"


def _is_failure(attempt: Attempt) -> bool:
    """Return whether the queue is down after this attempt. A cancellation may be that of the task."""
    return attempt.how not in ("confirmed", "", *_CANCELLED)


_CANCELLED = ("Cancelled", "CancelledError")


def _last(story: Story) -> float:
    """Return the time from which on the drain cancels all tasks."""
    patience = story.plan.shield_timeout
    return math.inf if patience is None else story.closing + story.plan.drain_timeout + patience


PROMISES = [promise for name, promise in sorted(globals().items()) if name.startswith("g21_")]


def check(story: Story) -> None:
    """Check all promises.

    :raises AssertionError: if one is broken
    """
    for promise in PROMISES:
        try:
            promise(story)
        except AssertionError as exc:
            exc.add_note(f"{promise.__name__} is broken: {story.plan!r}")
            raise
