"""G21: `CeleryQueue` with a real RabbitMQ."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread
import pytest
from tests.queues.brokers import Worker
from tests.queues.engines import make_celery_on_rabbitmq
from tests.queues.rabbit import Rabbit, find_rabbitmq
from tests.taskphase.engine_jobs import archive

from taskphase import TaskHost
from taskphase.queues import Call, Queue
from taskphase.testing import queue_contract

celery = pytest.importorskip("celery", reason="no tests with RabbitMQ: celery is not installed")
if find_rabbitmq() is None:
    pytest.skip("no tests with RabbitMQ: the machine has no rabbitmq-server", allow_module_level=True)

import amqp  # noqa: E402
import kombu  # noqa: E402

from taskphase._celery_client import connection_of  # noqa: E402
from taskphase.celery import CeleryQueue  # noqa: E402

MOST = 120  # seconds for the contract, with one start of the server


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    with Rabbit(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


@pytest.fixture
def app(rabbit: Rabbit) -> Iterator[Any]:
    """Return an app with a queue of its own."""
    app = celery.Celery("tests", broker=rabbit.url, set_as_current=False)
    app.conf.task_default_queue = f"orders-{uuid4().hex}"
    yield app
    app.close()


def waiting(app: Any) -> int:
    """Return the number of messages that wait for workers."""
    with app.connection_for_read() as connection:
        return connection.default_channel.queue_declare(app.conf.task_default_queue, passive=True).message_count


async def fail_to_publish(queue: CeleryQueue, error: Any = amqp.AMQPError, reason: str | None = None) -> Exception:
    """Make one attempt, and return its error."""
    prepared = queue.prepare(Call("1", archive, "archive", (1,), {}, queue.options_of(archive), {}))
    await queue.open()
    try:
        with pytest.raises(error, match=reason) as caught:
            await queue.publish(prepared, {})
    finally:
        await queue.close()
    return caught.value


async def test_a_message_goes_to_a_queue_that_was_deleted_meanwhile_g21(app: Any) -> None:
    """RabbitMQ confirms a message without a queue, and forgets it."""
    async with TaskHost(queues=[CeleryQueue(app, [archive])]) as host:
        await host.schedule(archive, 1).wait()
        with app.connection_for_write() as connection:
            connection.default_channel.queue_delete(app.conf.task_default_queue)
        tasks = [host.schedule(archive, number) for number in range(3)]
        for task in tasks:
            await task.wait()
    assert [task.status for task in tasks] == ["handed_over"] * 3
    assert waiting(app) == 3


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"exchange": "amq.direct", "routing_key": "nowhere"}, "NO_ROUTE"),
        ({"exchange": "nowhere", "routing_key": "nowhere", "declare": []}, "NOT_FOUND"),
        ({"declare": [kombu.Queue("mails", durable=False)]}, "PRECONDITION_FAILED"),
        ({"declare": [kombu.Queue("amq.ours")]}, "ACCESS_REFUSED"),
    ],
    ids=["no-route", "no-exchange", "other-settings", "no-permission"],
)
async def test_a_message_that_rabbitmq_cannot_take_is_refused_g21(app: Any, options: Any, reason: str) -> None:
    with app.connection_for_write() as connection:
        connection.default_channel.queue_declare("mails", durable=True)
    queue = CeleryQueue(app, {archive: options})
    assert queue.refused(await fail_to_publish(queue, reason=reason))


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [(":guest@", ":wrong@", "ACCESS_REFUSED"), ("//", "/nowhere", "NOT_ALLOWED")],
    ids=["password", "vhost"],
)
async def test_a_rabbitmq_that_lets_nobody_in_refuses_g21(rabbit: Rabbit, before: str, after: str, reason: str) -> None:
    scheme, _, rest = rabbit.url.partition("://")
    app = celery.Celery("tests", broker=f"{scheme}://{rest.replace(before, after)}", set_as_current=False)
    queue = CeleryQueue(app, [archive])
    assert queue.refused(await fail_to_publish(queue, reason=reason))


async def test_a_full_queue_of_rabbitmq_leaves_a_doubt_g21(app: Any) -> None:
    """With several queues the others may have the message."""
    name = app.conf.task_default_queue
    full = kombu.Queue(name, routing_key=name, queue_arguments={"x-max-length": 0, "x-overflow": "reject-publish"})
    app.conf.task_queues = [full]
    queue = CeleryQueue(app, [archive])
    assert not queue.refused(await fail_to_publish(queue, kombu.exceptions.OperationalError))
    assert waiting(app) == 0


async def test_an_attempt_at_a_rabbitmq_that_hangs_ends_in_its_time_g21(rabbit: Rabbit, app: Any) -> None:
    """A thread that publishes cannot be stopped. It waits for an answer, then for the end of the connection."""
    app.conf.update(broker_connection_timeout=0.5, broker_transport_options={"read_timeout": 1, "write_timeout": 0.1})
    _, longest = connection_of(app)
    assert longest is not None
    queue = CeleryQueue(app, [archive], attempt_timeout=longest + 1.01)
    first, second = (queue.prepare(Call(name, archive, "archive", (1,), {}, {}, {})) for name in ("1", "2"))
    await queue.open()
    await queue.publish(first, {})
    rabbit.hang()
    try:
        with pytest.raises(kombu.exceptions.OperationalError), anyio.fail_after(queue.attempt_timeout):
            await queue.publish(second, {})
    finally:
        rabbit.go_on()
        await queue.close()


def test_celery_keeps_the_contract_with_rabbitmq_g21(rabbit: Rabbit, tmp_path: Path) -> None:
    def make_queue(**settings: Any) -> Queue:
        return make_celery_on_rabbitmq(rabbit.port, **settings)

    @asynccontextmanager
    async def down() -> AsyncGenerator[None]:
        await anyio.to_thread.run_sync(rabbit.kill)
        yield
        await anyio.to_thread.run_sync(rabbit.start)

    @asynccontextmanager
    async def hung() -> AsyncGenerator[None]:
        rabbit.hang()
        try:
            yield
        finally:
            rabbit.go_on()

    async def main() -> None:
        with anyio.fail_after(MOST):
            await queue_contract(make_queue, down=down, hung=hung, trace=True, within=20)

    env = {"ENGINE": "rabbitmq", "BROKER_PORT": str(rabbit.port)}
    with Worker("celery", env, tmp_path / "journal", tmp_path, "contract"):
        anyio.run(main)
