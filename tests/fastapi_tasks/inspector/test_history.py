"""G3, G4, G13, G16, G19, G20: the history of an inspector tells the truth about each task, in bounded memory."""

from __future__ import annotations

import gc
import json
import logging
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest.mock import Mock
from weakref import ref

import anyio
import pytest
from tests.backends import turns, until
from tests.handed import DownQueue, ListQueue, send_mail

from fastapi_tasks import (
    Limit,
    Task,
    TaskHost,
    TasksClosedError,
    TasksSaturatedError,
    TaskStatus,
    current_task,
    retry,
)
from fastapi_tasks.inspector import History
from fastapi_tasks.inspector._picture import MOST_ALIVE, Picture
from fastapi_tasks.inspector._stories import MOST_MEASURED, Notes, copied

DRAIN = 5  # seconds for what a test has left; nothing needs them


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="taskphase")


@pytest.fixture
def history() -> History:
    return History()


async def look(history: History, host: TaskHost, after: str = "") -> dict[str, Any]:
    """Return what the page would show."""
    text = "".join([piece async for piece in Picture(history, host, after).pieces()])
    return json.loads(text, parse_constant=_refuse)  # type: ignore[no-any-return]


def _refuse(constant: str) -> None:
    """Python reads Infinity and NaN, which are no JSON: no browser does."""
    raise AssertionError(constant)


async def rows(history: History, host: TaskHost) -> dict[str, dict[str, Any]]:
    """Return the tasks by their names, those that are alive included."""
    picture = await look(history, host)
    return {row["name"] or row["function"].rpartition(".")[2]: row for row in (*picture["tasks"], *picture["alive"])}


def kinds(row: dict[str, Any]) -> list[str]:
    """Return the kinds of the segments, and assert that they begin one after the other, and before the end."""
    segments = row["segments"]
    assert segments[0][1] == 0
    beginnings = [segment[1] for segment in segments]
    if row["ended"] is not None:
        beginnings.append(row["ended"])
    assert beginnings == sorted(beginnings)
    return [segment[0] for segment in segments]


async def work() -> None:
    await anyio.lowlevel.checkpoint()


async def fail() -> None:
    raise LookupError("no such order")


def sync_work() -> None:
    pass


class TestHandOvers:
    async def test_a_task_that_is_handed_over_has_a_bar_an_end_and_its_message_g20_g21(self, history: History) -> None:
        later = ListQueue("later", [send_mail])
        later.go_on = anyio.Event()
        async with TaskHost(observers=[history], queues=[later]) as host:
            task = host.task(name="mail").schedule(send_mail)
            await until(lambda: task.status == "handing_over")
            picture = await look(history, host)
            [row] = picture["alive"]
            assert (kinds(row), row["status"], row["queue"]) == (["start", "handover"], "handing_over", "later")
            assert row["attempt"] == 0
            assert row["message_id"] == task.message_id
            assert row["where"][0] == "the queue 'later'"
            assert "handed.py" in row["where"][1]
            assert picture["counts"]["handing_over"] == 1
            later.go_on.set()
            await task.wait()
            picture = await look(history, host)
            [row] = picture["tasks"]
        assert (kinds(row), row["status"], row["queue"]) == (["start", "handover"], "handed_over", "later")
        assert (row["message_id"], row["attempt"], row["error"]) == (task.message_id, 0, None)
        assert (picture["counts"]["handed_over"], picture["counts"]["handing_over"]) == (1, 0)
        assert picture["durations"] is None  # nothing has run

    async def test_a_hand_over_that_waits_for_its_turn_shows_its_queue_alone_g20_g21(self, history: History) -> None:
        class Narrow(ListQueue):
            attempts_at_once = 1

        later = Narrow("later", [send_mail])
        later.go_on = anyio.Event()
        async with TaskHost(observers=[history], queues=[later]) as host:
            tasks = [host.task(name=name).schedule(send_mail) for name in ("first", "second")]
            await until(lambda: all(task.status == "handing_over" for task in tasks))
            found = await rows(history, host)
            later.go_on.set()
            for task in tasks:
                await task.wait()
        assert (len(found["first"]["where"]) > 1, found["second"]["where"]) == (True, ["the queue 'later'"])

    async def test_a_refused_hand_over_is_a_failed_bar_before_the_run_g20_g21(self, history: History) -> None:
        down = DownQueue("down", [send_mail], fallback="here")
        async with TaskHost(observers=[history], queues=[down], drain_timeout=DRAIN) as host:
            ran = host.task(name="mail").schedule(send_mail)
            await ran.wait()
            row = (await rows(history, host))["mail"]
        assert kinds(row) in (["start", "handover", "retry", "start", "run"], ["start", "handover", "retry", "run"])
        assert row["segments"][1][2:] == ["HandOverFailed"]
        assert (row["status"], row["attempt"]) == ("succeeded", 1)
        assert (row["queue"], row["message_id"]) == (None, ran.message_id)

    async def test_a_hand_over_that_fails_is_a_failure_without_arguments_g4_g20_g21(self, history: History) -> None:
        async with TaskHost(observers=[history], queues=[DownQueue("down", [send_mail])]) as host:
            task = host.schedule(send_mail, 123456)
            await task.wait()
            picture = await look(history, host)
        [group] = picture["failures"]
        assert (group["error"], group["function"]) == ("HandOverFailed", "tests.handed.send_mail")
        assert str(task.message_id) in group["message"]
        assert "123456" not in json.dumps(picture)

    async def test_only_a_task_of_a_queue_shows_a_queue_and_a_message_g20_g21(self, history: History) -> None:
        later = ListQueue("later", [send_mail])
        async with TaskHost(observers=[history], queues=[later], drain_timeout=DRAIN) as host:
            async with host.scope() as scope, scope.route():
                scope.task(name="mail").after_response.schedule(send_mail)
                scope.task(name="here").after_response.schedule(work)
                found = await rows(history, host)
            await until(lambda: not host.tasks())
        assert (found["mail"]["queue"], "queue" in found["here"], "message_id" in found["here"]) == (
            "later",
            False,
            False,
        )


