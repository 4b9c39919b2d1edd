"""G21: `TaskiqQueue`, with a broker that keeps messages, and Taskiq's own receiver. Real brokers: tests/queues/."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncGenerator, Iterator
from datetime import date
from functools import partial
from typing import Any

import anyio
import pytest
from tests.backends import ASYNCIO, until
from tests.servers.harness import free_port
from tests.silent import SilentBroker
from tests.taskphase import engine_jobs
from tests.taskphase.engine_jobs import Bill, Order, archive, count_orders, fail, pay, request_id, send_mail

from taskphase import TaskHost, TasksUnportableError
from taskphase.queues import Call

taskiq = pytest.importorskip("taskiq")
taskiq_redis = pytest.importorskip("taskiq_redis")

import redis  # noqa: E402
import redis.asyncio.retry  # noqa: E402
import redis.backoff  # noqa: E402
from taskiq.brokers.shared_broker import AsyncSharedBroker  # noqa: E402
from taskiq.receiver import Receiver  # noqa: E402

from taskphase.taskiq import TaskiqQueue  # noqa: E402

JOBS = "tests.taskphase.engine_jobs"
SECRET = "secret-of-the-test"


@pytest.fixture(params=ASYNCIO)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Taskiq works on asyncio only."""
    return request.param


@pytest.fixture(autouse=True)
def seen() -> Iterator[list[tuple[Any, ...]]]:
    engine_jobs.seen.clear()
    yield engine_jobs.seen
    taskiq.AsyncBroker.global_task_registry.clear()


