"""G4, G7, G9, G14, G16, G17: a message about a common mistake says what to write instead, and shows no argument."""

from __future__ import annotations

import inspect
import pydoc
import re
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from inspect import Parameter, getattr_static, signature
from typing import Any, cast
from unittest.mock import Mock

import anyio
import pytest
from tests.backends import MOVABLE, turns

import taskphase
from taskphase import (
    Journal,
    Limit,
    NoCurrentError,
    Scope,
    Task,
    TaskConfig,
    TaskHost,
    TaskNotFinished,
    TaskObserver,
    TasksBatch,
    TasksClosedError,
    TasksScheduler,
    current_host,
    current_task,
    retry,
)
from taskphase._drive.job import Job
from taskphase.testing import JumpClock

HOUR = 3600.0  # seconds
SECRET = "4222-2222"
FIVE = ["after_response", "after_route", "schedule", "task", "tg"]


async def send(to: str, *, copies: int = 1) -> str:
    return to * copies


def spell(word: str) -> str:
    return word


async def rows(table: str) -> AsyncIterator[str]:
    yield table


def lines(path: str) -> Iterator[str]:
    yield path


def rename(name: str, to: str) -> None: ...


async def forward(to: str, **options: Any) -> None: ...


async def name_it(name: str, /, **options: Any) -> None: ...


def message_of(error: type[Exception], call: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    """Return the whole message of the exception of a call, as a traceback shows it."""
    with pytest.raises(error) as raised:
        call(*args, **kwargs)
    text = "".join(traceback.format_exception_only(raised.value)).strip()
    assert SECRET not in text
    return text.partition(": ")[2]


# Names of other libraries


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("add_task", "tasks.after_response.schedule(f, ...)"),
        ("create_task", ".schedule(f, ...)"),
        ("start_soon", ".schedule(f, ...)"),
    ],
)
async def test_a_name_of_another_library_is_no_attribute_but_the_error_has_the_name_here(
    name: str, instead: str
) -> None:
    async with TaskHost() as host, host.scope() as scope:
        for tasks in (scope, TasksScheduler(scope)):
            expected = f"{type(tasks).__name__!r} object has no attribute {name!r}: write {instead}"
            assert message_of(AttributeError, getattr, tasks, name) == expected
            assert not hasattr(tasks, name)
        for each in (host, TasksBatch(), scope.after_route, host.task(timeout=5)):
            text = message_of(AttributeError, getattr, each, name)
            assert text == f"{type(each).__name__!r} object has no attribute {name!r}: write .schedule(f, ...)"
        text = message_of(AttributeError, lambda: scope.task(timeout=5).add_task)  # type: ignore[attr-defined]
        assert text.endswith("has no attribute 'add_task': write tasks.task(...).after_response.schedule(f, ...)")


async def test_messages_call_a_later_phase_by_the_name_of_its_public_class() -> None:
    async with TaskHost() as host, host.scope() as scope:
        for phase in (scope.after_route, TasksScheduler(scope).after_response):
            for name in ("add_task", "enqueue"):
                text = message_of(AttributeError, getattr, phase, name)
                assert text.startswith(f"'TasksBatch' object has no attribute {name!r}")
            assert message_of(TypeError, phase).startswith("'TasksBatch' object is not callable")  # type: ignore[arg-type]
            assert "_PhaseBatch" not in repr(phase)


async def test_a_phase_in_the_wrong_place_is_no_attribute_but_the_error_says_where_it_is() -> None:
    async with TaskHost() as host, host.scope() as scope:
        for each in (host, host.task(timeout=5), TasksBatch()):
            for phase in ("after_route", "after_response"):
                assert message_of(AttributeError, getattr, each, phase) == (
                    f"{type(each).__name__!r} object has no attribute {phase!r}: write .schedule(f, ...). "
                    "For a phase take `tasks: Tasks`, or `async with host.scope() as tasks`"
                )
        text = message_of(AttributeError, getattr, TasksScheduler(scope), "immediate")
        assert text == "'TasksScheduler' object has no attribute 'immediate': write .schedule(f, ...)"


async def test_an_unknown_attribute_has_the_message_of_python() -> None:
    async with TaskHost() as host, host.scope() as scope:
        tasks = TasksScheduler(scope)
        assert message_of(AttributeError, lambda: tasks.enqueue) == (  # type: ignore[attr-defined]
            "'TasksScheduler' object has no attribute 'enqueue'"
        )