class TestTheStoryOfATask:
    async def test_a_task_that_succeeds_has_started_and_run_g20(self, history: History) -> None:
        async with TaskHost(observers=[history]) as host:
            await host.schedule(work)
            found = await rows(history, host)
        row = found["work"]
        assert kinds(row) == ["start", "run"]
        assert (row["status"], row["attempt"], row["phase"], row["error"]) == ("succeeded", 1, "immediate", None)
        assert row["function"].endswith("test_history.work")

    @pytest.mark.parametrize("function", [sync_work, partial(work), lambda: work()])
    async def test_each_kind_of_function_has_its_name_g7(self, history: History, function: Callable[..., Any]) -> None:
        async with TaskHost(observers=[history]) as host:
            task = host.schedule(function)
            await task
            [row] = (await look(history, host))["tasks"]
        assert row["function"] == task.function

    async def test_a_deferred_task_waits_for_its_phase_g1_g20(self, history: History) -> None:
        async with TaskHost(observers=[history]) as host:
            async with host.scope() as scope:
                async with scope.route():
                    scope.task(name="route").after_route.schedule(work)
                    scope.task(name="response").after_response.schedule(work)
                    found = await rows(history, host)
                    assert kinds(found["route"]) == kinds(found["response"]) == ["phase"]
                    assert found["response"]["status"] == "deferred"
                found = await rows(history, host)
                assert found["response"]["status"] == "deferred"
            await until(lambda: not host.tasks())
            found = await rows(history, host)
        for name in ("route", "response"):
            assert kinds(found[name]) in (["phase", "start", "run"], ["phase", "run"])

    async def test_a_delay_a_limit_and_a_slot_are_told_apart_g15_g18_g19(self, history: History) -> None:
        limit = Limit(1)
        go_on = anyio.Event()
        async with TaskHost(observers=[history], max_running=2, drain_timeout=DRAIN) as host:
            host.task(name="first", limit=limit).schedule(go_on.wait)
            host.task(name="other").schedule(go_on.wait)
            host.task(name="limited", limit=limit).schedule(work)
            host.task(name="slot").schedule(work)
            host.task(name="delayed", delay=0.001, limit=limit).schedule(work)
            await until(lambda: host.limited == 2)
            found = await rows(history, host)
            assert [found[name]["status"] for name in ("limited", "slot", "delayed")] == [
                "limited",
                "waiting",
                "limited",
            ]
            go_on.set()
            await until(lambda: not host.tasks())
            found = await rows(history, host)
        assert kinds(found["limited"])[0] == "limit"
        assert kinds(found["slot"])[0] == "slot"
        assert kinds(found["delayed"])[:2] == ["delay", "limit"]
        assert all(kinds(found[name])[-1] == "run" for name in ("limited", "slot", "delayed"))

    async def test_each_attempt_and_each_pause_is_in_the_story_g16(self, history: History) -> None:
        policy = retry(attempts=3, backoff=0.001, jitter=False)
        async with TaskHost(observers=[history]) as host:
            await host.task(name="a", retry=policy).schedule(fail).wait()
            row = (await rows(history, host))["a"]
        assert [kind for kind in kinds(row) if kind != "start"] == ["run", "retry", "run", "retry", "run"]
        assert [segment[2:] for segment in row["segments"] if segment[0] == "run"] == [
            ["LookupError"],
            ["LookupError"],
            [],
        ]
        assert (row["attempt"], row["status"]) == (3, "failed")

    async def test_the_error_handler_has_a_segment_of_its_own_g4(self, history: History) -> None:
        during: list[Any] = []

        async def handle(task: object, error: object) -> None:
            during.append((await rows(history, host))["a"])

        async with TaskHost(observers=[history]) as host:
            await host.task(name="a", on_error=handle).schedule(fail).wait()
            row = (await rows(history, host))["a"]
        assert during[0]["status"] == "handling"
        assert kinds(row)[-2:] == ["run", "handler"]

    async def test_a_failure_has_its_type_message_and_line_g4(self, history: History) -> None:
        async with TaskHost(observers=[history]) as host:
            for _ in range(3):
                await host.schedule(fail).wait()
            picture = await look(history, host)
        [group] = picture["failures"]
        assert (group["count"], group["error"], group["message"]) == (3, "LookupError", "no such order")
        assert group["where"].endswith(f"test_history.py:{fail.__code__.co_firstlineno + 1} fail")
        assert picture["counts"]["failed"] == 3
        assert [row["error"] for row in picture["tasks"]] == 3 * [[group["error"], group["message"], group["where"]]]

    async def test_the_line_of_a_timeout_is_the_line_that_waited_g16(self, history: History) -> None:
        async def hang() -> None:
            await anyio.sleep_forever()

        async with TaskHost(observers=[history]) as host:
            await host.task(timeout=0.001).schedule(hang).wait()
            [group] = (await look(history, host))["failures"]
        assert group["error"] == "TimeoutError"
        assert re.search(r"test_history\.py:\d+ .*\.hang$", group["where"])

    async def test_cancelled_and_dropped_tasks_end_as_such_g2_g5(self, history: History) -> None:
        async with TaskHost(observers=[history]) as host:
            task = host.task(name="running").schedule(anyio.sleep_forever)
            await task.started.wait()
            task.cancel()
            await task.wait()
            async with host.scope() as scope:
                scope.task(name="dropped", when="failure").after_route.schedule(work)
                scope.task(name="early").after_response.schedule(work).cancel()
            found = await rows(history, host)
        assert {name: row["status"] for name, row in found.items()} == {
            "running": "cancelled",
            "dropped": "dropped",
            "early": "cancelled",
        }
        assert kinds(found["running"])[-1] == "cancel"
        assert kinds(found["dropped"]) == kinds(found["early"]) == ["phase"]
        assert found["dropped"]["attempt"] == 0

    async def test_a_task_that_the_drain_cancels_is_in_the_history_g9(self, history: History) -> None:
        async with TaskHost(observers=[history]) as host:
            host.task(name="a").schedule(anyio.sleep_forever)
        assert (await rows(history, host))["a"]["status"] == "cancelled"
        assert (await look(history, host))["draining"] is True

    async def test_a_task_of_a_thread_is_in_the_history_g8(self, history: History) -> None:
        async with TaskHost(observers=[history], drain_timeout=DRAIN) as host:
            await anyio.to_thread.run_sync(lambda: host.task(name="a").schedule(work))
            await until(lambda: not host.tasks())
            assert kinds((await rows(history, host))["a"])[-1] == "run"