class Shelf(taskiq.AsyncBroker):
    """Keeps the messages."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Any] = []
        self.events: list[str] = []

    async def startup(self) -> None:
        self.events.append("startup")
        await super().startup()

    async def shutdown(self) -> None:
        self.events.append("shutdown")
        await super().shutdown()

    async def kick(self, message: Any) -> None:
        self.messages.append(message)

    async def listen(self) -> AsyncGenerator[bytes, None]:
        yield b""

    def content(self) -> dict[str, Any]:
        [message] = self.messages
        return json.loads(message.message)

    async def work(self) -> None:
        """Run the messages, as a worker does."""
        receiver = Receiver(self, max_async_tasks=10)
        while self.messages:
            await receiver.callback(self.messages.pop(0).message)


async def hand_over(queue: TaskiqQueue, func: Any, *args: Any, **settings: Any) -> Any:
    async with TaskHost(queues=[queue]) as host:
        task = host.task(**settings).schedule(func, *args)
        await task.wait()
    assert task.status == "handed_over"
    return task


@pytest.mark.parametrize("identifier", ["$", "5-1"])
def test_a_stream_that_may_skip_messages_is_refused_g21(identifier: str) -> None:
    broker = taskiq_redis.RedisStreamBroker("redis://localhost", consumer_id=identifier)
    with pytest.raises(ValueError, match="set consumer_id='0'"):
        TaskiqQueue(broker, [archive])


def test_a_broker_that_needs_waiting_workers_is_refused_g21() -> None:
    with pytest.raises(ValueError, match="use RedisStreamBroker"):
        TaskiqQueue(taskiq_redis.PubSubBroker("redis://localhost"), [archive])


def test_a_queue_has_the_name_and_the_connections_of_its_broker_g21() -> None:
    broker = taskiq_redis.RedisStreamBroker(
        "redis://localhost", queue_name="mails", consumer_id="0", max_connection_pool_size=7
    )
    queue = TaskiqQueue(broker, [archive])
    assert (queue.name, queue.attempts_at_once) == ("mails", 7)
    assert TaskiqQueue(Shelf(), name="other").name == "other"
    with pytest.raises(TypeError, match="broker must be a Taskiq broker, not str"):
        TaskiqQueue("redis://localhost")  # type: ignore[arg-type]


def test_a_queue_has_the_name_of_its_broker_in_telemetry_g21() -> None:
    class Ours(taskiq_redis.ListQueueBroker): ...  # type: ignore[misc]

    class Named(TaskiqQueue):
        system = "valkey"

    broker = Ours("redis://localhost")
    assert (TaskiqQueue(broker).system, TaskiqQueue(Shelf()).system, Named(broker).system) == ("redis", None, "valkey")


async def test_a_subclass_may_have_any_attribute_of_its_own_g21() -> None:
    class Own(TaskiqQueue):
        def __init__(self, broker: Shelf) -> None:
            super().__init__(broker, {archive: {"priority": 3}})
            assert not [name for name in vars(self) if name[0] == "_" and "__" not in name]
            self._options = self._tasks = self._errors_are_sure = "mine"

    broker = Shelf()
    await hand_over(Own(broker), archive, "a")
    assert broker.content()["labels"]["priority"] == "3"


def test_a_listed_function_keeps_its_names_g21() -> None:
    broker = Shelf()
    TaskiqQueue(broker, [archive, send_mail])
    assert (archive.__name__, archive.__qualname__) == ("archive", "archive")
    assert (send_mail.__name__, send_mail.__qualname__) == ("send_mail", "send_mail")
    assert set(broker.local_task_registry) == {f"{JOBS}.archive", f"{JOBS}.send_mail"}


@pytest.mark.parametrize("func", [lambda: None, partial(archive, 1), 3])
def test_a_function_that_a_worker_could_not_import_is_refused_g21(func: Any) -> None:
    with pytest.raises(TasksUnportableError, match="a worker could not import it"):
        TaskiqQueue(Shelf(), [func])


def test_trio_is_refused_g21() -> None:
    queue = TaskiqQueue(Shelf(), [archive])
    queue.check_loop("asyncio")
    with pytest.raises(RuntimeError, match=r"On trio use taskphase\.celery\.CeleryQueue"):
        queue.check_loop("trio")


async def test_a_message_is_as_taskiq_itself_makes_it_g21() -> None:
    broker = Shelf()
    task = await hand_over(TaskiqQueue(broker, {archive: {"priority": 3}}), archive, "a")
    ours = broker.content()
    broker.messages.clear()
    kicker = broker.local_task_registry[f"{JOBS}.archive"].kicker().with_task_id(task.message_id)
    await kicker.with_labels(priority=3).kiq("a")
    theirs = broker.content()
    assert ours["labels"].pop("taskphase-queue") == "taskiq"
    assert ours == theirs


async def test_the_worker_gets_the_state_of_the_arguments_at_schedule_g21(seen: list[Any]) -> None:
    broker = Shelf()
    order = [1]
    async with TaskHost(queues=[TaskiqQueue(broker, [archive], name="later")]) as host:
        task = host.schedule(archive, order)
        order.append(2)
        await task.wait()
    await broker.work()
    assert [each[-1] for each in seen] == [[1]]


@pytest.mark.parametrize(
    ("func", "value"), [(count_orders, Order(5)), (pay, Bill(due=date(2026, 1, 31)))], ids=["dataclass", "model"]
)
async def test_an_object_arrives_as_the_annotated_class_g21(func: Any, value: object, seen: list[Any]) -> None:
    broker = Shelf()
    await hand_over(TaskiqQueue(broker, [func], name="later"), func, value)
    await broker.work()
    assert [each[-1] for each in seen] == [value]


@pytest.mark.parametrize(
    ("args", "kwargs", "named"),
    [
        ((object(),), {}, "argument 'order', an object of the class object"),
        (([SECRET, {1: object()}],), {}, "argument 'order', an object of the class list"),
        ((SECRET, SECRET, object()), {}, "argument 3, an object of the class object"),
        ((SECRET,), {"copy": {"a": object()}}, "argument 'copy', an object of the class dict"),
        ((Order,), {}, "argument 'order', an object of the class type"),
    ],
)
async def test_an_error_names_an_argument_and_its_class_but_no_value_g21(args: Any, kwargs: Any, named: str) -> None:
    async with TaskHost(queues=[TaskiqQueue(Shelf(), [send_mail], name="later")]) as host:
        with pytest.raises(TasksUnportableError) as refused:
            host.schedule(send_mail, *args, **kwargs)
    said = str(refused.value)
    assert f"{JOBS}.send_mail cannot be handed over to 'later': its workers cannot get {named}" in said
    assert SECRET not in said
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


async def test_a_timeout_becomes_a_label_g21() -> None:
    broker = Shelf()
    await hand_over(TaskiqQueue(broker, [archive]), archive, "a", timeout=2.5)
    content = broker.content()
    message = taskiq.TaskiqMessage(**content)
    message.parse_labels()
    assert message.labels["timeout"] == 2.5


async def test_a_carried_variable_is_no_setting_of_the_engine_g21(seen: list[Any]) -> None:
    broker = Shelf()
    request_id.set("r1")
    await hand_over(TaskiqQueue(broker, [archive], name="later", carry={"timeout": request_id}), archive, "a")
    assert "timeout" not in broker.content()["labels"]
    request_id.set("")
    await broker.work()
    assert [each[3] for each in seen] == ["r1"]


async def test_a_label_of_the_options_is_not_overwritten_g21() -> None:
    queue = TaskiqQueue(broker := Shelf(), {archive: {"traceparent": "mine"}})
    prepared = queue.prepare(Call("1", archive, f"{JOBS}.archive", ("a",), {}, queue.options_of(archive), {}))
    await queue.publish(prepared, {"traceparent": "theirs", "tracestate": "x"})
    labels = broker.content()["labels"]
    assert (labels["traceparent"], labels["tracestate"]) == ("mine", "x")


@pytest.mark.parametrize("func", [send_mail, archive])
async def test_the_function_in_a_worker_has_a_view_of_its_task_g21(func: Any, seen: list[Any]) -> None:
    broker = Shelf()
    queue = TaskiqQueue(broker, {func: {"_retries": 2}}, name="later", carry={"x": request_id})
    request_id.set("r1")
    task = await hand_over(queue, func, "a")
    request_id.set("")
    await broker.work()
    assert seen == [(f"{JOBS}.{func.__name__}", task.message_id, 3, "r1", "a")]


def name_thread() -> None:
    engine_jobs.seen.append(("sync", threading.get_ident()))


async def name_thread_async() -> None:
    engine_jobs.seen.append(("async", threading.get_ident()))
    await asyncio.sleep(0)


async def test_an_async_function_is_called_in_the_event_loop_of_the_worker_g21(seen: list[Any]) -> None:
    """Taskiq calls other functions in its threads, and awaits the coroutine that one returns."""
    broker, result_of = Shelf(), {}

    class Noting(taskiq.TaskiqMiddleware):
        def post_execute(self, message: Any, result: Any) -> None:
            result_of[message.task_name.rpartition(".")[2]] = result.error

    broker.add_middlewares(Noting())
    queue = TaskiqQueue(broker, [name_thread, name_thread_async])
    await hand_over(queue, name_thread)
    await hand_over(queue, name_thread_async)
    await broker.work()
    here = threading.get_ident()
    assert [(kind, thread == here) for kind, thread in seen] == [("sync", False), ("async", True)]
    assert result_of == {"name_thread": None, "name_thread_async": None}


async def test_a_function_that_fails_in_a_worker_leaves_nothing_behind_g21(seen: list[Any]) -> None:
    broker = Shelf()
    queue = TaskiqQueue(broker, [fail, archive], name="later", carry={"x": request_id})
    request_id.set("r1")
    await hand_over(queue, fail, "a")
    await hand_over(queue, archive, "b")
    request_id.set("")
    await broker.work()
    assert [each[-1] for each in seen] == ["a", "b"]
    assert request_id.get() == ""


async def test_the_error_of_a_function_keeps_its_traceback_for_other_middlewares_g21() -> None:
    class Noting(taskiq.TaskiqMiddleware):
        def post_execute(self, message: Any, result: Any) -> None:
            noted.append(result.error.__traceback__)

    noted: list[Any] = []
    broker = Shelf()
    broker.add_middlewares(Noting())
    queue = TaskiqQueue(broker, [fail])
    broker.add_middlewares(Noting())
    await hand_over(queue, fail, "a")
    await broker.work()
    assert len(noted) == 2
    assert None not in noted


async def test_a_decorated_task_is_handed_over_without_being_listed_g21(seen: list[Any]) -> None:
    broker = Shelf()

    @broker.task(task_name="mails", priority=4)
    async def send(order: str) -> None:
        engine_jobs._note(order)

    queue = TaskiqQueue(broker, name="later")
    task = await hand_over(queue, send, "a")
    async with TaskHost(queues=[queue]) as host:
        with pytest.raises(TasksUnportableError, match="cannot get argument 'order', an object of the class object"):
            host.schedule(send, object())
    assert (broker.content()["task_name"], broker.content()["labels"]["priority"]) == ("mails", "4")
    assert task.function.endswith(".<locals>.send")
    await broker.work()
    assert [(function, order) for function, _, _, _, order in seen] == [(task.function, "a")]


async def test_a_shared_task_is_handed_over_to_its_default_broker_g21() -> None:
    broker, shared = Shelf(), AsyncSharedBroker()

    @shared.task(task_name="mails")
    async def send(order: str) -> None: ...

    shared.default_broker(broker)
    task = await hand_over(TaskiqQueue(broker), send, "a")
    assert broker.content()["task_name"] == "mails"
    assert task.function.endswith(".<locals>.send")


async def test_a_listed_decorated_task_has_options_g21() -> None:
    broker = Shelf()

    @broker.task
    async def send(order: str) -> None: ...

    await hand_over(TaskiqQueue(broker, {send: {"priority": 5}}), send, "a")
    assert broker.content()["labels"]["priority"] == "5"


@pytest.mark.parametrize("args", [(), ("a", "b")])
async def test_wrong_arguments_of_a_decorated_task_are_refused_g5_g21(args: tuple[str, ...]) -> None:
    broker = Shelf()

    @broker.task
    async def send(order: str) -> None: ...

    async with TaskHost(queues=[TaskiqQueue(broker)]) as host:
        with pytest.raises(TypeError, match="argument") as refused:
            host.schedule(send, *args)  # type: ignore[call-arg]
    assert "<locals>.send(order" in str(refused.value)


async def test_a_task_of_another_broker_runs_here_g21() -> None:
    broker = Shelf()

    @Shelf().task
    async def send(order: str) -> str:
        return order

    async with TaskHost(queues=[TaskiqQueue(broker)]) as host:
        assert await host.schedule(send, "a") == "a"
    assert broker.messages == []


async def test_the_middlewares_of_the_broker_see_the_message_g21() -> None:
    class Noting(taskiq.TaskiqMiddleware):
        async def pre_send(self, message: Any) -> Any:
            message.labels["seen"] = "yes"
            return message

        def post_send(self, message: Any) -> None:
            broker.events.append("post_send")

    broker = Shelf()
    broker.add_middlewares(Noting())
    await hand_over(TaskiqQueue(broker, [archive]), archive, "a")
    assert broker.content()["labels"]["seen"] == "yes"
    assert broker.events == ["startup", "post_send", "shutdown"]


async def hang() -> None:
    await asyncio.Event().wait()


async def fail_with(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("fail_then", "logged"),
    [
        (partial(fail_with, ConnectionRefusedError("no metrics")), ConnectionRefusedError),
        (partial(fail_with, asyncio.CancelledError()), asyncio.CancelledError),
        (partial(fail_with, SystemExit(3)), SystemExit),
        (hang, asyncio.CancelledError),
    ],
    ids=["error", "cancellation", "exit", "hang"],
)
async def test_a_failure_after_publishing_does_not_publish_again_g4_g21(
    fail_then: Any, logged: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(taskiq.TaskiqMiddleware):
        async def post_send(self, message: Any) -> None:
            await fail_then()

    broker = Shelf()
    broker.add_middlewares(Failing())
    await hand_over(TaskiqQueue(broker, [archive], fallback="here", attempt_timeout=1), archive, "a")
    assert len(broker.messages) == 1
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info is not None
    assert type(record.exc_info[1]) is logged
    assert vars(record)["task_function"] == archive.__module__ + ".archive"


async def test_a_task_that_is_cancelled_after_publishing_was_handed_over_g21() -> None:
    class Hanging(taskiq.TaskiqMiddleware):
        async def post_send(self, message: Any) -> None:
            await hang()

    broker = Shelf()
    broker.add_middlewares(Hanging())
    async with TaskHost(queues=[TaskiqQueue(broker, [archive])]) as host:
        task = host.schedule(archive, "a")
        await until(lambda: broker.messages)
        task.cancel()
        await task.wait()
    assert task.status == "handed_over"


async def test_each_attempt_gives_the_middlewares_the_first_arguments_g21() -> None:
    class Encrypting(taskiq.TaskiqMiddleware):
        def pre_send(self, message: Any) -> Any:
            message.args[0].append("encrypted")
            gave.append(message.args)
            if len(gave) < 3:
                raise ConnectionRefusedError
            return message

    gave: list[Any] = []
    broker = Shelf()
    broker.add_middlewares(Encrypting())
    await hand_over(TaskiqQueue(broker, [count_orders]), count_orders, ["a"])
    assert gave == [[["a", "encrypted"]]] * 3


async def test_a_broker_that_cannot_be_started_is_shut_down_before_the_next_attempt_g21() -> None:
    class Down(Shelf):
        async def startup(self) -> None:
            await super().startup()
            if self.events.count("startup") == 1:
                raise ConnectionRefusedError
            if self.events.count("startup") == 2:
                await hang()

        async def shutdown(self) -> None:
            await super().shutdown()
            if self.events.count("shutdown") == 2:
                await hang()

    broker = Down()
    await hand_over(TaskiqQueue(broker, [archive], attempt_timeout=1), archive, "a")
    assert broker.events == ["startup", "shutdown"] * 3
    assert len(broker.messages) == 1


async def test_a_worker_that_hands_over_leaves_its_broker_open_g21() -> None:
    broker = Shelf()
    broker.is_worker_process = True
    await hand_over(TaskiqQueue(broker, [archive]), archive, "a")
    assert broker.events == []


AGAIN: Any = redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 1)


@pytest.mark.parametrize(
    ("settings", "is_sure"),
    [
        ({}, True),
        ({"retry_on_timeout": True}, False),
        ({"retry": AGAIN}, False),
        ({"retry_on_error": [redis.exceptions.ReadOnlyError]}, False),
    ],
    ids=["once", "timeout", "retry", "error"],
)
async def test_a_refused_connection_means_not_published_g21(settings: Any, is_sure: bool) -> None:
    broker = taskiq_redis.RedisStreamBroker(f"redis://127.0.0.1:{free_port()}", consumer_id="0", **settings)
    queue = TaskiqQueue(broker, [archive])
    prepared = queue.prepare(Call("1", archive, f"{JOBS}.archive", ("a",), {}, {}, {}))
    with pytest.raises(redis.exceptions.ConnectionError) as failed:
        await queue.publish(prepared, {})
    assert queue.refused(failed.value) is is_sure


async def test_a_host_that_refuses_at_each_of_its_addresses_has_not_got_the_call_g21(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolve = socket.getaddrinfo

    def resolve_two(host: Any, *args: Any, **kwargs: Any) -> Any:
        hosts = ("127.0.0.1", "127.0.0.2") if host == "two.test" else (host,)
        return [address for each in hosts for address in resolve(each, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve_two)  # uvloop does not ask it, and finds no such host
    broker = taskiq_redis.RedisStreamBroker(f"redis://two.test:{free_port()}", consumer_id="0")
    queue = TaskiqQueue(broker, [archive])
    prepared = queue.prepare(Call("1", archive, f"{JOBS}.archive", ("a",), {}, {}, {}))
    with pytest.raises(redis.exceptions.ConnectionError) as failed:
        await queue.publish(prepared, {})
    assert queue.refused(failed.value)


async def test_an_error_without_a_number_leaves_the_decision_to_its_cause_g21() -> None:
    queue = TaskiqQueue(taskiq_redis.RedisStreamBroker("redis://localhost", consumer_id="0"), [archive])
    with pytest.raises(OSError, match="All connection attempts failed") as failed:
        await anyio.connect_tcp("127.0.0.1", free_port())
    assert failed.value.errno is None
    assert queue.refused(failed.value)


async def test_without_settings_an_attempt_tries_once_g21() -> None:
    """Otherwise an earlier try may have published."""
    with SilentBroker(hangs=False) as silent:
        broker = taskiq_redis.RedisStreamBroker(f"redis://127.0.0.1:{silent.port}", consumer_id="0")
        queue = TaskiqQueue(broker, [archive])
        prepared = queue.prepare(Call("1", archive, f"{JOBS}.archive", ("a",), {}, {}, {}))
        with pytest.raises(redis.exceptions.ConnectionError):
            await queue.publish(prepared, {})
        await queue.close()
        assert silent.connections == 1


def test_other_errors_may_have_been_published_g21() -> None:
    queue = TaskiqQueue(taskiq_redis.RedisStreamBroker("redis://localhost", consumer_id="0"), [archive])
    assert not queue.refused(TimeoutError())
    circle = RuntimeError()
    circle.__cause__ = circle
    assert not queue.refused(circle)
    lost = ConnectionResetError(104, "reset")
    assert not queue.refused(lost)
    lost.__context__ = redis.exceptions.ResponseError("of an earlier try")  # only a cause is the answer to this one
    assert not queue.refused(lost)
    assert not TaskiqQueue(Shelf(), [archive]).refused(ConnectionRefusedError(111, "refused"))