async def test_the_public_names_of_a_scheduler_are_five_and_those_of_its_definitions_four() -> None:
    async with TaskHost() as host, host.scope() as scope:
        tasks = TasksScheduler(scope)
        assert [name for name in dir(tasks) if not name.startswith("_")] == FIVE
        assert [name for name in dir(TasksScheduler) if not name.startswith("_")] == FIVE
        assert [name for name in dir(tasks.task()) if not name.startswith("_")] == FIVE[:-1]
        assert [name for name in dir(host.task()) if not name.startswith("_")] == ["schedule", "task"]
    assert not hasattr(Mock(spec=TasksScheduler), "add_task")
    for cls in (TasksScheduler, Scope, TaskHost, TasksBatch):
        assert not re.search(r"\badd_task\b", pydoc.render_doc(cls))


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("result", "`await task`, or task.return_value after its end"),
        ("done", "task.status"),
        ("add_done_callback", "`await task`, or .task(on_error=...) before .schedule()"),
    ],
)
async def test_a_name_of_an_asyncio_task_is_no_attribute_but_the_error_has_the_name_here(
    name: str, instead: str
) -> None:
    async with TaskHost(drain_timeout=5) as host:
        task = host.schedule(send, "ada")
        message = message_of(AttributeError, getattr, task, name)  # Python 3.12 adds the name of an attribute
        assert message.startswith(f"'Task' object has no attribute {name!r}: write {instead}")
        assert not hasattr(task, name)
        assert name not in dir(task)
    assert name not in dir(Task)
    assert f" {name} =" not in pydoc.plain(pydoc.render_doc(Task))


async def test_an_object_with_schedule_that_is_called_says_to_write_schedule() -> None:
    async with TaskHost() as host, host.scope() as scope:
        for tasks in (
            TasksScheduler(scope), scope.after_response, TasksBatch(), host.task(name="x"), scope.task().after_route
        ):  # fmt: skip
            text = f"{type(tasks).__name__!r} object is not callable: write .schedule(f, ...)"
            assert message_of(TypeError, tasks, send) == text  # type: ignore[arg-type]


async def test_a_setting_of_tasks_for_a_host_says_that_it_goes_into_the_config() -> None:
    call: Any = TaskHost
    assert message_of(TypeError, call, timeout=3) == (
        "TaskHost() has no parameter 'timeout': write config=TaskConfig(timeout=...)"
    )
    assert message_of(TypeError, call, max_thread=3).startswith(
        "TaskHost() has no parameter 'max_thread' (did you mean max_threads=?); it has "
    )
    assert message_of(TypeError, call, TaskConfig()) == (
        "TaskHost() takes keyword arguments only: write TaskHost(drain_timeout=5)"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"config": {"timeout": 3}}, "config must be a TaskConfig, not {'timeout': 3}: write config=TaskConfig(...)"),
        ({"journal": "tasks.db"}, "journal must be a Journal, not 'tasks.db': write journal=Journal(file, functions)"),
    ],
)
def test_a_setting_of_a_host_with_the_wrong_type_has_the_right_one(settings: dict[str, Any], message: str) -> None:
    assert message_of(TypeError, cast(Any, TaskHost), **settings) == message


class Watches(TaskObserver): ...


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TaskHost(observers=cast(Any, Watches())), "observers must be a list, not Watches: write observers="),
        (lambda: TaskHost(queues=cast(Any, send)), "queues must be a list, not function: write queues="),
        (lambda: Journal("tasks.db", cast(Any, send)), "functions must be a list, not function: write functions="),
    ],
)
def test_an_element_in_place_of_a_list_is_refused_with_the_list(call: Callable[[], object], message: str) -> None:
    assert message_of(TypeError, call) == f"{message}[...]"


async def test_a_subclass_may_define_such_a_name_for_itself() -> None:
    class Migrated(TaskHost):
        def add_task(self, func: Callable[..., Any], *args: Any) -> Task[Any]:
            return self.schedule(func, *args)

    async with Migrated(drain_timeout=5) as host:
        assert "add_task" in dir(host)
        assert await host.add_task(send, "ada") == "ada"
    assert type(getattr_static(Migrated, "add_task")) is type(send)


# schedule()