class TestAlive:
    async def test_a_waiting_task_shows_its_line_g17(self, history: History) -> None:
        async def outer() -> None:
            await inner()

        async def inner() -> None:
            await anyio.sleep_forever()

        async with TaskHost(observers=[history]) as host:
            await host.task(name="a", shield=2).schedule(outer).started.wait()
            await turns()
            row = (await rows(history, host))["a"]
        assert [line.rpartition(".")[2] for line in row["where"][:2]] == ["outer", "inner"]
        assert (row["shield"], row["attempt"], row["ended"]) == (2, 1, None)

    @pytest.mark.parametrize(
        ("shield", "shown"), [(None, False), (False, False), (0, False), (True, True), (math.inf, True), (0.5, 0.5)]
    )
    async def test_a_shield_is_shown_as_it_counts_g9(
        self, history: History, shield: bool | float | None, shown: bool | float
    ) -> None:
        async with TaskHost(observers=[history]) as host:
            task = host.task(name="a", shield=shield).schedule(anyio.sleep_forever)
            row = (await rows(history, host))["a"]
            assert (row["shield"], type(row["shield"])) == (shown, type(shown))
            task.cancel()

    async def test_a_sync_task_waits_in_a_thread_g8(self, history: History) -> None:
        go_on = threading.Event()
        async with TaskHost(observers=[history]) as host:
            await host.task(name="a").schedule(go_on.wait, 10).started.wait()
            row = (await rows(history, host))["a"]
            go_on.set()
        assert row["where"] == ["in a thread"]

    async def test_a_task_of_a_process_waits_there_and_its_handler_in_a_thread_g4_g23(self, history: History) -> None:
        go_on, handled = threading.Event(), threading.Event()

        def handle(_task: Task[Any], _error: Exception) -> None:
            handled.set()
            go_on.wait(10)

        async with TaskHost(observers=[history]) as host:
            outside = host.task(name="a", run_in="process", on_error=handle)
            task = outside.schedule(time.sleep, 60)
            await task.started.wait()
            assert (await rows(history, host))["a"]["where"] == ["in a process"]
            task.cancel()
            await task.wait()
            outside.schedule(int, "no number")
            await anyio.to_thread.run_sync(handled.wait, 10)
            shown = [row["where"] for row in (await look(history, host))["alive"]]
            go_on.set()
        assert shown == [["in a thread"]]

    async def test_only_the_oldest_of_many_tasks_are_shown(self, history: History) -> None:
        async with TaskHost(observers=[history]) as host:
            tasks = [host.schedule(anyio.sleep_forever) for _ in range(MOST_ALIVE + 50)]
            picture = await look(history, host)
        assert [row["id"] for row in picture["alive"]] == [task.id for task in tasks[:MOST_ALIVE]]
        assert picture["more_alive"] == 50


