"""What is written down of a run: one line an event, in a file that outlives the process that writes it.

A line has the time in nanoseconds (`time.monotonic_ns()`, which all processes of a Linux machine share), the event, and
its fields, between single spaces. The events of a server:

    accepted TASK REQUEST KIND PHASE SHIELD WHEN   schedule() has returned
    refused TASK WHY                               schedule() has raised: "saturated" or "closed"
    began TASK ATTEMPT REQUEST                     the function was called; the request is what its context says
    ended TASK ATTEMPT HOW                         it has "returned", "raised", or was "cancelled"
    handled TASK ATTEMPT                           the handler was called, or the policy asked
    logged TASK                                    its failure was logged
    final TASK STATUS ATTEMPTS                     what the handle says, once it says an end; or at the very end
    returned REQUEST, failed REQUEST               the last line of the endpoint; or it raises
    left REQUEST                                   the app's call has ended, seen from inside of `add_tasks`
    first REQUEST                                  the first message is about to be handed to the server
    opened REQUEST                                 in its place, where the request is a websocket session
    sent REQUEST                                   the last message was handed to the server
    asked                                          the server asks for the shutdown
    drained                                        the app inside of `add_tasks` hears of it
    shutdown RUNNING WAITING DEFERRED              the user's lifespan begins its exit; the counts of the host
    down                                           the user's lifespan has ended its exit

And those of its clients:

    answered REQUEST STATUS COUNT                  the whole response is there, or the session was closed; it tells how
                                                   many tasks were accepted
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
"""In place of a request: a task that another task has scheduled."""


class Event(NamedTuple):
    """One line. `at` is in nanoseconds."""

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
    """An append-only file. `write` is for any thread, and loses nothing when the process is killed right after it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, *fields: object) -> None:
        """Write one event, in one write: lines of several threads do not mix."""
        os.write(self._file, f"{time.monotonic_ns()} {' '.join(map(str, fields))}\n".encode())

    def close(self) -> None:
        os.close(self._file)


def read(path: Path) -> Iterator[Event]:
    """Yield the events in the order of writing. A last line without an end, as SIGKILL may leave it, is left out."""
    with path.open() as lines:
        for line in lines:
            if line.endswith("\n"):
                yield Event.parse(line)
