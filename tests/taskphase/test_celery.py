"""G21: `CeleryQueue`, with the broker in memory that Celery has. See tests/queues/ for real brokers and workers."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from copy import deepcopy
from functools import partial
from typing import Any
from uuid import uuid4

import anyio
import pytest
from tests.backends import turns, until
from tests.servers.harness import free_port
from tests.silent import SilentBroker
from tests.taskphase import engine_jobs
from tests.taskphase.engine_jobs import archive, fail, request_id, send_mail

from taskphase import TaskHost, TasksUnportableError
from taskphase.queues import Call

celery = pytest.importorskip("celery")

from amqp.exceptions import AccessRefused  # noqa: E402
from celery import _state, signals  # noqa: E402

from taskphase._celery_client import Message, connection_of  # noqa: E402
from taskphase.celery import CeleryQueue  # noqa: E402

JOBS = "tests.taskphase.engine_jobs"
SECRET = "secret-of-the-test"
REDIS = {"socket_timeout": 2, "socket_connect_timeout": 3}
RABBIT = {"read_timeout": 2, "write_timeout": 2, "confirm_publish": True}


@pytest.fixture(autouse=True)
def seen() -> list[tuple[Any, ...]]:
    engine_jobs.seen.clear()
    return engine_jobs.seen


@pytest.fixture
def app() -> Iterator[Any]:
    """Return an app whose broker is in memory, and has no messages."""
    app = celery.Celery("tests", broker="memory://", set_as_current=False)
    with app.connection_for_write() as connection:
        connection.default_channel.queues.clear()
    yield app
    app.close()


def app_with(broker: str, options: Any, **settings: Any) -> Any:
    app = celery.Celery("tests", broker=broker, set_as_current=False)
    app.conf.update(broker_transport_options=options, **settings)
    return app


def messages(app: Any) -> list[Any]:
    """Take all messages from the broker."""
    found: list[Any] = []
    with app.connection_for_read() as connection:
        simple = connection.SimpleQueue(app.conf.task_default_queue)
        while len(simple):
            message = simple.get(block=False)
            message.ack()
            found.append(message)
        simple.close()
    return found


async def hand_over(queue: CeleryQueue, func: Any, *args: Any, **settings: Any) -> Any:
    async with TaskHost(queues=[queue]) as host:
        task = host.task(**settings).schedule(func, *args)
        await task.wait()
    assert task.status == "handed_over", task.exception
    return task


@pytest.mark.parametrize(
    ("broker", "options", "settings", "missing"),
    [
        ("redis://h", {"socket_timeout": None}, {}, "with {'socket_timeout': None} in .* could wait for ever"),
        ("redis://h", {"socket_connect_timeout": 0}, {}, "with {'socket_connect_timeout': 0} in"),
        ("rediss://h", {"socket_timeout": None}, {}, "could wait for ever"),
        ("sentinel://h", {"socket_timeout": None}, {}, "could wait for ever"),
        ("amqp://h", {"read_timeout": None, "confirm_publish": False}, {}, "could wait for ever"),
        ("amqp://h", {"confirm_publish": False}, {}, "would not wait for the broker's answer"),
        ("amqp://h", RABBIT, {"broker_connection_timeout": None}, "broker_connection_timeout=None"),
        ("filesystem://", {}, {}, "give attempt_timeout="),
        ("memory://", {}, {"task_always_eager": True}, "task_always_eager=True"),
    ],
)
def test_an_app_that_may_hang_or_lose_messages_is_refused_g21(
    broker: str, options: Any, settings: Any, missing: str
) -> None:
    with pytest.raises(ValueError, match=missing):
        CeleryQueue(app_with(broker, options, **settings), [archive])


@pytest.mark.parametrize(
    ("broker", "options", "longest"),
    [
        ("redis://h", REDIS, 5),
        ("redis://h;redis://i", REDIS, 10),
        ("amqp://h", RABBIT, 8),
        ("amqp://h", {**RABBIT, "read_timeout": 3}, 11),
        ("memory://", {}, 0),
        ("redis://h", {}, 4),
        ("amqp://h", {}, 8),
    ],
)
def test_an_attempt_is_longer_than_the_sockets_may_wait_g21(broker: str, options: Any, longest: float) -> None:
    app = app_with(broker, options)
    assert CeleryQueue(app, [archive]).attempt_timeout == longest + 2
    assert CeleryQueue(app, [archive], attempt_timeout=longest + 1.1).attempt_timeout == longest + 1.1
    with pytest.raises(ValueError, match=r"attempt_timeout=.* is too short"):
        CeleryQueue(app, [archive], attempt_timeout=longest + 1)


async def test_a_host_refuses_an_app_that_was_made_eager_g21(app: Any) -> None:
    """Each attempt would run the task. Tests of apps make them eager after the import."""
    queue = CeleryQueue(app, [archive])
    app.conf.task_always_eager = True
    with pytest.raises(ValueError, match="give the host queues=\\[\\] to run tasks here"):
        async with TaskHost(queues=[queue]):
            raise AssertionError


@pytest.mark.parametrize("broker", ["redis://h", "amqp://h"])
def test_the_bounds_of_an_attempt_are_not_for_workers_g21(broker: str) -> None:
    app = app_with(broker, {"visibility_timeout": 60})
    queue: Any = CeleryQueue(app, [archive])
    connection = queue._CeleryQueue__connection
    assert connection.transport_options.items() > app.connection_for_read().transport_options.items()
    assert app.connection_for_read().transport_options == {"visibility_timeout": 60}


@pytest.mark.parametrize(
    ("broker", "system"),
    [("redis://h", "redis"), ("sentinel://h", "redis"), ("amqp://h", "rabbitmq"), ("memory://", None)],
)
def test_a_queue_has_the_name_of_its_broker_in_telemetry_g21(broker: str, system: str | None) -> None:
    class Named(CeleryQueue):
        system = "valkey"

    app = app_with(broker, {})
    assert (CeleryQueue(app, [archive]).system, Named(app).system) == (system, "valkey")


def test_a_transport_without_known_timeouts_needs_a_time_of_its_own_g21() -> None:
    assert CeleryQueue(app_with("filesystem://", {}), [archive], attempt_timeout=2).attempt_timeout == 2


def test_options_that_the_queue_sets_are_refused_g21(app: Any) -> None:
    with pytest.raises(ValueError, match=r"\['add_to_parent', 'retry', 'task_id'\], which the queue sets"):
        CeleryQueue(app, {archive: {"task_id": "1", "retry": True, "add_to_parent": True, "priority": 3}})
    with pytest.raises(TypeError, match="app must be a Celery app, not str"):
        CeleryQueue("redis://h")  # type: ignore[arg-type]


def test_a_listed_function_keeps_its_names_g21(app: Any) -> None:
    CeleryQueue(app, [archive, send_mail])
    assert (archive.__name__, archive.__qualname__) == ("archive", "archive")
    assert (send_mail.__name__, send_mail.__qualname__) == ("send_mail", "send_mail")
    assert {name for name in app.tasks if not name.startswith("celery.")} == {f"{JOBS}.archive", f"{JOBS}.send_mail"}


async def test_a_message_has_the_id_the_options_and_the_arguments_g21(app: Any) -> None:
    queue = CeleryQueue(app, {send_mail: {"priority": 3, "time_limit": 60, "headers": {"mine": "1"}}}, name="later")
    order = [1]
    async with TaskHost(queues=[queue]) as host:
        task = host.schedule(send_mail, order, copy="b")
        order.append(2)
        await task.wait()
    [message] = messages(app)
    assert message.payload[:2] == [[[1]], {"copy": "b"}]
    assert (message.headers["id"], message.headers["task"]) == (task.message_id, f"{JOBS}.send_mail")
    assert (message.headers["timelimit"], message.properties["priority"]) == ([60, None], 3)
    assert (message.headers["mine"], message.headers["taskphase-queue"]) == ("1", "later")


async def test_results_are_stored_although_nobody_waits_for_them_here_g21(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery would subscribe to the result in the thread that publishes."""

    @app.task(ignore_result=True, shared=False)
    def send(order: str) -> None: ...

    subscriptions: list[object] = []
    # Each thread has its own backend.
    monkeypatch.setattr(type(app.backend), "on_task_call", lambda *call: subscriptions.append(call))
    queue = CeleryQueue(app, {archive: {}, fail: {"ignore_result": True}})
    for func in (archive, fail, send):
        await hand_over(queue, func, "a")
    assert [message.headers["ignore_result"] for message in messages(app)] == [False, True, True]
    assert subscriptions == []