class TestRequests:
    async def test_a_scope_is_a_request_with_its_steps_g20(self, history: History) -> None:
        info = {"method": "POST", "route": "/orders/{order}", "path": "/orders/7"}
        async with TaskHost(observers=[history], drain_timeout=DRAIN) as host:
            async with host.scope(info=info) as scope:
                async with scope.route():
                    scope.schedule(work)
                    [request] = (await look(history, host))["requests"]
                    assert (request["outcome"], request["ended"]) == (None, None)
                scope.note_first_message()
            [request] = (await look(history, host))["requests"]
        assert (request["method"], request["route"], request["path"]) == tuple(info.values())
        assert request["outcome"] == "succeeded"
        assert 0 <= request["route_ended"] <= request["first_message"] <= request["ended"]

    async def test_a_route_that_fails_is_the_outcome_of_its_request_g5_g20(self, history: History) -> None:
        async with TaskHost(observers=[history], drain_timeout=DRAIN) as host:
            with pytest.raises(LookupError):
                async with host.scope() as scope, scope.route():
                    scope.schedule(work)
                    raise LookupError
            [request] = (await look(history, host))["requests"]
        assert request["outcome"] == "failed"

    async def test_a_reader_hears_of_each_step_of_a_request_whose_tasks_have_ended_g20(self, history: History) -> None:
        async with TaskHost(observers=[history]) as host:
            async with host.scope() as scope:
                async with scope.route():
                    await scope.schedule(work).wait()
                    page = Picture(history, host)
                    steps = [await self.read_request(page)]
                steps.append(await self.read_request(page))
                scope.note_first_message()
                steps.append(await self.read_request(Picture(history, host, page.cursor)))
            steps += [await self.read_request(page), await self.read_request(page)]
        names = ("route_ended", "first_message", "ended")
        told = [None if step is None else [name for name in names if step[name] is not None] for step in steps]
        assert told == [[], [*names[:1]], [*names[:2]], [*names], None]

    @staticmethod
    async def read_request(page: Picture) -> dict[str, Any] | None:
        """Return the only request that the next event has; None without an event."""
        text = "".join([piece async for piece in page.pieces()])
        if not text:
            return None
        [request] = json.loads(text)["requests"]
        return request  # type: ignore[no-any-return]

    async def test_the_scopes_of_one_request_are_one_request(self, history: History) -> None:
        info: dict[str, Any] = {"path": "/"}
        async with TaskHost(observers=[history], drain_timeout=DRAIN) as host:
            async with host.scope(info=info) as first, host.scope(info=info) as second:
                first.schedule(work)
                second.schedule(work)
            assert len((await look(history, host))["requests"]) == 1

    async def test_a_request_without_tasks_is_not_kept(self, history: History) -> None:
        async with TaskHost(observers=[history]) as host:
            async with host.scope():
                pass
            assert (await look(history, host))["requests"] == []
        assert not history._stories.requests

    async def test_a_child_belongs_to_its_parent_and_its_request_g14(self, history: History) -> None:
        async def parent() -> None:
            host.task(name="child").schedule(work)

        async with TaskHost(observers=[history], drain_timeout=DRAIN) as host:
            async with host.scope() as scope:
                scope.task(name="parent").schedule(parent)
            host.task(name="alone").schedule(work)
            await until(lambda: not host.tasks())
            found = await rows(history, host)
        assert found["child"]["parent"] == found["parent"]["id"]
        assert found["child"]["request"] == found["parent"]["request"] is not None
        assert found["alone"]["request"] is found["alone"]["parent"] is None

    async def test_scopes_that_nobody_ends_are_bounded(self) -> None:
        history = History(keep=3)
        async with TaskHost(observers=[history], drain_timeout=DRAIN) as host:
            scopes = [host.scope() for _ in range(10)]
            for scope in scopes:
                scope.schedule(work)
            assert len(history._stories.requests) == 3


