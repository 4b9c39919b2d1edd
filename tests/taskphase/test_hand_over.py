"""G1, G5, G6, G7, G8, G14, G17, G18, G20, G21, G24: which tasks a queue gets, when, and in which form."""

from __future__ import annotations

import gc
import logging
import math
import signal
import threading
import weakref
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from datetime import timedelta
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
import tests.queueing
from anyio import create_task_group
from tests.backends import turns, until
from tests.handed import ListQueue
from tests.queueing import RAN, REQUEST, FakeQueue, archive, send_mail
from tests.virtual import on_each_loop, run

from taskphase import (
    HandOverFailed,
    HostStatistics,
    Limit,
    NoCurrentError,
    Scope,
    Task,
    TaskConfig,
    TaskDropped,
    TaskHandedOver,
    TaskHost,
    TaskNotFinished,
    TaskObserver,
    TasksBatch,
    TasksError,
    TasksScheduler,
    TaskStatus,
    TasksUnportableError,
    current_host,
    current_task,
    retry,
)
from taskphase.queues import Call, Queue, running
from taskphase.testing import record_tasks

S = TaskStatus
Logged = Callable[[], list[tuple[str, str]]]
pytestmark = pytest.mark.usefixtures("cleared")


def ignore(*_args: object) -> None: ...


async def other() -> None:
    RAN.append(("other",))