@pytest.mark.parametrize(
    ("called", "args", "kwargs", "message"),
    [
        (
            send,
            (SECRET,),
            {"name": SECRET},
            (
                "send(to, *, copies=1) cannot be called like this: got an unexpected keyword argument "
                "'name'; settings go into .task(name=...), before .schedule()"
            ),
        ),
        (
            spell,
            (SECRET,),
            {"retry": 3, "delay": 3, "shield": True},
            (
                "spell(word) cannot be called like this: got an unexpected keyword argument 'retry'; settings go "
                "into .task(shield=..., retry=..., delay=...), before .schedule()"
            ),
        ),
        (
            spell,
            (),
            {"when": "always"},
            (
                "spell(word) cannot be called like this: missing a required argument: 'word'; settings go into "
                ".task(when=...), before .schedule()"
            ),
        ),
        (
            spell,
            (SECRET,),
            {"priority": 3},
            "spell(word) cannot be called like this: got an unexpected keyword argument 'priority'",
        ),
        (
            rename,
            (),
            {"name": SECRET, "key": SECRET},
            (
                "rename(name, to) cannot be called like this: missing a required argument: 'to'; settings go into "
                ".task(key=...), before .schedule()"
            ),
        ),
        (
            forward,
            (),
            {"name": SECRET},
            "forward(to, **options) cannot be called like this: missing a required argument: 'to'",
        ),
    ],
)
async def test_a_setting_among_the_arguments_gets_a_hint_where_settings_go_g7(
    called: Any, args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    async with TaskHost() as host, host.scope() as scope:
        for tasks in (host, scope, TasksScheduler(scope), scope.after_response, scope.task(), TasksBatch()):
            text = message_of(TypeError, tasks.schedule, called, *args, **kwargs)
            assert text == f"{__name__}.{message}"


@pytest.mark.parametrize("setting", signature(TaskConfig).parameters)
async def test_each_setting_is_known_as_a_setting_g7(setting: str) -> None:
    async with TaskHost() as host:
        text = message_of(TypeError, host.schedule, spell, SECRET, **{setting: SECRET})
    assert text.endswith(f"'{setting}'; settings go into .task({setting}=...), before .schedule()")


async def test_a_function_that_accepts_the_name_of_a_setting_gets_the_argument_g7() -> None:
    async def say(*, name: str, **more: Any) -> str:
        return name + more["key"]

    async with TaskHost() as host:
        assert await host.schedule(say, name="ada", key="!") == "ada!"
        await host.schedule(name_it, "ada", name="x")


NOT_THE_RESULT = "pass the function and its arguments, not the result of calling it"


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, f"expected a callable, not NoneType: {NOT_THE_RESULT}"),
        (17, f"expected a callable, not int: {NOT_THE_RESULT}"),
        ([SECRET], f"expected a callable, not list: {NOT_THE_RESULT}"),
        (
            SECRET,
            (
                "expected a callable, not str: pass the function and its arguments, not the name of the function or "
                "the result of calling it"
            ),
        ),
    ],
)
async def test_a_result_instead_of_a_function_is_refused_with_a_hint_g7(result: Any, message: str) -> None:
    async with TaskHost() as host:
        assert message_of(TypeError, host.schedule, result) == message
        assert message_of(TypeError, host.schedule, result, 1) == message


async def test_a_coroutine_instead_of_a_function_is_refused_with_a_hint_and_closed_g7() -> None:
    coroutine: Any = send(SECRET)
    async with TaskHost() as host:
        text = message_of(TypeError, host.schedule, coroutine)
    assert text == f"expected a callable, not coroutine: {NOT_THE_RESULT}"
    assert coroutine.cr_frame is None


async def test_a_generator_function_is_refused_with_a_hint_g7() -> None:
    async with TaskHost() as host:
        assert message_of(TypeError, host.schedule, rows, SECRET) == (
            f"{__name__}.rows is an async generator function: a call would not run its body. Write a function that "
            "iterates over it (`async def` with `async for`), and schedule that function"
        )
        assert message_of(TypeError, host.schedule, lines, SECRET) == (
            f"{__name__}.lines is a generator function: a call would not run its body. Write a function that "
            "iterates over it (`def` with `for`), and schedule that function"
        )


# Settings

