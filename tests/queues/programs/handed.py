"""The queue of one test: the module that app and worker import. The environment has the settings, in seconds:

- `DEADLINE` of a hand-over; `ATTEMPT`: the most for an answer of the broker
- `IDLE`: after so long without an acknowledgement a worker of Taskiq gives a message to another run
- `VISIBILITY`: the same, for Celery
"""

from __future__ import annotations

import os
from typing import Any

from tests.queues.programs import jobs

from fastapi_tasks.queues import Queue

ENGINE = os.environ["ENGINE"]
PORT = os.environ["BROKER_PORT"]
ATTEMPT = float(os.environ.get("ATTEMPT", "1"))
FUNCTIONS = [jobs.send_mail, jobs.archive, jobs.look_around, jobs.look_around_sync, jobs.work_long]
SETTINGS: dict[str, Any] = {
    "name": "later",
    "deadline": float(os.environ.get("DEADLINE", "8")),
    "carry": {"x-request-id": jobs.request_id},
}

queue: Queue
if ENGINE == "taskiq":
    from taskiq_redis import RedisStreamBroker

    from fastapi_tasks.taskiq import TaskiqQueue

    # A worker blocks for `xread_block`, which has to be below the `socket_timeout` of redis-py.
    broker = RedisStreamBroker(
        f"redis://127.0.0.1:{PORT}",
        consumer_id="0",
        idle_timeout=int(float(os.environ.get("IDLE", "1")) * 1000),
        xread_block=300,
        unacknowledged_lock_timeout=2,
    )
    queue = TaskiqQueue(broker, FUNCTIONS, attempt_timeout=ATTEMPT, **SETTINGS)

    @broker.task
    async def decorated(order: str) -> None:
        await jobs.look_around(order)

elif ENGINE == "celery":
    from celery import Celery

    from fastapi_tasks.celery import CeleryQueue

    url = os.environ.get("BROKER_URL", f"redis://127.0.0.1:{PORT}/0")
    app = Celery("handed", broker=url)
    timeouts: dict[str, Any] = {
        "socket_timeout": ATTEMPT,
        "socket_connect_timeout": ATTEMPT,
        "visibility_timeout": int(os.environ.get("VISIBILITY", "3600")),
    }
    if url.startswith("amqp"):
        timeouts = {"read_timeout": ATTEMPT, "write_timeout": ATTEMPT, "confirm_publish": True}
    app.conf.update(
        broker_transport_options=timeouts,
        broker_connection_timeout=ATTEMPT,
        broker_connection_retry_on_startup=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
    )
    queue = CeleryQueue(app, FUNCTIONS, **SETTINGS)

    @app.task
    def decorated(order: str) -> None:  # type: ignore[misc]
        jobs.look_around_sync(order)