class TestConstruction:
    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"name": ""}, TypeError, "the name of a queue must be a str, not ''"),
            ({"name": 3}, TypeError, "the name of a queue must be a str, not 3"),
            ({"deadline": -1}, ValueError, "deadline"),
            ({"deadline": "soon"}, TypeError, "deadline"),
            ({"attempt_timeout": math.nan}, ValueError, "attempt_timeout"),
            ({"options": {send_mail: None}}, TypeError, r"the options of .*\.send_mail must be a dict, not None"),
            ({"fallback": "there"}, ValueError, "fallback must be 'here' or None, not 'there'"),
            ({"carry": {"x": "y"}}, TypeError, "carry must be a dict of context variables by name"),
            ({"carry": ["x"]}, TypeError, "carry must be a dict of context variables by name"),
        ],
    )
    def test_a_queue_refuses_a_wrong_setting_g21(
        self, change: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            FakeQueue(**change)

    def test_a_queue_without_functions_is_refused_g21(self) -> None:
        with pytest.raises(ValueError, match="the queue 'later' has no function"):
            ListQueue("later", [])

    @pytest.mark.parametrize("name", ["prepare", "refused", "takes", "check_loop", "publish", "open", "close"])
    def test_a_method_that_nobody_would_await_or_that_cannot_be_awaited_is_refused_g21(self, name: str) -> None:
        async def in_the_background(*_args: Any) -> None: ...

        def at_once(*_args: Any) -> None: ...

        is_async = name in ("publish", "open", "close")
        wrong: Any = type("Wrong", (ListQueue,), {name: at_once if is_async else in_the_background})
        right = "an `async def`" if is_async else "a plain `def`"
        with pytest.raises(TypeError, match=rf"Wrong\.{name}\(\) must be {right}"):
            wrong("later", [archive])

    @pytest.mark.parametrize("name", ["prepare", "refused", "takes", "check_loop", "publish", "open", "close"])
    def test_a_method_that_yields_or_has_other_parameters_is_refused_g21(self, name: str) -> None:
        async def yields(*_args: Any) -> Any:
            yield

        async def parts(_self: Any, _a: Any, _b: Any, _c: Any) -> None: ...

        def whole(_self: Any, _a: Any, _b: Any, _c: Any) -> None: ...

        more = parts if name in ("publish", "open", "close") else whole
        for method, message in ((yields, "without `yield`"), (more, "cannot be called like this")):
            wrong: Any = type("Wrong", (ListQueue,), {name: method})
            with pytest.raises(TypeError, match=message):
                wrong("later", [archive])

    @pytest.mark.parametrize("func", [lambda: None, partial(send_mail), TaskHost().tasks, len.__call__, 3, "send_mail"])
    def test_a_queue_refuses_a_function_that_a_worker_could_not_import_g21(self, func: Any) -> None:
        with pytest.raises(TasksUnportableError, match="a worker could not import it"):
            FakeQueue(func)

    def test_a_queue_keeps_its_functions_and_their_options_and_changes_neither_g21(self) -> None:
        before = dict(vars(send_mail))
        options = {send_mail: {"priority": 3}, archive: {}}
        queue = FakeQueue(options=options)
        options[send_mail]["priority"] = 4
        assert queue.functions == (send_mail, archive)
        assert queue.options_of(send_mail) == {"priority": 3}
        assert vars(send_mail) == before
        assert (queue.deadline, queue.attempt_timeout) == (10, 3)
        assert FakeQueue(deadline=timedelta(minutes=1)).deadline == 60
        assert repr(queue) == "<FakeQueue 'later'>"
        assert queue.connections == []

    def test_a_function_in_two_queues_of_a_host_and_a_name_twice_are_refused_g21(self) -> None:
        with pytest.raises(ValueError, match=r"tests\.queueing\.archive is in two queues, 'a' and 'b'"):
            TaskHost(queues=[FakeQueue(archive, name="a"), FakeQueue(archive, name="b")])
        with pytest.raises(ValueError, match="two queues have the name 'a'"):
            TaskHost(queues=[FakeQueue(archive, name="a"), FakeQueue(send_mail, name="a")])
        with pytest.raises(TypeError, match="queues must be instances of a subclass of Queue"):
            TaskHost(queues=[archive])  # type: ignore[list-item]

    @pytest.mark.parametrize(
        ("attribute", "value", "problem"),
        [
            ("attempts_at_once", 0, "ValueError: attempts_at_once must be 1 or more, not 0"),
            ("attempts_at_once", "4", "TypeError: attempts_at_once must be an int, not '4'"),
            ("maps", "timeout", "ValueError: maps of <FakeQueue 'later'> has 't', which is no setting"),
            ("maps", {"timeout", "priority"}, "ValueError: maps of <FakeQueue 'later'> has 'priority'"),
            ("maps", 1, "TypeError: maps must be a list"),
            ("system", 1, "TypeError: system must be a str, not 1"),
        ],
    )
    def test_a_host_refuses_a_queue_with_a_wrong_class_attribute_g21(
        self, attribute: str, value: object, problem: str
    ) -> None:
        queue = FakeQueue()
        setattr(queue, attribute, value)
        with pytest.raises((TypeError, ValueError)) as raised:
            TaskHost(queues=[queue])
        assert f"{type(raised.value).__name__}: {raised.value}".startswith(problem)

    def test_a_host_refuses_a_queue_in_its_config_g21(self) -> None:
        with pytest.raises(ValueError, match="list the functions in the queue"):
            TaskHost(config=TaskConfig(queue=FakeQueue()))

    def test_a_setting_queue_is_a_queue_or_here_g21(self) -> None:
        with pytest.raises((TypeError, ValueError), match="queue must be"):
            TaskConfig(queue="later")  # type: ignore[arg-type]


class TestRouting:
    async def test_a_listed_function_is_handed_over_and_another_runs_here_g21(self) -> None:
        queue = FakeQueue()
        async with TaskHost(queues=[queue]) as host:
            mail, local = host.schedule(send_mail, "ada", subject="news"), host.schedule(other)
            await mail.wait()
            await local.wait()
            assert (mail.status, local.status) == (S.HANDED_OVER, S.SUCCEEDED)
            assert (mail.config.queue, local.config.queue) == (queue, None)
            assert (mail.name, mail.function) == ("tests.queueing.send_mail",) * 2
            assert (mail.func, mail.args, mail.kwargs) == (send_mail, ("ada",), {"subject": "news"})
            assert local.message_id is None
        [(call, headers)] = queue.published
        assert mail.message_id is not None
        assert len(mail.message_id) == 32
        assert (call.id, call.func, call.function) == (mail.message_id, send_mail, "tests.queueing.send_mail")
        assert (call.args, call.kwargs, call.options, call.settings) == (("ada",), {"subject": "news"}, {}, {})
        assert headers == {}
        assert RAN == [("other",)]

    async def test_partials_are_unwrapped_g7_g21(self) -> None:
        queue = FakeQueue()
        async with TaskHost(queues=[queue]) as host:
            task = host.schedule(partial(partial(send_mail, "ada"), subject="old"), subject="new")
            await task.wait()
        [(call, _)] = queue.published
        assert (call.func, call.args, call.kwargs) == (send_mail, ("ada",), {"subject": "new"})

    async def test_here_runs_a_listed_function_in_this_program_g21(self) -> None:
        queue = FakeQueue()
        async with TaskHost(queues=[queue]) as host:
            assert await host.task(queue="here").schedule(send_mail, "ada") == "ada"
        async with TaskHost(queues=[queue], config=TaskConfig(queue="here")) as host:
            assert await host.schedule(send_mail, "bob") == "bob"
            await host.task(queue=queue).schedule(send_mail, "cyd").wait()
        assert queue.args == [("cyd",)]

    async def test_a_queue_of_another_host_is_refused_and_nothing_is_scheduled_g21(self) -> None:
        mine, foreign = FakeQueue(), FakeQueue(name="foreign")
        for queues in ([mine], []):
            async with TaskHost(queues=queues) as host:
                with pytest.raises(ValueError, match="'foreign' is no queue of this host"):
                    host.task(queue=foreign).schedule(send_mail, "ada")
                assert host.tasks() == ()

    async def test_a_function_outside_of_the_list_is_refused_g21(self) -> None:
        queue, second = FakeQueue(send_mail), FakeQueue(archive, name="second")
        async with TaskHost(queues=[queue, second]) as host:
            for func in (other, partial(archive)):
                with pytest.raises(TasksUnportableError, match="is not in the list of the queue 'later'"):
                    host.task(queue=queue).schedule(func, *([1] if func is not other else []))
            await host.schedule(archive, 1).wait()
        assert (queue.published, second.args) == ([], [(1,)])

    async def test_a_bound_method_is_another_function_and_runs_here_g7_g21(self) -> None:
        class Mailer:
            async def send_mail(self, to: str) -> str:
                return to

        queue = FakeQueue()
        async with TaskHost(queues=[queue]) as host:
            assert await host.schedule(Mailer().send_mail, "ada") == "ada"
        assert queue.published == []

    async def test_a_queue_may_take_functions_by_a_rule_of_its_own_g21(self) -> None:
        class Ours(FakeQueue):
            def takes(self, func: Callable[..., Any]) -> bool:
                return getattr(func, "__module__", "") == __name__

        queue = Ours()
        async with TaskHost(queues=[queue]) as host:
            await host.schedule(other).wait()
        assert [call.func for call, _ in queue.published] == [other]

    async def test_each_way_to_schedule_leads_to_the_queue_g14_g21(self) -> None:
        queue = FakeQueue()

        async def inner() -> None:
            current_host().schedule(archive, 3)

        def in_thread() -> None:
            current_host().schedule(archive, 4)

        async with TaskHost(queues=[queue]) as host:
            host.schedule(archive, 1)
            async with host.scope() as tasks:
                tasks.schedule(archive, 2)
                await tasks.schedule(inner)
                await host.schedule(in_thread)
                scheduler = TasksScheduler(host.tg)
                scheduler.schedule(archive, 5)
                scheduler.after_response.schedule(archive, 6)
                batch = TasksBatch()
                batch.schedule(archive, 7)
                batch.__start__(tasks)
                Task(archive, (8,)).__start__(tasks)
                tasks.after_response.schedule(archive, 9)
            await anyio.to_thread.run_sync(host.schedule, archive, 10)
            await until(lambda: len(queue.published) == 10)
        assert sorted(queue.args) == [(number,) for number in range(1, 11)]

    async def test_a_foreign_task_group_has_no_queues_g21(self) -> None:
        queue = FakeQueue()
        async with TaskHost(queues=[queue]), create_task_group() as group:
            tasks = TasksScheduler(group)
            assert await tasks.schedule(archive, 1) == 1
            with pytest.raises(ValueError, match="is no queue of this host"):
                tasks.task(queue=queue).schedule(archive, 2)
        assert queue.published == []

    async def test_a_finalizer_and_a_signal_handler_hand_over_by_mail_g8_g21(self) -> None:
        class Thing:
            pass

        queue = FakeQueue()
        async with TaskHost(queues=[queue]) as host:
            thing = Thing()
            weakref.finalize(thing, host.schedule, archive, 1)
            del thing
            gc.collect()
            before = signal.signal(signal.SIGUSR1, lambda *_: host.schedule(archive, 2))
            try:
                signal.raise_signal(signal.SIGUSR1)
            finally:
                signal.signal(signal.SIGUSR1, before)
            await until(lambda: len(queue.published) == 2)
        assert sorted(queue.args) == [(1,), (2,)]

    async def test_threads_hand_over_without_losing_a_task_g8_g21(self) -> None:
        queue = FakeQueue()
        async with TaskHost(queues=[queue]) as host:

            def work(first: int) -> None:
                for number in range(first, first + 50):
                    host.schedule(archive, number)

            async with create_task_group() as group:
                for first in (0, 50, 100):
                    group.start_soon(anyio.to_thread.run_sync, work, first)
            await until(lambda: len(queue.published) == 150)
        assert sorted(queue.args) == [(number,) for number in range(150)]
        assert len(set(queue.ids)) == 150


class TestRefusals:
    @pytest.mark.parametrize(
        "settings",
        [
            {"timeout": 5},
            {"retry": retry(attempts=2)},
            {"limit": Limit(1)},
            {"limit": Limit(math.inf, max_pending=3)},
            {"shield": True},
            {"shield": 5},
            {"shield": math.inf},
            {"run_in": "process"},
        ],
        ids=lambda settings: str(settings),
    )
    async def test_a_setting_of_the_run_is_refused_for_one_task_and_inherited_unapplied_g21(
        self, settings: dict[str, Any]
    ) -> None:
        [name] = settings
        queue = FakeQueue(archive)
        async with TaskHost(queues=[queue]) as host:
            with pytest.raises(TasksUnportableError, match=f"with {name}=, which is about its run") as caught:
                host.task(**settings).schedule(archive, 1)
            assert isinstance(caught.value, TypeError)
            assert host.tasks() == ()
            assert await host.task(queue="here", **settings).schedule(archive, 2) == 2
        async with TaskHost(queues=[queue], config=TaskConfig(**settings)) as host:
            task = host.schedule(archive, 3)
            await task.wait()
            assert task.status is S.HANDED_OVER
        assert queue.args == [(3,)]

    async def test_a_setting_of_the_run_is_refused_even_if_the_host_has_the_same_one_g21(self) -> None:
        async with TaskHost(queues=[FakeQueue()], config=TaskConfig(timeout=5)) as host:
            with pytest.raises(TasksUnportableError, match="with timeout="):
                host.task(timeout=5).schedule(archive, 1)

    @pytest.mark.parametrize(
        "settings",
        [
            {"timeout": math.inf},
            {"retry": retry(attempts=1)},
            {"limit": Limit(math.inf)},
            {"shield": False},
            {"run_in": "thread"},
        ],
        ids=lambda settings: str(settings),
    )
    async def test_a_setting_that_only_lifts_an_inherited_one_is_no_reason_to_refuse_g21(
        self, settings: dict[str, Any]
    ) -> None:
        queue = FakeQueue()
        async with TaskHost(queues=[queue]) as host:
            await host.task(**settings).schedule(archive, 1).wait()
        assert queue.args == [(1,)]

    async def test_a_queue_gets_the_settings_that_it_maps_g21(self) -> None:
        queue = FakeQueue(maps=frozenset({"timeout", "retry"}))
        policy = retry(attempts=5)
        async with TaskHost(queues=[queue]) as host:
            task = host.task(timeout=7, retry=policy).schedule(archive, 1)
            await task.wait()
            assert task.status is S.HANDED_OVER
            with pytest.raises(TasksUnportableError, match="with limit="):
                host.task(timeout=7, limit=Limit(1)).schedule(archive, 1)
        [(call, _)] = queue.published
        assert call.settings == {"timeout": 7, "retry": policy}

    async def test_an_argument_that_the_engine_cannot_carry_is_refused_in_schedule_g21(self) -> None:
        told: list[tuple[Any, type[Exception]]] = []

        class Watch(TaskObserver):
            def refused(self, func: Callable[..., Any], error: TasksError) -> None:
                told.append((func, type(error)))

        class Broken(FakeQueue):
            def prepare(self, call: Call) -> Call:
                raise ValueError(call.args)

        queue, broken = FakeQueue(archive), Broken(send_mail, name="broken")
        async with TaskHost(queues=[queue, broken], max_pending=1, observers=[Watch()]) as host:
            with pytest.raises(TasksUnportableError, match="neither a str nor an int"):
                host.schedule(archive, object())  # type: ignore[arg-type]
            with pytest.raises(TasksUnportableError, match=r"its call cannot be prepared \(.*ValueError\)") as caught:
                host.schedule(send_mail, "s3cret")
            assert "s3cret" not in str(caught.value)
            assert caught.value.__cause__ is None
            with pytest.raises(TypeError, match="argument"):
                host.schedule(archive)  # type: ignore[call-arg]
            assert host.tasks() == ()
        assert told == [(archive, TasksUnportableError), (send_mail, TasksUnportableError)]

    async def test_a_route_that_is_refused_a_hand_over_has_scheduled_nothing_g5_g21(self) -> None:
        queue = FakeQueue()
        async with TaskHost(queues=[queue]) as host:
            with pytest.raises(TasksUnportableError):
                async with host.scope() as tasks, tasks.route():
                    tasks.after_response.schedule(archive, 1)
                    tasks.after_response.schedule(archive, None)  # type: ignore[arg-type]
        assert queue.published == []


@on_each_loop
class TestPhases:
    """In virtual time."""

    def test_each_phase_is_handed_over_when_it_comes_g1_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue = FakeQueue()
            async with TaskHost(queues=[queue]) as host:
                async with host.scope() as tasks:
                    async with tasks.route():
                        response = tasks.after_response.schedule(archive, 3)
                        route = tasks.after_route.schedule(archive, 2)
                        tasks.schedule(archive, 1)
                        await anyio.sleep(1)
                        assert queue.args == [(1,)]
                        assert (route.status, response.status) == (S.DEFERRED, S.DEFERRED)
                        with pytest.raises(TaskNotFinished):
                            await route
                    assert queue.args == [(1,), (2,)]
                    await anyio.sleep(1)
                    assert response.status is S.DEFERRED
                await response.wait()
            assert queue.args == [(1,), (2,), (3,)]

        run(main, backend)

    def test_the_first_attempt_of_after_route_has_begun_when_the_route_is_left_g1_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue = FakeQueue(then="hang", most=3)
            async with TaskHost(queues=[queue], shield_timeout=0) as host, host.scope() as tasks:
                async with tasks.route():
                    for number in range(5):
                        tasks.after_route.schedule(archive, number)
                # No barrier waits for a turn, or for the end of an attempt.
                assert len(queue.attempts) == 3
                assert {time for _, time in queue.attempts} == {anyio.current_time()}

        run(main, backend)

    def test_at_most_a_hundred_attempts_of_a_queue_go_on_at_once_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue = FakeQueue(then="hang")
            async with TaskHost(queues=[queue], shield_timeout=0) as host:
                for number in range(150):
                    host.schedule(archive, number)
                await turns()
                assert queue.at_once == 100

        run(main, backend)

    @pytest.mark.parametrize("fails", [False, True])
    def test_when_decides_before_the_hand_over_g5_g21(self, backend: Any, fails: bool) -> None:
        async def main() -> None:
            queue = FakeQueue()
            found: list[Task[Any]] = []
            async with TaskHost(queues=[queue]) as host:
                try:
                    async with host.scope() as tasks, tasks.route():
                        whens: list[Any] = ["success", "failure", "always"]
                        found += [tasks.after_response.task(when=when).schedule(send_mail, when) for when in whens]
                        if fails:
                            raise LookupError
                except LookupError:
                    pass
            assert sorted(queue.args) == [("always",), ("failure" if fails else "success",)]
            dropped = found[0 if fails else 1]
            assert dropped.status is S.DROPPED
            assert dropped.message_id is not None
            with pytest.raises(TaskDropped):
                dropped.return_value  # noqa: B018

        run(main, backend)

    def test_a_delay_comes_before_the_hand_over_g18_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue = FakeQueue()
            async with TaskHost(queues=[queue], config=TaskConfig(delay=1)) as host:
                began = anyio.current_time()
                task = host.task(delay=timedelta(seconds=3)).schedule(archive, 1)
                host.schedule(archive, 2)
                assert (task.status, host.delayed) == (S.DELAYED, 2)
                await task.wait()
            assert [time - began for _, time in queue.attempts] == [1, 3]

        run(main, backend)

    def test_a_key_is_taken_until_the_task_is_handed_over_g24_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue = FakeQueue(then="slow")
            async with TaskHost(queues=[queue]) as host:
                first, second, third = (host.task(key=key).schedule(archive, 1) for key in ("a", "a", "b"))
                await first.wait()
                fourth = host.task(key="a").schedule(archive, 1)
            ends = [task.status for task in (first, second, third, fourth)]
            assert ends == [S.HANDED_OVER, S.DROPPED, S.HANDED_OVER, S.HANDED_OVER]

        run(main, backend)

    def test_a_hand_over_takes_no_slot_g15_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue = FakeQueue(then="slow")
            async with TaskHost(queues=[queue], max_running=1) as host:
                blocker = host.schedule(anyio.sleep, 10)
                waits = host.schedule(other)
                task = host.schedule(archive, 1)
                await anyio.sleep(0.5)
                expected = HostStatistics(
                    running=1,
                    waiting=1,
                    deferred=0,
                    delayed=0,
                    limited=0,
                    retrying=0,
                    handing_over=1,
                    threads=0,
                    succeeded=0,
                    failed=0,
                    cancelled=0,
                    dropped=0,
                    handed_over=0,
                    oldest_running=blocker,
                )
                assert host.statistics() == expected
                assert host.tasks() == (blocker, waits, task)
                await task.wait()
                assert (host.statistics().handed_over, host.handing_over) == (1, 0)
                assert host.get(task.id) is None
                assert waits.status is S.WAITING

        run(main, backend)


class TestResults:
    async def test_a_handed_over_task_has_no_result_here_g17_g21(self) -> None:
        queue = FakeQueue(then="hang")
        async with TaskHost(queues=[queue]) as host:
            task = host.schedule(send_mail, "ada")
            await task.started.wait()
            assert task.attempt == 1
            for look in (lambda: task.return_value, lambda: task.exception):
                with pytest.raises(TaskNotFinished):
                    look()
            task.cancel()
            queue.then = "confirm"
            task = host.schedule(send_mail, "ada")
            await task.wait()
            for look in (lambda: task.return_value, lambda: task.exception):
                with pytest.raises(TaskHandedOver) as caught:
                    look()
                assert caught.value.message_id == task.message_id
            with pytest.raises(TaskHandedOver):
                await task
            assert task.status == "handed_over"
            assert "handed_over" in repr(task)

    async def test_a_task_made_by_hand_runs_inline_g17_g21(self) -> None:
        async with TaskHost(queues=[FakeQueue()]):
            assert await Task(send_mail, ("ada",))() == "ada"

    async def test_records_have_the_message_id_g4_g21(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, logger="taskphase")
        queue = FakeQueue(then="refuse", deadline=0, fallback="here")
        async with TaskHost(queues=[queue]) as host:
            task = host.schedule(archive, 1)
            await task.wait()
            mine = [record for record in caplog.records if getattr(record, "task_id", None) == task.id]
            assert mine
            assert {vars(record)["task_message_id"] for record in mine} == {task.message_id}


class TestContext:
    async def test_publish_runs_in_the_context_of_schedule_and_carries_g6_g21(self) -> None:
        seen: list[tuple[str | None, Task[Any], TaskHost]] = []
        queue = FakeQueue(carry={"x-request-id": REQUEST})
        queue.on_attempt = lambda _: seen.append((REQUEST.get(), current_task(), current_host()))
        async with TaskHost(queues=[queue]) as host:
            async with host.scope() as tasks:
                async with tasks.route():
                    token = REQUEST.set("r-1")
                    first = tasks.after_response.schedule(archive, 1)
                    REQUEST.reset(token)
                    second = tasks.after_response.schedule(archive, 2)
                REQUEST.set("r-2")
            await until(lambda: len(queue.published) == 2)
        assert sorted(seen, key=lambda each: each[1].id) == [("r-1", first, host), (None, second, host)]
        assert {call.args: dict(headers) for call, headers in queue.published} == {
            (1,): {"x-request-id": "r-1"},
            (2,): {},
        }

    async def test_only_a_str_can_be_carried_g21(self) -> None:
        queue = FakeQueue(carry={"x-request-id": REQUEST})
        async with TaskHost(queues=[queue]) as host:
            token = REQUEST.set(7)  # type: ignore[arg-type]
            with pytest.raises(TasksUnportableError, match=r"'x-request-id' in carry= has a value of the class .*int"):
                host.schedule(archive, 1)
            REQUEST.reset(token)

    async def test_a_worker_sees_the_task_and_the_carried_values_and_no_host_g21(self) -> None:
        queue = FakeQueue(carry={"x-request-id": REQUEST})
        headers = {"x-request-id": "r-1", "other": 3}
        with running(queue, "tests.queueing.archive", "m-1", headers, attempt=2) as view:
            task: Any = current_task()
            assert task is view
            assert (task.message_id, task.function, task.name) == ("m-1", *("tests.queueing.archive",) * 2)
            assert (task.queue, task.attempt) == ("later", 2)
            assert REQUEST.get() == "r-1"
            with pytest.raises(AttributeError, match="a task in a worker has no 'cancel'"):
                task.cancel()
            with pytest.raises(NoCurrentError):
                current_host()
        assert REQUEST.get() is None
        with pytest.raises(NoCurrentError):
            current_task()

    async def test_an_engine_may_leave_a_task_in_another_context_than_it_has_entered_g21(self) -> None:
        context = running(FakeQueue(carry={"x-request-id": REQUEST}), "f", "m-1", {"x-request-id": "r-1"})
        copy_context().run(context.__enter__)
        context.__exit__(None, None, None)
        assert REQUEST.get() is None

    async def test_an_engine_in_this_process_hides_the_host_and_its_task_g21(self) -> None:
        class InMemory(FakeQueue):
            async def publish(self, prepared: Call, headers: Mapping[str, str]) -> None:
                with running(self, prepared.function, prepared.id, headers):
                    seen.append(current_task())
                    with pytest.raises(NoCurrentError):
                        current_host()
                    async with TaskHost() as own:
                        await own.schedule(inner, own)
                with pytest.raises(NoCurrentError):
                    await anyio.to_thread.run_sync(partial(Context().run, current_host))

        async def inner(own: TaskHost) -> None:
            assert (current_task().func, current_host()) == (inner, own)

        seen: list[Any] = []
        async with TaskHost(queues=[InMemory()]) as host:
            task = host.schedule(archive, 1)
            with pytest.raises(TaskHandedOver):
                await task
        assert [view.message_id for view in seen] == [task.message_id]


class Told(TaskObserver):
    def __init__(self) -> None:
        self.hooks: list[tuple[Any, ...]] = []

    def scheduled(self, task: Task[Any], scope: Scope | None) -> None:
        self.hooks.append(("scheduled", task.status.value))

    def due(self, task: Task[Any]) -> None:
        self.hooks.append(("due", task.status.value))

    def started(self, task: Task[Any]) -> None:
        self.hooks.append(("started", task.attempt))

    def attempt_ended(self, task: Task[Any], error: BaseException | None, retry_after: float | None) -> None:
        self.hooks.append(("attempt_ended", type(error), retry_after))

    def ended(self, task: Task[Any]) -> None:
        self.hooks.append(("ended", task.status.value))


class TestObservers:
    @pytest.mark.parametrize(
        ("options", "rest"),
        [
            ({}, [("attempt_ended", type(None), None), ("ended", "handed_over")]),
            (
                {"then": "refuse", "deadline": 0.01},
                [("attempt_ended", HandOverFailed, None), ("ended", "failed")],
            ),
            (
                {"then": "refuse", "deadline": 0.01, "fallback": "here"},
                [
                    ("attempt_ended", HandOverFailed, 0),
                    ("started", 1),
                    ("attempt_ended", type(None), None),
                    ("ended", "succeeded"),
                ],
            ),
        ],
    )
    async def test_observers_hear_of_a_hand_over_in_the_order_of_other_tasks_g20_g21(
        self, options: dict[str, Any], rest: list[Any]
    ) -> None:
        told = Told()
        async with TaskHost(queues=[FakeQueue(**options)], observers=[told]) as host:
            async with host.scope() as tasks, tasks.route():
                task = tasks.after_route.schedule(archive, 1)
            await task.wait()
        assert told.hooks == [("scheduled", "new"), ("due", "starting"), ("started", 1), *rest]

    @pytest.mark.parametrize("mode", ["normal", "inline", "never"])
    async def test_a_recorder_sees_hand_overs_in_each_mode_g20_g21(self, mode: Any) -> None:
        queue = FakeQueue()
        async with TaskHost(queues=[queue]) as host:
            with record_tasks(host, run=mode) as recorded:
                async with host.scope() as tasks, tasks.route():
                    tasks.after_response.schedule(send_mail, "ada", subject="news")
                if mode == "normal":
                    await recorded.await_all()
                recorded.assert_scheduled(send_mail, "ada", subject="news")
                assert len(recorded) == 1
                assert len(recorded.handed_over) == (mode != "never")
        assert queue.args == ([] if mode == "never" else [("ada",)])
        assert RAN == []

    @pytest.mark.parametrize("function", [send_mail, archive])
    async def test_a_held_task_of_a_queue_runs_here_when_a_test_calls_it_g17_g21(self, function: Any) -> None:
        queue = FakeQueue(carry={"x": REQUEST})
        async with TaskHost(queues=[queue], config=TaskConfig(retry=retry(attempts=2))) as host:
            with record_tasks(host, run="never"):
                async with host.scope() as tasks, tasks.route():
                    task = tasks.after_response.schedule(function, 7)
                message = task.message_id
                assert await task() == 7
            assert (task.status, task.message_id) == (S.SUCCEEDED, message)
        assert queue.attempts == []

    async def test_held_tasks_of_a_queue_are_handed_over_by_their_host_or_run_here_g17_g21(self) -> None:
        queue = FakeQueue()
        with record_tasks(run="never") as recorded:
            async with TaskHost(queues=[queue]) as host:
                first = host.schedule(archive, 1)
                await recorded.arun_all()
                second = host.schedule(archive, 2)
            await recorded.arun_all()
        assert (first.status, second.status) == (S.HANDED_OVER, S.SUCCEEDED)
        assert (queue.args, RAN) == ([(1,)], [("archive", 2)])


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_queue_may_have_any_attribute_of_its_own_g21(moment: str) -> None:
    class Own(Queue):
        def __init__(self) -> None:
            if moment == "before":
                self._options = "mine"
            super().__init__("own", {archive: {"priority": 3}})
            if moment == "after":
                self._options = "mine"

        def prepare(self, call: Call, /) -> Any:
            return call.options

        async def publish(self, prepared: Any, _headers: Mapping[str, str], /) -> None:
            published.append((prepared, self._options))

    published: list[Any] = []
    async with TaskHost(queues=[Own()]) as host:
        await host.schedule(archive, 1).wait()
    assert published == [({"priority": 3}, "mine")]


def test_a_queue_that_lacks_a_method_cannot_be_made_g21() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Queue("later", [send_mail])  # type: ignore[abstract]
    assert tests.queueing.send_mail is send_mail


async def test_a_connection_keeps_no_context_of_the_task_that_has_opened_it_g2_g21() -> None:
    """On asyncio a connection keeps the context in which it was made, for as long as it is open."""

    class Connects(FakeQueue):
        async def open(self) -> None:
            await super().open()
            seen.append(REQUEST.get())

    seen: list[str | None] = []
    queue = Connects()
    queue.on_attempt = lambda _: seen.append(REQUEST.get())
    async with TaskHost(queues=[queue]) as host:
        REQUEST.set("r1")
        await host.schedule(archive, 0).wait()
    assert seen == [None, "r1"]


@pytest.mark.parametrize("step", ["confirm", "refuse", "hang", "group", "publish, then fail"])
@pytest.mark.parametrize("fallback", [None, "here"])
async def test_a_hand_over_that_has_ended_is_no_reference_cycle_g2_g21(
    fallback: Any, step: Any, backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend_name == "trio" and step != "confirm":
        pytest.skip("trio's own frames, to which those of the queue refer, have the native task")
    # pytest keeps the log records. A record has the exception, and the exception has frames.
    monkeypatch.setattr(logging.getLogger("taskphase"), "disabled", True)
    queue = FakeQueue(then=step, deadline=0.02, attempt_timeout=0.005, fallback=fallback)
    async with TaskHost(queues=[queue], config=TaskConfig(on_error=ignore)) as host:
        await host.schedule(archive, 0).wait()
        await turns()
        gc.collect()
        gc.disable()
        try:
            task = host.schedule(archive, 1)
            gone = weakref.ref(task)
            await task.wait()
            assert task.status is not S.CANCELLED
            del task
            with anyio.fail_after(5):  # asyncio keeps the context of a timer, also of a cancelled one, until its time
                while gone() is not None:
                    await anyio.sleep(0.001)
        finally:
            gc.enable()


async def test_a_thread_that_schedules_learns_at_once_that_a_call_is_refused_g8_g21() -> None:
    queue = FakeQueue()
    errors: list[Exception] = []

    def work(host: TaskHost) -> None:
        try:
            host.schedule(archive, None)  # type: ignore[arg-type]
        except TasksUnportableError as exc:
            errors.append(exc)

    async with TaskHost(queues=[queue]) as host:
        thread = threading.Thread(target=work, args=(host,))
        thread.start()
        await anyio.to_thread.run_sync(thread.join, 10)
    assert len(errors) == 1