SETTINGS = "name, shield, on_error, when, timeout, retry, delay, limit, run_in, key, queue"
TAKES_KEYWORDS = ".task() takes keyword arguments only: write .task(timeout=5).schedule(f, ...)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"on_error": retry()},
            "on_error must be a handler, not a retry policy; for further attempts write retry=retry(...)",
        ),
        (
            {"on_error": retry},
            "on_error must be a handler, not a retry policy; for further attempts write retry=retry()",
        ),
        (
            {"on_error": "log"},
            "on_error must be callable with (task, exception), not str: pass the function itself, without calling it",
        ),
        ({"retry": retry}, "retry must be a policy, and retry() makes one: call it, retry=retry()"),
        ({"retry": 3}, "retry must be a policy, not 3: write retry=retry(attempts=3)"),
        ({"retry": True}, "retry must be a policy, not True: write retry=retry()"),
        (
            {"retry": "always"},
            (
                "retry must be callable with (task, exception), like the policy from retry(), not str: pass the "
                "function itself, without calling it"
            ),
        ),
        (
            {"limit": 3},
            (
                "limit must be a Limit, not 3: write `few = Limit(3)` once, outside of the endpoint, so that all its "
                "tasks share the limit, and then limit=few"
            ),
        ),
        (
            {"limit": Limit},
            (
                f"limit must be a Limit, not {Limit!r}: write `few = Limit(2)` once, outside of the endpoint, so that "
                "all its tasks share the limit, and then limit=few"
            ),
        ),
        ({"key": 7}, "key must be a str, not int: write key=str(...)"),
        ({"name": 7}, "name must be a str, not int: write name=str(...)"),
        ({"retries": 3}, f"LABEL has no parameter 'retries' (did you mean retry=?); it has {SETTINGS}"),
        ({"timeouts": 3}, f"LABEL has no parameter 'timeouts' (did you mean timeout=?); it has {SETTINGS}"),
        ({"countdown": 3}, f"LABEL has no parameter 'countdown'; it has {SETTINGS}"),
    ],
)
async def test_a_wrong_setting_is_refused_with_the_right_code_g4_g16(settings: Any, message: str) -> None:
    assert message_of(TypeError, TaskConfig, **settings) == message.replace("LABEL", "TaskConfig")
    async with TaskHost() as host, host.scope() as scope:
        for tasks in (host, scope, scope.after_response, scope.task(), TasksBatch()):
            text = message_of(TypeError, tasks.task, **settings)
            assert text == message.replace("LABEL", ".task()")


async def test_the_result_of_a_handler_is_refused_as_a_handler_and_closed_g4() -> None:
    coroutine: Any = send(SECRET)
    text = message_of(TypeError, TaskConfig, on_error=coroutine)
    assert text == (
        "on_error must be callable with (task, exception), not coroutine: pass the function itself, without calling it"
    )
    assert coroutine.cr_frame is None


async def test_a_function_for_task_is_refused_with_a_hint() -> None:
    async with TaskHost() as host, host.scope() as scope:
        each: list[Any] = [host, scope, TasksScheduler(scope), scope.after_response, scope.task(), TasksBatch()]
        for tasks in each:
            assert message_of(TypeError, tasks.task, send) == TAKES_KEYWORDS
            assert message_of(TypeError, tasks.task, SECRET, timeout=5) == TAKES_KEYWORDS


RETRY: Any = retry


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *(
            (
                call,
                (
                    "retry() takes keyword arguments only: write retry(attempts=3), as in "
                    "tasks.task(retry=retry(attempts=3)).schedule(f, ...)"
                ),
            )
            for call in (lambda: RETRY(3), lambda: RETRY(ValueError), lambda: RETRY(send), lambda: RETRY(3, on=OSError))
        ),
        (
            lambda: RETRY(max_delays=3),
            (
                "retry() has no parameter 'max_delays' (did you mean max_delay=?); it has attempts, on, backoff, "
                "jitter, max_delay"
            ),
        ),
        (lambda: RETRY(attempts=SECRET[:1]), "attempts must be an int, not '4'"),
    ],
)
def test_a_wrong_call_of_retry_is_refused_with_the_right_call_g16(call: Callable[[], object], message: str) -> None:
    assert message_of(TypeError, call) == message


def test_a_policy_that_is_used_as_a_decorator_says_where_it_goes_g16() -> None:
    decorate: Any = retry(attempts=3)
    assert message_of(TypeError, decorate, send) == (
        "retry() is no decorator: write tasks.task(retry=retry(attempts=3)).schedule(f, ...)"
    )