class TestBounds:
    async def test_the_rings_keep_the_last_tasks_and_failures(self) -> None:
        history = History(keep=5, failures=2)
        async with TaskHost(observers=[history]) as host:
            failed = [host.schedule(fail) for _ in range(4)]
            tasks = [host.schedule(work) for _ in range(8)]
            await until(lambda: not host.tasks())
            for func, ended in ((fail, failed), (work, tasks)):
                for _ in range(8):
                    ended.append(host.schedule(func))
                    await ended[-1].wait()
            picture = await look(history, host)
        assert [row["id"] for row in picture["tasks"]] == [task.id for task in tasks[-5:]]
        [group] = picture["failures"]
        assert (group["count"], group["task"]) == (2, failed[-1].id)

    async def test_a_history_keeps_no_task_and_no_arguments_g20(self, history: History) -> None:
        class Argument:
            pass

        async def take(argument: Argument, *, other: Argument) -> Argument:
            return argument

        async def run(host: TaskHost) -> list[ref[Any]]:
            argument = Argument()

            async def closure() -> Argument:
                return argument

            calls = (partial(take, argument, other=argument), closure, lambda kept=argument: None)
            tasks = [host.schedule(take, argument, other=argument), *map(host.schedule, calls)]
            for task in tasks:
                await task
            return [ref(argument), *map(ref, tasks)]

        async with TaskHost(observers=[history]) as host:
            gone = await run(host)
            # The thread of a sync task forgets the task a moment after the task has ended.
            await until(lambda: gc.collect() >= 0 and not any(each() for each in gone))
        assert len(history._stories.ended) == 4

    async def test_many_tasks_leave_nothing_behind_but_the_rings(self) -> None:
        history = History(keep=20, failures=5)
        async with TaskHost(observers=[history], drain_timeout=DRAIN) as host:

            async def burst() -> int:
                async with host.scope() as scope:
                    for _ in range(50):
                        scope.after_response.schedule(fail)
                        scope.schedule(work)
                await until(lambda: not host.tasks())
                gc.collect()
                return len(gc.get_objects())

            for _ in range(2):
                before = await burst()
            for _ in range(8):
                after = await burst()
        assert after - before < 100
        assert (
            len(history._stories.ended),
            len(history._stories.failed),
            history._stories.alive,
            history._stories.requests,
        ) == (20, 5, {}, {})

    async def test_refusals_are_counted_and_bounded_g15(self) -> None:
        history = History(keep=1)
        async with TaskHost(observers=[history], max_running=1, max_pending=0) as host:
            host.schedule(anyio.sleep_forever)
            for func in (work, work, fail):
                with pytest.raises(TasksSaturatedError):
                    host.schedule(func)
            [[function, error, _, count]] = (await look(history, host))["refused"]
        assert (function.rpartition(".")[2], error, count) == ("work", "TasksSaturatedError", 2)

    async def test_refusals_with_different_messages_are_one_row_with_the_last_message_g15(self) -> None:
        history = History(keep=2)
        async with TaskHost(observers=[history]) as host:
            for number in range(10):
                history.refused(work, TasksClosedError(f"{number} tasks wait"))
            rows = (await look(history, host))["refused"]
        assert [row[1:] for row in rows] == [["TasksClosedError", "9 tasks wait", 10]]

    @pytest.mark.parametrize("wrong", [0, -1])
    def test_a_history_keeps_one_task_at_least(self, wrong: int) -> None:
        with pytest.raises(ValueError, match="keep must be 1 or more"):
            History(keep=wrong)
        with pytest.raises(ValueError, match="failures must be 1 or more"):
            History(failures=wrong)

    def test_the_settings_have_their_types(self) -> None:
        with pytest.raises(TypeError, match="keep must be an int"):
            History(keep=1.5)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="arguments must be a bool"):
            History(arguments=1)  # type: ignore[arg-type]


