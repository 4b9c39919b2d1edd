"""Rounds in which real servers with a journal die under load, hang, fork and have a full disk.

`python -m soak.crashes [ROUNDS]` runs only these, and writes their part of the page.
"""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import httpx
from tests.servers.apps.journal import PATH
from tests.servers.harness import ANSWER_WITHIN, ROOT, SERVERS, Record, Server, ServerKind

from .overlaps import Death, overlaps

ROUNDS = 200
SEED = 20
PAGE = ROOT / "docs" / "soak.md"
HEADING = "## Crashes of an app with a journal"

APP = "tests.servers.apps.journal:app"
CLIENTS = 4
JOBS = 3
KILLS = 10  # of one server, one after the other, with one file
WORKERS = 20  # kills of one of two workers, one after the other, with one file
SETTLES_WITHIN = 60.0
HANGS = 10.0  # seconds of SIGSTOP
SMALL = 8  # MiB: the size of the disk that becomes full, with room for a whole WAL

_BY_NAME = {kind.name: kind for kind in SERVERS}
_UVICORN = _BY_NAME["uvicorn"]
KINDS = (
    _UVICORN,
    replace(_UVICORN, name="uvicorn, 2 workers", arguments=_UVICORN.arguments.replace("--workers 1", "--workers 2")),
    _BY_NAME["hypercorn-trio"],
    _BY_NAME["granian"],
)


@dataclass
class Series:
    """What happened to one file.

    :ivar answered: the subjects of requests that a server has answered with 200
    :ivar refused: the subjects of requests whose routes have failed
    :ivar rounds: the number of crashes, or of other faults
    :ivar deaths: the kills of processes
    :ivar at_once: the number of runs that overlapped another run of the same task, both in living processes
    """

    name: str
    rounds: int = 0
    answered: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    runs: Counter[str] = field(default_factory=Counter)
    recovered: int = 0
    deaths: list[Death] = field(default_factory=list[Death])
    at_once: int = 0
    broken: list[str] = field(default_factory=list[str])

    def judge(self, records: Sequence[Record], path: Path) -> None:
        """Note the broken promises."""
        self.runs = Counter(each.subject for each in records if each.event in ("ran", "again"))
        self.recovered += sum(each.event == "again" for each in records)
        wanted = {f"{each}.{phase}" for each in self.answered for phase in ("route", "response")}
        self.broken += [f"{each} was answered, and never ran" for each in sorted(wanted - self.runs.keys())]
        self.broken += [f"{each} ran, and its route has failed" for each in sorted(self._forbidden & self.runs.keys())]
        self.broken += [f"a row is left: {each}" for each in rows(path)]
        found = list(overlaps(records, self.deaths))
        self.at_once += len(found)
        self.broken += found

    @property
    def _forbidden(self) -> set[str]:
        return {f"{each}.{kind}" for each in self.refused for kind in ("refused", "route", "response")}

    @property
    def twins(self) -> int:
        """The number of runs of tasks that had run."""
        return sum(count - 1 for count in self.runs.values())


