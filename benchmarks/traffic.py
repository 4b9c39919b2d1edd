"""Requests per second and latency of one uvicorn worker."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from .figures import Table, figure_of
from .load import GENERATOR, load
from .processes import start_python

CONNECTIONS = 16
SECONDS = 1.0  # of load on one server in one round, after as many on its base
MORE = ("p50, ms", "p95, ms", "p99, ms", "CPU, us")

BASE = "three BackgroundTasks"
SERVERS = {
    "ours": ["no tasks", BASE, "Tasks: nothing scheduled", "Tasks: one in each phase"],
    "theirs": ["Tasks of PyPI: nothing scheduled", "Tasks of PyPI: one in each phase"],
}

TITLE = "one uvicorn worker, uvloop and httptools"


@contextmanager
def server(library: str, name: str) -> Iterator[tuple[int, int]]:
    """Run a server; yield its port and its process."""
    process = start_python(library, "-m", "benchmarks.serve", name, library)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline()), process.pid
    finally:
        process.stdin.close()
        process.wait()


def measure(libraries: Sequence[str], rounds: int) -> list[Table]:
    """Load all servers in turns, `rounds` times."""
    pairs: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {}
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(server(library, name)) for library in libraries for name in SERVERS[library]
        }
        for at in servers.values():
            load(*at, CONNECTIONS, 0.2)  # the first requests of a server are slow
        for _ in range(rounds):
            for name, at in servers.items():
                base = load(*servers[BASE], CONNECTIONS, SECONDS)
                pairs.setdefault(name, []).append((load(*at, CONNECTIONS, SECONDS), base))
    figures = []
    for name, taken in pairs.items():
        more = {key: statistics.median(answer[key] for answer, _ in taken) for key in MORE}
        requests = [(answer["requests"], base["requests"]) for answer, base in taken]
        figures.append(replace(figure_of(name, requests), more=more))
    title = f"{TITLE}, {CONNECTIONS} connections of {GENERATOR}"
    return [Table(title, "requests/s", BASE, figures, rounds)]