class TestArguments:
    async def test_arguments_are_off_by_default_g4(self, history: History) -> None:
        async def take(secret: str) -> None: ...

        async with TaskHost(observers=[history]) as host:
            await host.schedule(take, "hush")
            assert "hush" not in json.dumps(await look(history, host))

    async def test_arguments_are_shown_if_asked_for(self) -> None:
        class Bad:
            def __repr__(self) -> str:
                raise RuntimeError

        async def take(*args: object, **kwargs: object) -> None: ...

        history = History(arguments=True)
        async with TaskHost(observers=[history]) as host:
            task = host.schedule(take, 7, "x" * 1000, Bad(), to="ada")
            [alive] = (await look(history, host))["alive"]
            await task
            [row] = (await look(history, host))["tasks"]
        assert row["arguments"] == alive["arguments"]
        assert row["arguments"].startswith("7, 'xx")
        assert row["arguments"].endswith(", to='ada'")
        assert "<Bad instance at" in row["arguments"]
        assert len(row["arguments"]) < 300
        assert not history._stories.alive

    @pytest.mark.parametrize(
        ("argument", "shown"),
        [
            (b"x" * 1000, f"b'{'x' * 26}...{'x' * 28}'"),
            (bytearray(b"x" * 1000), f"bytearray(b'{'x' * 16}...{'x' * 27}')"),
            (dict.fromkeys(range(1000)), "{0: None, 1: None, 2: None, 3: None, ...}"),
            (set(range(1000)), "{0, 1, 2, 3, 4, 5, ...}"),
            (frozenset(range(1000)), "frozenset({0, 1, 2, 3, 4, 5, ...})"),
            ((b"short", {1: 2}, {3}, frozenset({4})), "(b'short', {1: 2}, {3}, frozenset({4}))"),
        ],
        ids=lambda value: type(value).__name__,
    )
    async def test_an_argument_may_be_a_whole_file_g20(self, argument: object, shown: str) -> None:
        """The text is made in `schedule()`, so only the first items are looked at."""

        async def take(argument: object) -> None: ...

        history = History(arguments=True)
        async with TaskHost(observers=[history]) as host:
            await host.schedule(take, argument)
            [row] = (await look(history, host))["tasks"]
        assert row["arguments"] == shown

    async def test_of_a_large_argument_only_a_few_items_are_looked_at_g20(self) -> None:
        class Item:
            compared = shown = 0

            def __lt__(self, other: object) -> bool:
                Item.compared += 1
                return False

            def __repr__(self) -> str:
                Item.shown += 1
                return "item"

        async def take(*arguments: object) -> None: ...

        items = [Item() for _ in range(1000)]
        async with TaskHost(observers=[History(arguments=True)]) as host:
            await host.schedule(take, dict.fromkeys(items), set(items), frozenset(items), items)
        assert Item.compared < 100
        assert Item.shown < 100


