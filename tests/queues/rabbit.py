"""A real RabbitMQ, in processes of its own that end by their pids."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.queues.brokers import poll
from tests.servers.harness import free_port

READY_WITHIN = 60.0  # seconds; it needs 5 on 2 cores

# Debian's command wants to be root or the user rabbitmq, and the script behind it does not.
SCRIPT = "/usr/lib/rabbitmq/bin/rabbitmq-server"


def find_rabbitmq() -> str | None:
    """Return the path of the server; None on a machine without it, or without the port mapper of Erlang."""
    server = SCRIPT if Path(SCRIPT).exists() else shutil.which("rabbitmq-server")
    return server if shutil.which("epmd") else None


class Rabbit:
    """A server of its own, on a free port, in an empty directory. It keeps its messages when it is killed.

    :ivar url: of the server
    """

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self._directory = directory
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._env = {
            "HOME": str(directory),  # for the cookie of Erlang
            "ERL_EPMD_PORT": str(free_port()),
            "RABBITMQ_NODENAME": f"tests-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            # Not the settings of the machine.
            "RABBITMQ_CONF_ENV_FILE": str(directory / "none"),
            "RABBITMQ_CONFIG_FILE": str(directory / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "none"),
        }

    def __enter__(self) -> Self:
        # Otherwise the server would start this one, as a process that stays.
        mapper = subprocess.Popen(
            ["epmd", "-port", self._env["ERL_EPMD_PORT"]], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        self._stack.callback(mapper.wait, 10)
        self._stack.callback(mapper.kill)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._stack.close()

    def start(self) -> None:
        """Start the server, again after `kill()`, and wait until it answers."""
        path = find_rabbitmq()
        assert path is not None
        with (self._directory / "rabbitmq.log").open("ab") as output:
            self._process = subprocess.Popen(
                [path],
                env={**os.environ, **self._env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        poll(self._answers, "an answer of RabbitMQ", READY_WITHIN)

    def hang(self) -> None:
        """Have the server take connections, and never answer."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        """End `hang()`."""
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        """End the server at once."""
        if self._process is not None:
            self._send(signal.SIGKILL)
            self._process.wait(10)
            self._process = None

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _answers(self) -> bool:
        from kombu import Connection

        connection = Connection(self.url, connect_timeout=2)
        try:
            connection.connect()
        except connection.connection_errors:
            return False
        finally:
            connection.release()
        return True