@pytest.mark.parametrize("func", [retry, TaskHost.task, TasksScheduler.task])
def test_a_function_with_such_hints_keeps_its_signature_and_its_docstring(func: Callable[..., object]) -> None:
    kinds = [parameter.kind for name, parameter in signature(func).parameters.items() if name != "self"]
    assert set(kinds) == {Parameter.KEYWORD_ONLY}
    assert ":param" in (func.__doc__ or "")
    assert f"{func.__name__}(" in pydoc.plain(pydoc.render_doc(func))


# Hosts that take no tasks

AT_STAGE_3 = "the task host is closing (stage 3 of the shutdown)"
NOT_SCHEDULED = f"so {__name__}.send was not scheduled"


@pytest.mark.parametrize("backend", MOVABLE)
def test_the_refusal_of_a_closing_host_names_function_stage_and_shield_g9(backend: str) -> None:
    def refused() -> None:
        told.append(message_of(TasksClosedError, host.schedule, send, SECRET))

    async def unshielded() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            refused()

    async def shielded() -> None:
        try:
            await unshielded_ended.wait()
            assert await host.schedule(send, "ada") == "ada"
            clock.jump(HOUR)
            await anyio.sleep_forever()
        finally:
            refused()

    async def main() -> None:
        nonlocal unshielded_ended
        unshielded_ended = anyio.Event()
        async with host:
            task = host.schedule(unshielded)
            host.task(shield=True).schedule(shielded)
            async with anyio.create_task_group() as tg:
                tg.start_soon(host.aclose)
                await task.wait()
                await anyio.to_thread.run_sync(refused)
                unshielded_ended.set()
        refused()

    told: list[str] = []
    clock = JumpClock()
    host = TaskHost(shield_timeout=HOUR)
    unshielded_ended: anyio.Event
    anyio.run(main, backend=backend, backend_options=clock.backend_options(backend))
    only_shielded = (
        f"{AT_STAGE_3}, {NOT_SCHEDULED}: now only shielded tasks may schedule. Shield the task that schedules, "
        ".task(shield=True), or give the host a drain_timeout"
    )
    assert told == [
        only_shielded,
        only_shielded,
        f"{AT_STAGE_3} and its shield_timeout is over, {NOT_SCHEDULED}: no task may schedule now",
        (
            f"the task host is closed, {NOT_SCHEDULED}: schedule before the end of the host, or of the lifespan of the "
            "app, and not in a child of fork()"
        ),
    ]


async def test_the_refusal_of_a_host_that_is_not_open_says_how_to_open_it_g9() -> None:
    host = TaskHost()
    assert message_of(TasksClosedError, host.schedule, send, SECRET) == (
        f"the task host is not open yet, {NOT_SCHEDULED}: enter it with `async with` first"
    )
    for call in (host.scope, lambda: host.tg, host.tasks, host.statistics):
        assert message_of(TasksClosedError, call) == ("the task host is not open yet: enter it with `async with` first")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_refusal_after_the_end_of_the_event_loop_names_the_function_g9(backend: str) -> None:
    async def main() -> TasksScheduler:
        async with anyio.create_task_group() as tg:
            return TasksScheduler(tg)

    tasks = anyio.run(main, backend=backend)
    assert message_of(TasksClosedError, tasks.schedule, send, SECRET) == (
        f"the event loop has ended, {NOT_SCHEDULED}: schedule while the task host is open"
    )


async def test_the_refusal_of_a_task_group_that_is_not_open_names_the_function_g9() -> None:
    async with anyio.create_task_group() as tg:
        tasks = TasksScheduler(tg)
    assert message_of(TasksClosedError, tasks.schedule, send, SECRET) == (
        f"the task group is not open, {NOT_SCHEDULED}: schedule inside its block, `async with create_task_group()`"
    )


# Tasks without a result, and code without a host


async def test_a_task_that_has_not_ended_says_that_code_must_await_it_g17() -> None:
    wait = "has no result yet: first write `await task`; in a `def`, `anyio.from_thread.run(task.wait)`"
    async with TaskHost(drain_timeout=5) as host:
        task = host.schedule(send, SECRET)
        later = host.task(name="later").schedule(anyio.sleep, 0)
        for call in (lambda: task.return_value, lambda: task.exception):
            assert message_of(TaskNotFinished, call) == f"task '{__name__}.send' is starting and {wait}"
        assert message_of(TaskNotFinished, lambda: later.return_value) == f"task 'later' is starting and {wait}"
        assert await task == SECRET
    made = Task(send, (SECRET,))
    assert message_of(TaskNotFinished, lambda: made.return_value) == (
        f"task '{__name__}.send' is new and has no result yet: schedule the task first"
    )