class Load:
    """Clients that post until the server is gone, or `stop()`.

    :param outlasts: True: after a broken connection the clients go on, because another worker answers
    """

    def __init__(self, server: Server, outcome: Series, prefix: str, *, outlasts: bool = False) -> None:
        self._outcome = outcome
        self._outlasts = outlasts
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._post, args=(server.base_url, f"{prefix}.{number}"))
            for number in range(CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Wait for the last answers."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _post(self, url: str, prefix: str) -> None:
        number = 0
        with httpx.Client(base_url=url, timeout=ANSWER_WITHIN + HANGS, trust_env=False) as client:
            while not self._stopped.is_set():
                number += 1
                subject = f"{prefix}.{number}"
                try:
                    status = client.post(f"/{'refused' if number % 4 == 3 else 'order'}/{subject}").status_code
                except httpx.TransportError:
                    if self._outlasts:
                        continue
                    return
                # 500: the journal cannot be written.
                (self._outcome.answered if status == 200 else self._outcome.refused).add(subject)


def rows(path: Path) -> list[tuple[object, ...]]:
    """Return the tasks in the file."""
    connection = sqlite3.connect(path, timeout=10)
    try:
        return connection.execute("SELECT state, function, arguments FROM tasks").fetchall()
    finally:
        connection.close()


def until(condition: Callable[[], object], within: float = SETTLES_WITHIN) -> bool:
    """Return whether `condition` has become true in time."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def kill(server: Server, outcome: Series) -> None:
    """End all processes of a server at once."""
    at = time.monotonic()
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    outcome.deaths.append(Death(at, until=time.monotonic()))


def processes(server: Server) -> list[int]:
    """Return the living processes of a server that have the journal open, as owners."""
    found: list[int] = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError):
            pid = int(status.parent.name)
            if os.getsid(pid) == server.pid and any(
                each.readlink().suffix == ".alive" for each in (status.parent / "fd").iterdir()
            ):
                found.append(pid)
    return found


def kills(kind: ServerKind, count: int, seed: int, place: Path) -> Series:
    """Kill a server `count` times at random moments under load, and start it again."""
    path, chance, outcome = place / "tasks.db", random.Random(f"{seed}-{kind.name}"), Series(f"`kill -9`: {kind.name}")
    with Server(kind, APP, {PATH: str(path)}) as server:
        for number in range(count):
            before = len(outcome.answered)
            load = Load(server, outcome, str(number))
            if number % 4:
                until(lambda before=before: len(outcome.answered) > before, ANSWER_WITHIN)
            time.sleep(chance.uniform(0.05, 0.5))
            kill(server, outcome)
            load.stop()
            outcome.rounds += 1
            server.start_again()
        until(lambda: not rows(path))
        outcome.judge(server.journal(), path)
    return outcome


def kill_workers(count: int, seed: int, place: Path) -> Series:
    """Kill one of two workers `count` times at random moments under load. The processes that live take its tasks while
    they serve: the other worker, and the new one that uvicorn starts.
    """
    path, chance = place / "tasks.db", random.Random(f"{seed}-worker")
    outcome = Series("`kill -9` of one of two workers")
    with Server(KINDS[1], APP, {PATH: str(path)}) as server:
        load = Load(server, outcome, "a", outlasts=True)
        try:
            while outcome.rounds < count and until(lambda: len(processes(server)) == 2):
                time.sleep(chance.uniform(0.05, 1))
                victim = chance.choice(processes(server))
                at = time.monotonic()
                os.kill(victim, signal.SIGKILL)
                until(lambda victim=victim: victim not in processes(server))
                outcome.deaths.append(Death(at, victim, time.monotonic()))
                outcome.rounds += 1
                left = set(rows(path))
                if not until(lambda left=left: not left.intersection(rows(path))):
                    outcome.broken.append("tasks of a killed worker are left, and other workers live")
        finally:
            load.stop()
        if outcome.rounds < count:
            outcome.broken.append("uvicorn has not started another worker")
        until(lambda: not rows(path))
        outcome.judge(server.journal(), path)
    return outcome


def hang(place: Path) -> Series:
    """Stop one of two workers for a while: its tasks stay with it. The other one works on."""
    path, outcome = place / "tasks.db", Series(f"SIGSTOP of one of two workers for {HANGS:g} s", 1)
    # uvicorn itself kills a worker that does not answer for some seconds.
    kind = replace(KINDS[1], arguments=f"{KINDS[1].arguments} --timeout-worker-healthcheck 60")
    with Server(kind, APP, {PATH: str(path)}) as server:
        until(lambda: len(processes(server)) == 2, ANSWER_WITHIN)
        load = Load(server, outcome, "a")
        time.sleep(1)
        victim = processes(server)[0]
        os.kill(victim, signal.SIGSTOP)
        time.sleep(HANGS)
        if any(entry.event == "again" for entry in server.journal()):
            outcome.broken.append("another process has taken a task of a process that hangs")
        os.kill(victim, signal.SIGCONT)
        time.sleep(1)
        load.stop()
        until(lambda: not rows(path))
        outcome.judge(server.journal(), path)
        if outcome.twins:
            outcome.broken.append(f"{outcome.twins} tasks ran twice, although no process has died")
    return outcome


def poison(place: Path) -> Series:
    """Have a task kill its process until the task is kept as failed."""
    path, outcome = place / "tasks.db", Series("a task that kills its process", 1)
    with Server(_UVICORN, APP, {PATH: str(path)}) as server:
        outcome.answered.add("before")
        server.post("/order/before").raise_for_status()
        server.post("/kill/a").raise_for_status()
        server.wait()
        outcome.deaths.append(Death(time.monotonic()))
        for _ in range(3):
            server._process = server._start()
            server.wait()
            outcome.deaths.append(Death(time.monotonic()))
        server.start_again()
        until(lambda: [row[0] for row in rows(path)] == ["failed"])
        if server.events("a") != ["kills"] * 4:
            outcome.broken.append(f"the task ran {len(server.events('a'))} times, not four times")
        server.post("/order/after").raise_for_status()
        outcome.answered.add("after")
        until(lambda: len(rows(path)) == 1)
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("DELETE FROM tasks WHERE state = 'failed'")
        connection.close()
        outcome.judge(server.journal(), path)
    return outcome


def forked(place: Path) -> Series:
    """Kill a process whose forked child lives on: the child keeps no lock, so the next process takes the tasks."""
    path, outcome = place / "tasks.db", Series("a forked child that outlives its parent", 1)
    with Server(_UVICORN, APP, {PATH: str(path)}) as server:
        load = Load(server, outcome, "a")
        time.sleep(0.3)
        child = int(server.post("/fork").text)
        server.post("/wait/stays").raise_for_status()
        time.sleep(0.3)
        at = time.monotonic()
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        outcome.deaths.append(Death(at, until=time.monotonic()))
        load.stop()
        server.start_again()
        if not until(lambda: not rows(path)):
            outcome.broken.append("the forked child keeps the tasks")
        with suppress(ProcessLookupError):
            os.kill(child, 0)
            os.kill(child, signal.SIGKILL)
            child = 0
        if child:
            outcome.broken.append("the forked child has not outlived its parent")
        outcome.judge(server.journal(), path)
    return outcome


def full(place: Path) -> Series | None:
    """Fill the disk under load, and make room again. None if this user may mount no disk."""
    outcome, disk = Series("a full disk", 1), place / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        return None
    try:
        path, filler = disk / "tasks.db", disk / "filler"
        with Server(_UVICORN, APP, {PATH: str(path)}) as server:
            load = Load(server, outcome, "a")
            time.sleep(0.2)  # the WAL is still short: it has to grow
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1024))
            time.sleep(2)
            before = len(outcome.refused)
            answered = len(outcome.answered)
            filler.unlink()
            time.sleep(2)
            if not until(lambda: len(outcome.answered) > answered):
                outcome.broken.append("no request is answered although the disk has room again")
            load.stop()
            if not before or "disk is full" not in server.output():
                outcome.broken.append("the disk was not full")
            kill(server, outcome)
            server.start_again()
            until(lambda: not rows(path))
            outcome.judge(server.journal(), path)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)
    return outcome


def run(seed: int, rounds: int) -> Iterator[Series]:
    """Run `rounds` crashes in all, and the other faults once each; some servers at the same time."""
    with ThreadPoolExecutor(JOBS) as pool:
        workers = partial(kill_workers, min(WORKERS, rounds), seed)
        faults = [pool.submit(_in_a_place, fault) for fault in (workers, hang, poison, forked, full)]
        parts = {
            kind.name: [
                pool.submit(_in_a_place, partial(kills, kind, min(KILLS, left), seed + left))
                for left in range(rounds // len(KINDS), 0, -KILLS)
            ]
            for kind in KINDS
        }
        for name, some in parts.items():
            total = Series(f"`kill -9`: {name}")
            for part in some:
                if (outcome := part.result()) is not None:
                    total = _sum(total, outcome)
            yield total
        for each in faults:
            if (outcome := each.result()) is not None:
                yield outcome


def _in_a_place(fault: Callable[[Path], Series | None]) -> Series | None:
    with tempfile.TemporaryDirectory(prefix="soak-crashes-") as place:
        return fault(Path(place))


def _sum(one: Series, two: Series) -> Series:
    """Return both, whose subjects differ by the name of the file."""
    prefix = f"{one.rounds}:"
    return Series(
        one.name,
        one.rounds + two.rounds,
        one.answered | {prefix + each for each in two.answered},
        one.refused | {prefix + each for each in two.refused},
        one.runs + Counter({prefix + each: count for each, count in two.runs.items()}),
        one.recovered + two.recovered,
        at_once=one.at_once + two.at_once,
        broken=one.broken + two.broken,
    )


def section(outcomes: Sequence[Series]) -> str:
    """Return the part of the page, in Markdown."""
    if not outcomes:
        return ""
    heads = ("fault", "rounds", "answered with 200", "failed routes", "tasks run", "recovered")
    heads += ("twins", "at once", "broken")
    lines: list[Sequence[object]] = [heads, ["---"] * len(heads)]
    lines += [
        (
            *(each.name, each.rounds, f"{len(each.answered):,}", f"{len(each.refused):,}", f"{len(each.runs):,}"),
            *(f"{each.recovered:,}", f"{each.twins:,}", each.at_once, len(each.broken)),
        )
        for each in outcomes
    ]
    table = "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
    return f"""{HEADING}

{CLIENTS} clients order two tasks of a [journal](how-to/survive-a-crash.md) with each request. One route of four fails.
`python -m soak.crashes` runs these rounds alone. The journal has `sync="normal"`.

- *`kill -9`*: 0.05 to 0.5 s after the first answer all processes of the server get SIGKILL. In one round of four the
  time counts from the begin of the load. Then the server starts again with the same file.
- *`kill -9` of one of two workers*: under load one worker gets SIGKILL, up to 1 s after both are there. The other one
  serves on, and uvicorn starts a new one. The next kill waits until these two have run the tasks of the dead one.
- *SIGSTOP*: after 1 s under load one of two workers gets SIGSTOP, {HANGS:g} s later SIGCONT. The load goes on for 1 s.
  Meanwhile the other worker serves, and looks for tasks of the dead every 2 s. uvicorn itself kills a worker that does
  not answer for 5 s. So uvicorn has `--timeout-worker-healthcheck 60` here.
- *A task that kills its process*: the server starts again after each of four deaths. The fifth process keeps the task
  as failed, and serves.
- *A forked child*: the app forks a child that closes the sockets and sleeps for a minute. Then the parent alone gets
  SIGKILL, and the server starts again.
- *A full disk*: the file is on a tmpfs of {SMALL} MiB, which only root can mount. After 0.2 s under load a second
  file takes all the room that is left. 2 s later it is removed. The load goes on for 2 s, and all processes get
  SIGKILL. Then the server starts again.

What is checked: each task of a request that was answered with 200 runs, and no task of a failed route does. At the end
the file is empty. "Recovered" counts runs in a later process, or in another worker. "Twins" counts runs of tasks that
had run: the process has died before the end of the run was in the file. "At once" counts runs of a task that went on in
another living process: each run notes its begin and its end, with the process and with the monotonic clock, which all
processes of the machine share. While a process only hangs, no task runs twice.

{table}"""


def tell(outcome: Series) -> None:
    """Print one series."""
    print(
        f"{outcome.name}: {outcome.rounds} rounds, {len(outcome.answered)} answered, {len(outcome.refused)} failed, "
        f"{len(outcome.runs)} ran, {outcome.recovered} recovered, {outcome.twins} twins, {outcome.at_once} at once",
        flush=True,
    )
    for broken in outcome.broken[:5]:
        print(f"  BROKEN {broken}", flush=True)


def run_all(seed: int, rounds: int) -> list[Series]:
    """Run and print the rounds."""
    outcomes: list[Series] = []
    for outcome in run(seed, rounds) if rounds else ():
        outcomes.append(outcome)
        tell(outcome)
    return outcomes


def main() -> int:
    """Run the rounds, and replace their part of the page."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    outcomes = run_all(SEED, rounds)
    print(text := section(outcomes))
    if rounds >= ROUNDS:
        page = re.sub(rf"{HEADING}\n.*?(?=^## )", "", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
        before, heading, after = page.partition("## What is checked")
        PAGE.write_text(f"{before}{text}\n{heading}{after}")
        print(f"written: docs/{PAGE.name}")
    return int(any(outcome.broken for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