@pytest.mark.parametrize(
    ("args", "kwargs", "named"),
    [
        ((object(),), {}, "argument 'order', an object of the class object"),
        (([SECRET, {"a": object()}],), {}, "argument 'order', an object of the class list"),
        ((SECRET, SECRET, object()), {}, "argument 3, an object of the class object"),
        ((SECRET,), {"copy": {"a": object()}}, "argument 'copy', an object of the class dict"),
    ],
)
async def test_an_error_names_an_argument_and_its_class_but_no_value_g21(
    app: Any, args: Any, kwargs: Any, named: str
) -> None:
    async with TaskHost(queues=[CeleryQueue(app, [send_mail], name="later")]) as host:
        with pytest.raises(TasksUnportableError) as refused:
            host.schedule(send_mail, *args, **kwargs)
    said = str(refused.value)
    assert f"{JOBS}.send_mail cannot be handed over to 'later': its workers cannot get {named}" in said
    assert SECRET not in said
    assert messages(app) == []


async def test_a_call_that_cannot_be_encoded_without_any_argument_is_refused_g21(app: Any) -> None:
    @app.task(serializer="none such", shared=False)
    def ring() -> None: ...

    async with TaskHost(queues=[CeleryQueue(app)]) as host:
        with pytest.raises(TasksUnportableError, match="its call cannot be prepared"):
            host.schedule(ring)


