"""The queues of the tests of the contract, for the test and for its workers.

`timeout`: the most seconds for an answer of the broker. Workers have more: a worker of Celery whose acknowledgement
gets no answer in time takes no further messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from taskphase.queues import Queue


def make_taskiq(port: int, timeout: float = 1, **settings: Any) -> Queue:
    from taskiq_redis import RedisStreamBroker

    from taskphase.taskiq import TaskiqQueue

    # A worker blocks for `xread_block`, which has to be below the `socket_timeout` of redis-py.
    broker = RedisStreamBroker(f"redis://127.0.0.1:{port}", consumer_id="0", xread_block=300)
    return TaskiqQueue(broker, attempt_timeout=timeout, deadline=1.5, **settings)


def make_celery(port: int, timeout: float = 0.6, **settings: Any) -> Queue:
    from celery import Celery

    from taskphase.celery import CeleryQueue

    app = Celery("contract", broker=f"redis://127.0.0.1:{port}/0", set_as_current=False)
    app.conf.update(
        broker_transport_options={"socket_timeout": timeout, "socket_connect_timeout": 0.2},
        broker_connection_retry_on_startup=True,
        task_acks_late=True,
        worker_prefetch_multiplier=1,
    )
    return CeleryQueue(app, attempt_timeout=timeout + 1.3, deadline=2, **settings)


def make_celery_on_rabbitmq(port: int, timeout: float = 0.6, **settings: Any) -> Queue:
    from celery import Celery

    from taskphase.celery import CeleryQueue

    app = Celery("contract", broker=f"amqp://guest:guest@127.0.0.1:{port}//", set_as_current=False)
    app.conf.update(
        broker_transport_options={"read_timeout": timeout, "write_timeout": timeout},
        broker_connection_timeout=timeout,
        broker_connection_retry_on_startup=True,
        task_acks_late=True,
        worker_prefetch_multiplier=1,
    )
    return CeleryQueue(app, deadline=4, **settings)


QUEUES: Mapping[str, Callable[..., Queue]] = {
    "taskiq": make_taskiq,
    "celery": make_celery,
    "rabbitmq": make_celery_on_rabbitmq,
}
