from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.queues.brokers import Redis, Worker, find_redis
from tests.servers.harness import SERVERS, Server, ServerKind

UVICORN = SERVERS[0]
APP = "tests.queues.programs.app:app"

# Settings of `programs/handed.py`. With times as long as these, a busy machine makes neither a twin nor a failure. A
# worker keeps them if a server has others: a worker of Celery whose acknowledgement gets no answer in time takes no
# further messages.
PATIENT = {"DEADLINE": "60", "ATTEMPT": "30", "IDLE": "600"}


class Setting:
    """One engine: its Redis, its workers, and servers of the app.

    :ivar redis: runs
    """

    def __init__(self, engine: str, directory: Path, stack: ExitStack) -> None:
        self.engine = engine
        self.directory = directory
        self.stop_file = directory / "stop"
        self._stack = stack
        self.redis = Redis(directory)

    def start_redis(self, *arguments: str) -> Redis:
        """Start the Redis, with more arguments."""
        self.redis = self._stack.enter_context(Redis(self.directory, *arguments))
        return self.redis

    def start_server(self, kind: ServerKind = UVICORN, *, is_to_answer: bool = True, **env: str) -> Server:
        """Start a server of the app."""
        return self._stack.enter_context(Server(kind, APP, {**self._env(), **env}, is_to_answer=is_to_answer))

    def start_worker(self, server: Server, **env: str) -> Worker:
        """Start a worker that writes into the journal of `server`."""
        env = {**self._env(), **env}
        return self._stack.enter_context(Worker(self.engine, env, server.journal_path, self.directory))

    def start_worker_of_the_contract(self) -> Worker:
        """Start a worker that knows the functions of `queue_contract()`."""
        journal = self.directory / "journal"
        return self._stack.enter_context(Worker(self.engine, self._env(), journal, self.directory, "contract"))

    def _env(self) -> dict[str, str]:
        port, stop = str(self.redis.port), str(self.stop_file)
        return {**PATIENT, "ENGINE": self.engine, "BROKER_PORT": port, "STOP": stop}


@pytest.fixture(params=["taskiq", "celery"])
def setting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Setting]:
    """Return an engine without processes. Without the engine or a Redis pytest leaves the tests out, and says so."""
    pytest.importorskip(request.param, reason=f"no tests with real queues: {request.param} is not installed")
    if find_redis() is None:
        pytest.skip("no tests with real queues: the machine has no redis-server; set REDIS_SERVER to its path")
    with ExitStack() as stack:
        yield Setting(request.param, tmp_path, stack)
