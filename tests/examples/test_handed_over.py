"""The example that hands its tasks over: each task runs once, here and in a worker."""

from __future__ import annotations

import pytest
from tests.examples.programs import example
from tests.queues.brokers import find_redis


@pytest.mark.parametrize("queue", ["none", "taskiq", "celery"])
def test_each_task_of_the_500_orders_runs_once_g21(queue: str) -> None:
    if queue != "none":
        pytest.importorskip(queue)
        if find_redis() is None:
            pytest.skip("no example with a queue: the machine has no redis-server")
    assert example("handed_over.py", "--queue", queue)[-1] == "1000 of 1000 tasks ran, 0 runs were twins"
