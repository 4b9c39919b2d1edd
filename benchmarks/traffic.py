"""Requests per second and latency of one uvicorn worker."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from . import keepers
from .apps import RECORDED, UNRECORDED
from .figures import Table, figure_of
from .load import GENERATOR, load
from .processes import start_python
from .realistic import NO_TASKS, SLOW, SLOW_WITH_AIOJOBS, awaits_once, slow

CONNECTIONS = 16
SECONDS = 1.0  # of load on one server in one round, after as many on its base
MORE = ("p50, ms", "p95, ms", "p99, ms", "CPU, us")

BASE = "three BackgroundTasks"
SERVERS = {
    "ours": [NO_TASKS, BASE, "Tasks: nothing scheduled", "Tasks: one in each phase"],
    "theirs": ["Tasks of PyPI: nothing scheduled", "Tasks of PyPI: one in each phase"],
}

SLOW_SERVERS = {"ours": [NO_TASKS, SLOW, SLOW_WITH_AIOJOBS, slow("ours")], "theirs": [slow("theirs")]}

TITLE = "one uvicorn worker, uvloop and httptools"
AWAITING = "endpoints that await once"
BEHIND = "a task of 10 ms behind each response"
JOURNAL = "one uvicorn worker with a journal"


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
    names = [(library, name) for library in libraries for name in SERVERS[library]]
    awaiting = [(library, awaits_once(name)) for library, name in names]
    behind = [(library, name) for library in libraries for name in SLOW_SERVERS[library]]
    return [
        _measure(TITLE, names, BASE, CONNECTIONS, rounds),
        _measure(f"{AWAITING}, {TITLE}", awaiting, awaits_once(BASE), CONNECTIONS, rounds),
        _measure(f"{BEHIND}, {TITLE}", behind, SLOW, CONNECTIONS, rounds),
        *_measure_journal(libraries, rounds),
    ]


def _measure_journal(libraries: Sequence[str], rounds: int) -> list[Table]:
    if "ours" not in libraries:
        return []
    names = [("ours", name) for name in (UNRECORDED, *RECORDED.values())]
    names += [(library, name) for library, name in keepers.NAMES.items() if keepers.is_measured(library)]
    return [_measure(JOURNAL, names, UNRECORDED, connections, rounds) for connections in (1, CONNECTIONS)]


def _measure(title: str, names: Sequence[tuple[str, str]], base_name: str, connections: int, rounds: int) -> Table:
    """Return requests per second. With one connection: the median time of a request."""
    key, unit = ("p50, ms", "ms") if connections == 1 else ("requests", "requests/s")
    pairs: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {}
    with ExitStack() as stack:
        servers = {name: stack.enter_context(server(library, name)) for library, name in names}
        for at in servers.values():
            load(*at, connections, 0.2)  # the first requests of a server are slow
        for _ in range(rounds):
            for name, at in servers.items():
                base = load(*servers[base_name], connections, SECONDS)
                pairs.setdefault(name, []).append((load(*at, connections, SECONDS), base))
    figures = []
    for name, taken in pairs.items():
        more = {key: statistics.median(answer[key] for answer, _ in taken) for key in MORE}
        requests = [(answer[key], base[key]) for answer, base in taken]
        figures.append(replace(figure_of(name, requests), more=more))
    plural = "connection" if connections == 1 else "connections"
    return Table(f"{title}, {connections} {plural} of {GENERATOR}", unit, base_name, figures, rounds)
