"""The worker of the tests of the contract: it knows the functions of the contract. The environment has the broker."""

from __future__ import annotations

import os

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from tests.queues.engines import QUEUES

from taskphase.testing import QUEUE_CONTRACT

trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
queue = QUEUES[os.environ["ENGINE"]](int(os.environ["BROKER_PORT"]), timeout=30, **QUEUE_CONTRACT)
broker = app = getattr(queue, "broker", None) or getattr(queue, "app", None)