async def test_a_carried_variable_is_no_setting_of_the_engine_g21(app: Any) -> None:
    request_id.set("r1")
    await hand_over(CeleryQueue(app, [archive], carry={"id": request_id}), archive, "a")
    [message] = messages(app)
    assert message.headers["id"] != "r1"


async def test_a_timeout_is_refused_because_celery_has_none_for_all_workers_g21(app: Any) -> None:
    async with TaskHost(queues=[CeleryQueue(app, [archive])]) as host:
        with pytest.raises(TasksUnportableError, match="timeout="):
            host.task(timeout=3).schedule(archive, "a")


async def test_a_decorated_task_is_handed_over_without_being_listed_g21(app: Any) -> None:
    @app.task(name="mails", bind=True, shared=False)
    def send(self: Any, order: str) -> None: ...

    queue = CeleryQueue(app)
    task = await hand_over(queue, send, "a")
    [message] = messages(app)
    assert (message.headers["task"], message.headers["id"]) == ("mails", task.message_id)
    async with TaskHost(queues=[queue]) as host:
        for args in ((), ("a", "b")):
            with pytest.raises(TypeError, match="argument"):
                host.schedule(send, *args)
        with pytest.raises(TasksUnportableError, match="cannot get argument 'order', an object of the class object"):
            host.schedule(send, object())


@pytest.mark.parametrize("is_handed_over", [True, False], ids=["handed-over", "here"])
async def test_decorated_tasks_have_their_own_names_and_keys_g7_g21_g24(app: Any, is_handed_over: bool) -> None:
    ran: list[str] = []

    @app.task(shared=False)
    def send(order: str) -> None:
        ran.append(f"send {order}")

    @app.task(shared=False)
    def store(order: str) -> None:
        ran.append(f"store {order}")

    async with TaskHost(queues=[CeleryQueue(app)] if is_handed_over else []) as host:
        tasks = [host.task(key="7", delay=0.01).schedule(func, "a") for func in (send, partial(store))]
        for task in tasks:
            await task.wait()
    assert [task.function.rpartition(".")[2] for task in tasks] == ["send", "store"]
    assert {task.status.value for task in tasks} == {"handed_over" if is_handed_over else "succeeded"}
    assert len(messages(app)) + len(ran) == 2