class TestUserCode:
    async def test_names_are_escaped_and_cut_off_g4(self, history: History) -> None:
        name = "<b>\n\x1b[31m\u202e" + "x" * 1000
        async with TaskHost(observers=[history]) as host:
            await host.task(name=name).schedule(work)
            [row] = (await look(history, host))["tasks"]
        assert row["name"].startswith("<b>\\n\\x1b[31m\\u202e")
        assert len(row["name"]) < 400

    @pytest.mark.parametrize("error", [RuntimeError, SystemExit])
    async def test_an_exception_without_a_message_is_shown_g3(
        self, history: History, error: type[BaseException]
    ) -> None:
        class Mute(Exception):
            def __str__(self) -> str:
                raise error

        async def mute() -> None:
            raise Mute

        async with TaskHost(observers=[history]) as host:
            await host.schedule(mute).wait()
            await host.schedule(work)
            picture = await look(history, host)
        assert [group["message"] for group in picture["failures"]] == ["(the message cannot be read)"]
        assert len(picture["tasks"]) == 2

    async def test_an_exception_whose_class_has_no_readable_name_is_shown_g3(self, history: History) -> None:
        class Nameless(type):
            @property
            def __name__(cls) -> str:  # type: ignore[override]
                raise RuntimeError

        class Hidden(Exception, metaclass=Nameless):
            pass

        async def hide() -> None:
            raise Hidden

        async with TaskHost(observers=[history]) as host:
            await host.schedule(hide).wait()
            await host.schedule(work)
            picture = await look(history, host)
        assert [group["error"] for group in picture["failures"]] == ["Hidden"]
        assert len(picture["tasks"]) == 2

    async def test_an_exception_whose_attributes_raise_is_shown_g3(self, history: History) -> None:
        class Odd(Exception):
            __traceback__ = __cause__ = __context__ = __class__ = property(lambda _: _no())  # type: ignore[assignment]

        def _no() -> None:
            raise RuntimeError

        async def fail_oddly() -> None:
            raise Odd

        async with TaskHost(observers=[history]) as host:
            await host.schedule(fail_oddly).wait()
            await host.schedule(work)
            picture = await look(history, host)
        [group] = picture["failures"]
        assert group["error"] == "Odd"
        assert group["where"].endswith("fail_oddly")
        assert len(picture["tasks"]) == 2

    async def test_a_function_without_a_module_is_shown_by_its_name(self, history: History) -> None:
        async def alone() -> None: ...

        alone.__module__ = None  # type: ignore[assignment]
        async with TaskHost(observers=[history]) as host:
            history.refused(alone, TasksClosedError("closed"))
            [[function, *_]] = (await look(history, host))["refused"]
        assert function == alone.__qualname__

    async def test_a_mock_that_claims_to_be_a_function_is_shown_by_its_class_g7(self, history: History) -> None:
        async with TaskHost(observers=[history]) as host:
            history.refused(Mock(spec=work), TasksClosedError("closed"))
            [[function, *_]] = (await look(history, host))["refused"]
        assert function == "Mock"

    async def test_a_text_that_looks_like_a_status_is_only_a_text_g3(self) -> None:
        text = TaskStatus.RUNNING.value

        class Shown:
            def __repr__(self) -> str:
                return text

        async def take(shown: Shown) -> None:
            if current_task().attempt == 1:
                raise type(text, (Exception,), {})

        history = History(arguments=True)
        async with TaskHost(observers=[history]) as host:
            host.task(name=text, delay=60).schedule(take, Shown()).cancel()
            await until(lambda: not host.tasks())
            assert (await look(history, host))["durations"] is None
            await host.task(name=text, retry=retry(attempts=2, backoff=0)).schedule(take, Shown())
            picture = await look(history, host)
        assert [row["attempt"] for row in picture["tasks"]] == [0, 2]
        assert 0 < picture["durations"]["p50"] < 60

    async def test_facts_of_a_scope_that_are_no_texts_are_left_out(self, history: History) -> None:
        async with TaskHost(observers=[history], drain_timeout=DRAIN) as host:
            async with host.scope(info={"queue": "mail", "message": object()}) as scope:
                scope.schedule(work)
            [request] = (await look(history, host))["requests"]
        assert request["label"] == "mail"


class TestSeveralHosts:
    async def test_hosts_share_a_history_g13(self, history: History) -> None:
        async with TaskHost(observers=[history]) as first, TaskHost(observers=[history]) as second:
            await first.task(name="first").schedule(work)
            await second.task(name="second").schedule(work)
            assert set(await rows(history, first)) == {"first", "second"}

    async def test_a_host_in_another_thread_shares_a_history_g13(self, history: History) -> None:
        has_begun, go_on = threading.Event(), threading.Event()

        def run() -> None:
            async def main() -> None:
                async with TaskHost(observers=[history], drain_timeout=DRAIN) as other:
                    await other.task(name="there").schedule(anyio.lowlevel.checkpoint)
                    waits = other.task(name="waits").schedule(anyio.sleep_forever)
                    await waits.started.wait()
                    has_begun.set()
                    await anyio.to_thread.run_sync(go_on.wait, 10)
                    waits.cancel()

            anyio.run(main)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            async with TaskHost(observers=[history]) as host:
                await anyio.to_thread.run_sync(has_begun.wait, 10)
                found = await rows(history, host)
        finally:
            go_on.set()
            thread.join(10)
        assert found["there"]["status"] == "succeeded"
        assert (found["waits"]["status"], found["waits"]["where"]) == ("running", [])  # its loop is not this one

    async def test_a_task_whose_loop_has_gone_is_forgotten(self, history: History) -> None:
        class Lost:
            pass

        async with TaskHost(observers=[history]) as host:
            history._stories.alive[1] = [ref(Lost()), None, 0.0, None]
            gc.collect()
            assert (await look(history, host))["alive"] == []
        assert history._stories.alive == {}


