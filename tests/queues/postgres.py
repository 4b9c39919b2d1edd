"""A real PostgreSQL, in a process of its own that ends by its pid."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.queues.brokers import poll
from tests.servers.harness import free_port

PROGRAMS = ("initdb", "postgres")
PACKAGES = ("procrastinate", "psycopg", "psycopg_pool")
STOPS_WITHIN = 20.0  # seconds


def what_is_missing() -> str | None:
    """Return why tests with a PostgreSQL cannot run here; None if they can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    missing += [name for name in PACKAGES if find_spec(name) is None]
    return f"no tests with PostgreSQL: the machine has no {', '.join(missing)}" if missing else None


def user() -> dict[str, Any]:
    """Return the arguments of a process that is not root: PostgreSQL refuses root."""
    return {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}


class Postgres:
    """A server of its own, on a free port, with an empty database.

    :ivar url: of the database
    """

    def __init__(self) -> None:
        self._port = free_port()
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    def __enter__(self) -> Self:
        # Not in pytest's folder, which only its user may enter.
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="taskphase-postgres-")))
        self._folder.chmod(0o777)
        initdb = ["initdb", "--pgdata", self._data, "--username", "postgres", "--auth", "trust", "--no-sync"]
        subprocess.run(initdb, check=True, capture_output=True, cwd="/", **user())
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._stack.close()

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def start(self) -> None:
        """Start the server, again after `stop()`, and wait until it answers."""
        with (self._folder / "log").open("ab") as output:
            self._process = subprocess.Popen(
                ["postgres", "-D", self._data, "-p", str(self._port), "-h", "127.0.0.1", "-k", ""],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **user(),
            )
        poll(self._answers, "an answer of PostgreSQL")

    def stop(self) -> None:
        """End the server: clients lose their connections, and no new one is accepted."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(STOPS_WITHIN)
            self._process = None

    def hang(self) -> None:
        """Have the server, and the processes of its connections, take what comes and never answer."""
        self._send_to_all(signal.SIGSTOP)

    def go_on(self) -> None:
        """End `hang()`."""
        self._send_to_all(signal.SIGCONT)

    def execute(self, statement: str) -> list[Any]:
        """Run one statement, and return its rows."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _send_to_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        children = subprocess.run(["pgrep", "-P", str(self._process.pid)], capture_output=True, text=True, check=True)
        for pid in [self._process.pid, *map(int, children.stdout.split())]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
