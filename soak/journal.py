"""The record of a run: one event in each line, in a file that outlives the writing process.

A line contains the time in nanoseconds (`time.monotonic_ns()`, shared by all processes of a Linux machine), the event
and its fields, separated by single spaces. The events of a server:

    accepted TASK REQUEST KIND PHASE SHIELD WHEN   schedule() has returned
    refused TASK WHY                               schedule() has raised: "saturated" or "closed"
    began TASK ATTEMPT REQUEST                     the function was called; REQUEST comes from its context
    ended TASK ATTEMPT HOW                         the function has "returned", "raised", or was "cancelled"
    handled TASK ATTEMPT                           the handler or the policy was called
    logged TASK                                    the failure was logged
    final TASK STATUS ATTEMPTS                     the state of the handle after the end; or at the very end of the run
    returned REQUEST, failed REQUEST               the last line of the endpoint has run; or the endpoint raises
    left REQUEST                                   the app's call has ended, inside of `add_tasks`
    first REQUEST                                  the first message is about to be passed to the server
    opened REQUEST                                 the same for a websocket session
    sent REQUEST                                   the last message was passed to the server
    asked                                          the server requests the shutdown
    drained                                        the app inside of `add_tasks` receives that request
    shutdown RUNNING WAITING DEFERRED              the user's lifespan begins its exit; the counts of the host
    down                                           the user's lifespan has ended its exit

The events of a client:

    answered REQUEST STATUS COUNT                  the response is complete, or the session is closed; COUNT is the
                                                   number of accepted tasks
    gone REQUEST                                   the client has left in the middle
    broken REQUEST                                 the connection has failed
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ALONE = "-"
"""Replaces the request of a task that another task has scheduled."""


class Event(NamedTuple):
    """One line. `at`: in nanoseconds."""

    at: int
    name: str
    fields: tuple[str, ...]

    @classmethod
    def parse(cls, line: str) -> Event:
        at, name, *fields = line.split()
        return cls(int(at), name, tuple(fields))

    def __str__(self) -> str:
        return " ".join((self.name, *self.fields))


class Journal:
    """An append-only file. `write` works in any thread, and loses nothing if the process is killed right after the
    call.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, *fields: object) -> None:
        """Write one event in a single write, so that lines of several threads do not mix."""
        os.write(self._file, f"{time.monotonic_ns()} {' '.join(map(str, fields))}\n".encode())

    def close(self) -> None:
        os.close(self._file)


def read(path: Path) -> Iterator[Event]:
    """Yield the events in the order of writing. Skip an unfinished last line, which SIGKILL may leave."""
    with path.open() as lines:
        for line in lines:
            if line.endswith("\n"):
                yield Event.parse(line)