async def test_a_shared_task_is_handed_over_from_each_thread_to_its_app_g21(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task of `shared_task` is another one where another app is current: in each other thread."""
    monkeypatch.setattr(_state, "_on_app_finalizers", set(_state._on_app_finalizers))
    monkeypatch.setattr(_state._tls, "current_app", app)
    app.conf.task_default_queue = "orders"

    @celery.shared_task(name=f"send-{uuid4().hex}")
    def send(order: str) -> None: ...

    async with TaskHost(queues=[CeleryQueue(app)]) as host:
        tasks = [host.schedule(send, "a"), await anyio.to_thread.run_sync(host.schedule, send, "b")]
        for task in tasks:
            await task.wait()
    assert [task.status for task in tasks] == ["handed_over"] * 2
    assert len(messages(app)) == 2


async def test_a_task_of_another_app_runs_here_g21(app: Any) -> None:
    other = celery.Celery("other", broker="memory://", set_as_current=False)

    @other.task(shared=False)
    def send(order: str) -> str:
        return order

    async with TaskHost(queues=[CeleryQueue(app)]) as host:
        assert await host.schedule(send, "a") == "a"
    assert messages(app) == []


class Publishing:
    """Notes the threads that publish, and holds them up until `go_on` is set."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.go_on.set()
        self.threads: list[threading.Thread] = []
        self.request_ids: list[str] = []

    def note(self, **_: Any) -> None:
        self.threads.append(threading.current_thread())
        self.request_ids.append(request_id.get(""))
        assert self.go_on.wait(10)


@pytest.fixture
def publishing() -> Iterator[Publishing]:
    noting = Publishing()
    signals.before_task_publish.connect(noting.note)
    yield noting
    noting.go_on.set()
    signals.before_task_publish.disconnect(noting.note)


async def test_few_threads_of_its_own_publish_g21(app: Any, publishing: Publishing) -> None:
    async with TaskHost(queues=[CeleryQueue(app, [archive])]) as host:
        tasks = [host.schedule(archive, number) for number in range(30)]
        for task in tasks:
            await task.wait()
    assert len(messages(app)) == 30
    assert len(set(publishing.threads)) <= 4
    assert threading.current_thread() not in publishing.threads
    assert all(thread.daemon for thread in publishing.threads)
    for thread in set(publishing.threads):
        thread.join(5)
        assert not thread.is_alive()


async def test_a_message_that_is_published_is_not_kept_g2_g21(app: Any) -> None:
    """Not by the connections, which the first task has opened; by the producer, which publishes again; by the thread,
    which waits for another message.
    """

    def kept() -> list[Message]:
        gc.collect()
        return [each for each in gc.get_objects() if type(each) is Message and each not in before]

    before = [each for each in gc.get_objects() if type(each) is Message]  # of other tests
    async with TaskHost(queues=[CeleryQueue(app, [archive])]) as host:
        await host.schedule(archive, "a").wait()
        await until(lambda: not kept())


async def test_celery_publishes_in_the_context_of_schedule_g6_g21(app: Any, publishing: Publishing) -> None:
    """The instrumentation of Celery by other tools needs the current span."""
    async with TaskHost(queues=[CeleryQueue(app, [archive])]) as host:
        request_id.set("r1")
        task = host.schedule(archive, "a")
        request_id.set("r2")
        await task.wait()
    assert publishing.request_ids == ["r1"]


async def test_a_thread_that_an_attempt_left_behind_is_waited_for_g21(app: Any, publishing: Publishing) -> None:
    publishing.go_on.clear()
    async with TaskHost(queues=[CeleryQueue(app, [archive], attempt_timeout=1.01)]) as host:
        task = host.schedule(archive, "a")
        await anyio.sleep(1.5)  # the first attempt is over, its thread is not
        assert len(publishing.threads) == 1
        publishing.go_on.set()
        await task.wait()
    assert task.status == "handed_over"
    assert len(messages(app)) == 1


async def test_a_task_that_is_cancelled_before_a_thread_has_begun_is_not_published_g17_g21(
    app: Any, publishing: Publishing
) -> None:
    publishing.go_on.clear()
    async with TaskHost(queues=[CeleryQueue(app, [archive])]) as host:
        begun = [host.schedule(archive, number) for number in range(4)]
        await until(lambda: len(publishing.threads) == 4)
        for task in begun:
            task.cancel()
            await task.wait()  # the attempt is over, its thread is not
        late = host.schedule(archive, "late")
        await turns()
        late.cancel()
        await late.wait()
        publishing.go_on.set()
        last = host.schedule(archive, "last")
        await last.wait()
    assert [task.status.value for task in (*begun, late, last)] == ["cancelled"] * 5 + ["handed_over"]
    assert len(publishing.threads) == 5
    assert "late" not in [message.payload[0][0] for message in messages(app)]


async def test_a_subclass_may_have_any_attribute_of_its_own_g21(app: Any) -> None:
    class Own(CeleryQueue):
        def __init__(self) -> None:
            super().__init__(app, {archive: {"priority": 3}})
            assert not [name for name in vars(self) if name[0] == "_" and "__" not in name]
            self._options = self._tasks = self._connection = self._clients = self._errors_are_sure = "mine"

    await hand_over(Own(), archive, "a")
    [message] = messages(app)
    assert message.properties["priority"] == 3


async def test_an_attempt_beside_an_earlier_one_fails_and_one_after_it_does_nothing_g21(app: Any) -> None:
    queue: Any = CeleryQueue(app, [archive])
    prepared = queue.prepare(Call("1", archive, f"{JOBS}.archive", ("a",), {}, {}, {}))
    await queue.open()
    client = queue._CeleryQueue__clients.get()
    with prepared.lock, pytest.raises(TimeoutError):
        await queue.publish(prepared, {})
    await queue.publish(prepared, {})
    await client.threads.call(partial(client.send, prepared, {}))  # began before the earlier one had published
    await queue.close()
    assert len(messages(app)) == 1


class Failing:
    """Raises in the thread that publishes, before it publishes.

    :ivar bodies: the content of the message of each attempt, as it was before it was changed here
    """

    def __init__(self, *errors: BaseException) -> None:
        self.bodies: list[Any] = []
        self._errors = list(errors)

    def __call__(self, body: Any, **_: Any) -> None:
        args, kwargs, _ = body
        self.bodies.append(deepcopy((args, kwargs)))
        args[0].append("changed")
        args.append("more")
        kwargs["copy"] = "changed"
        if self._errors:
            raise self._errors.pop(0)


async def test_an_exit_in_a_thread_is_a_failed_attempt_g21(app: Any) -> None:
    failing = Failing(SystemExit(3))
    signals.before_task_publish.connect(failing)
    try:
        await hand_over(CeleryQueue(app, [archive]), archive, [1])
    finally:
        signals.before_task_publish.disconnect(failing)
    assert len(messages(app)) == 1
    assert len(failing.bodies) == 2


@pytest.mark.parametrize("way", ["exits", "hangs"])
async def test_a_receiver_that_fails_after_publishing_does_not_publish_again_g21(app: Any, way: str) -> None:
    def fail(**_: Any) -> None:
        if way == "exits":
            raise SystemExit(3)
        assert go_on.wait(10)

    go_on = threading.Event()
    signals.after_task_publish.connect(fail)
    try:
        await hand_over(CeleryQueue(app, [archive], attempt_timeout=1.01), archive, "a")
    finally:
        go_on.set()
        signals.after_task_publish.disconnect(fail)
    assert len(messages(app)) == 1


async def test_each_attempt_gives_the_receivers_the_first_arguments_g21(app: Any) -> None:
    failing = Failing(SystemExit(3), SystemExit(3))
    signals.before_task_publish.connect(failing)
    try:
        await hand_over(CeleryQueue(app, [send_mail]), send_mail, [1])
    finally:
        signals.before_task_publish.disconnect(failing)
    assert failing.bodies == [([[1]], {})] * 3
    [message] = messages(app)
    assert message.payload[:2] == [[[1, "changed"], "more"], {"copy": "changed"}]


@pytest.mark.parametrize("earlier", [0, 1], ids=["none", "one"])
async def test_without_a_new_thread_another_one_publishes_or_a_later_attempt_g21(app: Any, earlier: int) -> None:
    ended = threading.Event()

    class Noting(CeleryQueue):
        async def publish(self, *args: Any) -> None:
            try:
                await super().publish(*args)
            finally:
                ended.set()

    async with TaskHost(queues=[Noting(app, [archive])]) as host:
        for _ in range(earlier):
            await host.schedule(archive, "earlier").wait()
        ended.clear()
        size = threading.stack_size(1 << 46)  # the system has no such memory: no thread starts
        try:
            task = host.schedule(archive, "a")
            await until(ended.is_set)
        finally:
            threading.stack_size(size)
        await task.wait()
    assert task.status == "handed_over"
    assert len(messages(app)) == 1 + earlier


async def test_a_refused_connection_means_not_published_g21() -> None:
    broker = f"redis://127.0.0.1:{free_port()}/0"
    for options, is_sure in ((REDIS, True), ({**REDIS, "retry_on_timeout": True}, False)):
        queue = CeleryQueue(app_with(broker, options), [archive])
        prepared = queue.prepare(Call("1", archive, f"{JOBS}.archive", ("a",), {}, {}, {}))
        await queue.open()
        with pytest.raises(celery.exceptions.OperationalError) as failed, anyio.fail_after(1):
            await queue.publish(prepared, {})
        await queue.close()
        assert queue.refused(failed.value) is queue.refused(AccessRefused("Login was refused")) is is_sure
    assert not queue.refused(TimeoutError())


@pytest.fixture
def brokers(request: pytest.FixtureRequest) -> Iterator[list[SilentBroker]]:
    count, hangs = request.param
    with ExitStack() as stack:
        yield [stack.enter_context(SilentBroker(hangs=hangs)) for _ in range(count)]


async def fail_to_publish(brokers: list[SilentBroker], socket_timeout: float) -> None:
    options = {"socket_timeout": socket_timeout, "socket_connect_timeout": 0.05}
    app = app_with(";".join(f"redis://127.0.0.1:{each.port}/0" for each in brokers), options)
    _, longest = connection_of(app)
    assert longest is not None
    queue = CeleryQueue(app, [archive], attempt_timeout=longest + 1.01)
    prepared = queue.prepare(Call("1", archive, f"{JOBS}.archive", ("a",), {}, {}, {}))
    await queue.open()
    with pytest.raises(celery.exceptions.OperationalError), anyio.fail_after(queue.attempt_timeout):
        await queue.publish(prepared, {})
    await queue.close()


@pytest.mark.parametrize("brokers", [(1, False), (3, False)], ids=lambda each: str(each[0]), indirect=True)
async def test_an_attempt_tries_each_host_once_g21(brokers: list[SilentBroker]) -> None:
    await fail_to_publish(brokers, socket_timeout=5)
    assert [each.connections for each in brokers] == [1] * len(brokers)


@pytest.mark.parametrize("brokers", [(1, True), (5, True)], ids=lambda each: str(each[0]), indirect=True)
async def test_an_attempt_at_hosts_that_hang_ends_in_its_time_g21(brokers: list[SilentBroker]) -> None:
    """A thread that publishes for longer cannot be stopped."""
    await fail_to_publish(brokers, socket_timeout=0.4)
    assert [each.connections for each in brokers] == [1] * len(brokers)


@pytest.mark.parametrize("func", [send_mail, archive])
def test_the_function_in_a_worker_has_a_view_of_its_task_g21(app: Any, func: Any, seen: list[Any]) -> None:
    CeleryQueue(app, [func], name="later", carry={"x": request_id})
    headers = {"taskphase-queue": "later", "taskphase-carry-x": "r1"}
    app.tasks[f"{JOBS}.{func.__name__}"].apply(("a",), task_id="m1", headers=headers, retries=1)
    assert seen == [(f"{JOBS}.{func.__name__}", "m1", 2, "r1", "a")]
    assert request_id.get("") == ""


def test_a_function_that_fails_in_a_worker_leaves_nothing_behind_g21(app: Any, seen: list[Any]) -> None:
    CeleryQueue(app, [fail], name="later", carry={"x": request_id})
    headers = {"taskphase-queue": "later", "taskphase-carry-x": "r1"}
    result = app.tasks[f"{JOBS}.fail"].apply(("a",), task_id="m1", headers=headers)
    assert isinstance(result.result, LookupError)
    assert len(seen) == 1
    assert request_id.get("") == ""