class TestThreads:
    async def test_a_look_at_tasks_begins_anew_if_a_thread_schedules_meanwhile_g8(self, history: History) -> None:
        looks = 0

        def values() -> Iterator[int]:
            nonlocal looks
            looks += 1
            yield 1
            if looks == 1:
                raise RuntimeError("dictionary changed size during iteration")

        assert copied(values) == [1]
        assert looks == 2

    async def test_threads_schedule_while_the_page_is_read_g8(self, history: History) -> None:
        def schedule() -> None:
            for _ in range(1000):
                host.schedule(work)

        async with TaskHost(observers=[history], drain_timeout=DRAIN) as host, anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, schedule)
            known: set[int] = set()
            cursor = ""
            while len(known) < 1000:
                await anyio.sleep(0.001)  # without a pause the system may let the thread wait for seconds
                picture = await look(history, host, cursor)
                cursor = picture["cursor"]
                known.update(row["id"] for row in picture["tasks"])

    async def test_a_reader_gets_each_task_of_each_thread_once_g8_g13(self, history: History) -> None:
        def run_host() -> None:
            async def main() -> None:
                async with TaskHost(observers=[history], drain_timeout=DRAIN) as other:
                    for _ in range(300):
                        await other.schedule(work)

            anyio.run(main)

        async with TaskHost(observers=[history]) as host, anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(anyio.to_thread.run_sync, run_host)
            told: list[int] = []
            cursor = ""
            while len(told) < 600:
                await anyio.sleep(0.001)
                picture = await look(history, host, cursor)
                cursor = picture["cursor"]
                told += [row["id"] for row in picture["tasks"]]
        assert len(set(told)) == 600


class TestPictures:
    async def test_a_reader_gets_each_task_once(self, history: History) -> None:
        async with TaskHost(observers=[history]) as host:
            await host.task(name="a").schedule(work)
            first = await look(history, host)
            await host.task(name="b").schedule(work)
            second = await look(history, host, first["cursor"])
            third = await look(history, host, f"other:12,{second['cursor']}")
        assert [first["whole"], second["whole"], third["whole"]] == [True, False, False]
        assert [row["name"] for row in second["tasks"]] == ["b"]
        assert third["tasks"] == []

    @pytest.mark.parametrize("place", ["", "x", "1", "1.x", "1.²", "1." + "9" * 30, "9" * 30 + ".1"])
    async def test_an_unknown_cursor_gets_everything(self, history: History, place: str) -> None:
        async with TaskHost(observers=[history]) as host:
            await host.schedule(work)
            worker = (await look(history, host))["worker"]
            for cursor in (f"{worker}:{place}", f"other:{place}", f",{place},"):
                picture = await look(history, host, cursor)
                assert picture["whole"] is True
                assert len(picture["tasks"]) == 1

    async def test_nothing_is_written_if_nothing_has_changed(self, history: History) -> None:
        async with TaskHost(observers=[history]) as host:
            task = host.schedule(anyio.sleep_forever)
            await task.started.wait()
            await turns()
            picture = Picture(history, host)
            assert [piece async for piece in picture.pieces()]
            assert [piece async for piece in picture.pieces()] == []
            task.cancel()
            await task.wait()
            assert [piece async for piece in picture.pieces()]

    async def test_a_later_look_reads_only_the_end_of_a_large_ring_g20(self) -> None:
        class Ring(deque[Notes]):
            read = 0

            def __iter__(self) -> Iterator[Notes]:
                raise AssertionError("all of it")

            def __reversed__(self) -> Iterator[Notes]:
                for notes in super().__reversed__():
                    self.read += 1
                    yield notes

        history = History(keep=5000)
        history._stories.ended = ring = Ring(maxlen=5000)
        async with TaskHost(observers=[history]) as host:
            for _ in range(50):
                for task in [host.schedule(work) for _ in range(100)]:
                    await task
            first = await look(history, host)
            await host.task(name="new").schedule(work)
            ring.read = 0
            second = await look(history, host, first["cursor"])
        assert len(first["tasks"]) == 5000
        assert [row["name"] for row in second["tasks"]] == ["new"]
        assert ring.read <= MOST_MEASURED + 200

    async def test_percentiles_are_of_the_tasks_that_ran(self, history: History) -> None:
        async with TaskHost(observers=[history]) as host:
            assert (await look(history, host))["durations"] is None
            for _ in range(10):
                await host.schedule(work)
            await host.schedule(anyio.sleep, 0.02)
            durations = (await look(history, host))["durations"]
        assert 0 < durations["p50"] < 0.02
        assert durations["p50"] <= durations["p99"]