@pytest.mark.parametrize("phase", ["after_route", "after_response"])
async def test_a_task_whose_phase_has_not_come_sends_no_code_into_an_endless_wait_g1_g17(phase: str) -> None:
    """In a `def` endpoint on asyncio, `anyio.from_thread.run(task.wait)` would never end."""

    def schedule_in_thread() -> tuple[Task[Any], str]:
        task = getattr(tasks, phase).schedule(send, SECRET)
        return task, message_of(TaskNotFinished, lambda: task.return_value)

    async with TaskHost(drain_timeout=5) as host, host.scope() as tasks:
        task, in_thread = await anyio.to_thread.run_sync(schedule_in_thread)
        await turns()
        expected = f"and has no result yet: {phase} has not come, so wait in another task"
        assert in_thread.endswith(expected)
        assert message_of(TaskNotFinished, lambda: task.exception) == f"task '{__name__}.send' is deferred {expected}"


IN_A_THREAD = (
    "this code runs in a thread of your own (for a function in a thread use anyio.to_thread.run_sync or "
    "asyncio.to_thread, which keep the task and the host): "
)


async def test_in_a_thread_of_the_user_the_error_says_what_to_pass_to_the_thread_g14() -> None:
    def ask() -> None:
        told.extend(message_of(NoCurrentError, call) for call in (current_host, current_task))

    async def start_thread() -> None:
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()

    told: list[str] = []
    async with TaskHost() as host:
        await start_thread()
        await host.schedule(start_thread)
    assert told == 2 * [
        (
            f"{IN_A_THREAD}take `tasks: Tasks` in the endpoint, or call current_host() before you start the thread, "
            "and pass the host to the thread: host.schedule() works in any thread"
        ),
        f"{IN_A_THREAD}call current_task() before you start the thread, and pass the task to the thread",
    ]


async def test_outside_of_any_host_the_error_says_where_there_is_one_g14() -> None:
    assert message_of(NoCurrentError, current_host) == (
        "no task host is open around this code. In a FastAPI app with add_tasks(app), call current_host() in an "
        "endpoint, a task or the lifespan. The host opens when the app itself is called: a server, "
        "`with TestClient(app)` and asgi-lifespan do that, `app.router.lifespan_context(app)` does not. Without "
        "FastAPI, call current_host() inside `async with TaskHost()`"
    )
    assert message_of(NoCurrentError, current_task) == (
        "this code does not run in a task: call current_task() in the function of a task, in its handler, or in code "
        "that these call"
    )


# help()


@pytest.mark.parametrize("cls", [cls for cls in vars(taskphase).values() if isinstance(cls, type)])
def test_help_names_no_private_module_as_the_home_of_a_member(cls: type) -> None:
    assert [part for part in (*cls.__mro__, type(cls)) if part.__module__.startswith("taskphase.")] == []
    text = pydoc.plain(pydoc.render_doc(cls))
    assert [
        line for line in text.splitlines() if re.search(r"(from|class) .*taskphase\._|^ +[|] +taskphase\._", line)
    ] == []


def test_help_lists_all_members_of_a_task_as_its_own() -> None:
    of_job = {attr.name for attr in inspect.classify_class_attrs(Task) if attr.defining_class is Job}
    assert {name for name in of_job if pydoc.visiblename(name)} <= {"__annotations__"}  # Python's own
    own = pydoc.plain(pydoc.render_doc(Task)).partition("inherited from")[0]
    members = [name for name in dir(Task) if not name.startswith("_")]
    assert [name for name in members if f" |  {name}" not in own and f" |  async {name}" not in own] == []


@pytest.mark.parametrize("owner", ["another task", "the running task"])
async def test_a_coroutine_that_has_begun_is_refused_and_goes_on_g3(owner: str) -> None:
    async def work() -> str:
        if owner == "the running task":
            refuse()
        await release.wait()
        return "done"

    def refuse() -> None:
        with pytest.raises(TypeError, match="expected a callable, not coroutine"):
            host.schedule(coroutine)  # type: ignore[call-overload]

    async def run() -> None:
        ends.append(await coroutine)

    release, ends, coroutine = anyio.Event(), list[str](), work()
    async with TaskHost() as host, anyio.create_task_group() as tg:
        tg.start_soon(run)
        await turns()
        if owner == "another task":
            refuse()
        release.set()
    assert ends == ["done"]
