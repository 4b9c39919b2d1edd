"""Rounds with a real Redis and a real worker that fail at random moments, while an app hands tasks over.

`python -m soak.queues` runs only these, and writes their part of the page.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx
from tests.queues.brokers import Redis, Worker, find_redis
from tests.servers.harness import ROOT, SERVERS, Server

from .steady import percentile

ENGINES = ("taskiq", "celery")
ROUNDS = 20
SEED = 20
PAGE = ROOT / "docs" / "soak.md"
HEADING = "## Queues whose broker fails"

LOAD = 12.0  # seconds of one round
DEADLINE = 8  # seconds of a hand-over
SETTLES_WITHIN = 90.0  # seconds after the load; Celery restores the messages of a lost worker in steps of 10 s
CLIENTS = 3
# Of one round each: faults in the time of the load, one after the other.
FAULTS = ("hang", "hang", "kill", "kill", "full", "worker")
DOWN = 30.0  # seconds, in one round of each engine: longer than DEADLINE


@dataclass
class Round:
    """What happened in one round.

    :ivar quiet: the longest stall of the loop, and the most time on a processor without a turn of the loop, in seconds,
        under the same load before the first fault
    :ivar stall: the same during the faults
    :ivar took: seconds from SIGTERM to the end of the server
    """

    engine: str
    number: int
    faults: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    answers: list[float] = field(default_factory=list)
    quiet_answers: list[float] = field(default_factory=list)
    confirmed: set[str] = field(default_factory=set)
    runs: Counter[str] = field(default_factory=Counter)
    errors: dict[str, list[str]] = field(default_factory=dict)
    quiet: Sequence[float] = (0.0, 0.0)
    stall: Sequence[float] = (0.0, 0.0)
    took: float = 0.0
    broken: list[str] = field(default_factory=list)

    @property
    def missing(self) -> set[str]:
        """The ids that neither ran nor failed."""
        return self.ids - self.runs.keys() - self.errors.keys()

    @property
    def lost_later(self) -> set[str]:
        """The ids that the broker had confirmed, and that the engine lost then."""
        return self.missing & self.confirmed


class Clients:
    """A few clients that order tasks until they are stopped."""

    def __init__(self, server: Server, outcome: Round) -> None:
        self._url = server.base_url
        self._outcome = outcome
        self._stopped = threading.Event()
        self.times = outcome.quiet_answers
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Wait for the last answers."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        random, made = Random(number), 0
        with httpx.Client(base_url=self._url, trust_env=False) as client:
            while not self._stopped.wait(random.uniform(0.02, 0.1)):
                name = f"{number}-{made}"
                made += 1
                began, times = time.perf_counter(), self.times
                response = client.post(f"/orders/{name}")
                times.append(time.perf_counter() - began)
                if response.status_code == 200:
                    self._outcome.ids.update((name, f"{name}b"))
                else:
                    self._outcome.broken.append(f"order {name} got {response.status_code}")


def run(seed: int, rounds: int) -> Iterator[Round]:
    """Run the rounds, the engines in turn."""
    for number in range(rounds):
        random = Random(f"{seed}-queues-{number}")
        with tempfile.TemporaryDirectory(prefix="soak-queues-") as place:
            yield run_round(ENGINES[number % 2], number, random, Path(place), is_down=number // 2 == rounds // 2 - 1)


def run_round(engine: str, number: int, random: Random, place: Path, *, is_down: bool) -> Round:
    """Run one round."""
    outcome = Round(engine, number)
    with ExitStack() as stack:
        redis = stack.enter_context(Redis(place, durable=True))
        env = {
            "ENGINE": engine,
            "BROKER_PORT": str(redis.port),
            "DEADLINE": str(DEADLINE),
            "STOP": "",
            "WATCH": "1",
            "VISIBILITY": "2",
        }
        server = stack.enter_context(Server(SERVERS[0], "tests.queues.programs.app:app", env))
        worker = stack.enter_context(Worker(engine, env, server.journal_path, place))
        server.get("/stall")
        clients = Clients(server, outcome)
        time.sleep(2)
        outcome.quiet = server.get("/stall").json()
        clients.times = outcome.answers
        if is_down:
            outcome.faults.append(f"down {DOWN:g} s")
            redis.kill()
            time.sleep(DOWN)
            redis.start()
        else:
            fail_at_random(outcome, random, redis, worker)
        outcome.stall = server.get("/stall").json()
        clients.stop()
        settle(outcome, server, worker)
        began = time.monotonic()
        server.term()
        server.wait(DEADLINE + 2)
        outcome.took = time.monotonic() - began
    judge(outcome)
    return outcome


def fail_at_random(outcome: Round, random: Random, redis: Redis, worker: Worker) -> None:
    """Have the Redis and the worker fail, one fault after the other."""
    end = time.monotonic() + LOAD
    while time.monotonic() < end:
        time.sleep(random.uniform(0.2, 1.5))
        fault, seconds = random.choice(FAULTS), random.uniform(0.2, 4)
        outcome.faults.append(f"{fault} {seconds:.1f} s")
        match fault:
            case "hang":
                redis.stop()
                time.sleep(seconds)
                redis.go_on()
            case "kill":
                redis.kill()
                time.sleep(seconds)
                redis.start()
            case "full":
                redis.command("CONFIG", "SET", "maxmemory", "1")
                time.sleep(seconds)
                redis.command("CONFIG", "SET", "maxmemory", "0")
            case _:
                worker.kill()
                worker.start()


def settle(outcome: Round, server: Server, worker: Worker) -> None:
    """Wait until each task has run or failed. Start the worker again from time to time: the engines look for messages
    of lost workers only at certain moments (Taskiq: when another message comes, Celery: soon after the start).
    """
    end = time.monotonic() + SETTLES_WITHIN
    again = time.monotonic() + 4
    count = 0
    while time.monotonic() < end:
        read(outcome, server)
        if not outcome.missing:
            return
        time.sleep(0.5)
        if outcome.engine == "taskiq":
            count += 1
            server.post(f"/host/wake-{count}")
        elif time.monotonic() > again:
            worker.kill()
            worker.start()
            again = time.monotonic() + 14


def read(outcome: Round, server: Server) -> None:
    """Read the journal."""
    outcome.runs.clear()
    outcome.errors.clear()
    for entry in server.journal():
        if entry.event == "handed_over":
            outcome.confirmed.add(entry.subject)
        elif entry.event == "ran":
            outcome.runs[entry.subject] += 1
        elif entry.event.startswith("on_error_"):
            outcome.errors.setdefault(entry.subject, []).append(entry.event.removeprefix("on_error_"))


def judge(outcome: Round) -> None:
    """Note the broken promises."""
    lost = sorted(outcome.missing - outcome.confirmed)
    outcome.broken += [f"{each} neither ran nor failed, and was not handed over" for each in lost]
    for each, told in outcome.errors.items():
        if len(told) != 1:
            outcome.broken.append(f"on_error was called {len(told)} times for {each}")
        if told[0] == "refused" and outcome.runs[each]:
            outcome.broken.append(f"{each} ran although it was refused")


def section(outcomes: Sequence[Round]) -> str:
    """Return the part of the page, in Markdown."""
    if not outcomes:
        return ""
    rows: list[tuple[object, ...]] = []
    for engine in ENGINES:
        some = [each for each in outcomes if each.engine == engine]
        rows.append((engine.capitalize(), *_row(some)))
    heads = (
        "engine",
        "rounds",
        "requests",
        "tasks",
        "ran",
        "twins",
        "`refused`",
        "`unknown`",
        "lost after that",
        "broken promises",
    )
    names = ("engine", "answers: median", "99%", "slowest", "99% before", "slowest before")
    names += ("longest stall", "before", "on a processor", "before")
    by_engine = [[each for each in outcomes if each.engine == engine] for engine in ENGINES]
    times = [(engine.capitalize(), *_times(some)) for engine, some in zip(ENGINES, by_engine, strict=True)]
    return f"""{HEADING}

Each round has an app under uvicorn, a Redis that logs each write to its disk (`appendfsync always`), and a worker.
{CLIENTS} clients order two tasks with each request. Meanwhile the Redis hangs, is killed or is full, or the worker is
killed, for up to 4 s, one fault after the other for {LOAD:g} s. In one round of each engine the Redis is down for
{DOWN:g} s. The deadline of a hand-over is {DEADLINE} s. `python -m soak.queues` runs these rounds alone.

What is checked: each task has an id of its own. Each id runs at least once, or `on_error` gets it once. A task that is
`refused` never runs. "Lost after that" counts tasks that the broker had confirmed, and that Redis or the engine lost.
(A worker of Celery takes a message from a list by `BRPOP`. Its next command writes the message to the hash `unacked`.
If the worker or the Redis is killed between the two commands, or the Redis is full then, the message is lost.)

{_table(heads, rows)}
The next table has milliseconds, while the broker fails, and before. A stall is a time without a turn of the event loop.
Other programs on the machine make it longer, so the table also has the time that the loop's thread was on a processor.
The app calls `gc.freeze()` after its start: a full collection of all imported modules takes longer than other stalls.

{_table(names, times)}"""


def _row(some: Sequence[Round]) -> tuple[object, ...]:
    told = Counter(outcomes[0] for each in some for outcomes in each.errors.values())
    return (
        len(some),
        f"{sum(len(each.ids) // 2 for each in some):,}",
        f"{sum(len(each.ids) for each in some):,}",
        f"{sum(len(each.ids & each.runs.keys()) for each in some):,}",
        f"{sum(count - 1 for each in some for count in each.runs.values()):,}",
        f"{told['refused']:,}",
        f"{told['unknown']:,}",
        sum(len(each.lost_later) for each in some),
        sum(len(each.broken) for each in some),
    )


def _times(some: Sequence[Round]) -> tuple[object, ...]:
    answers = [seconds for each in some for seconds in each.answers]
    quiet = [seconds for each in some for seconds in each.quiet_answers]
    return (
        *(f"{percentile(answers, percent):.1f}" for percent in (50, 99)),
        f"{1000 * max(answers):.1f}",
        f"{percentile(quiet, 99):.1f}",
        f"{1000 * max(quiet):.1f}",
        *(
            f"{1000 * max(pair[index] for pair in pairs):.1f}"
            for index in (0, 1)
            for pairs in ([each.stall for each in some], [each.quiet for each in some])
        ),
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def tell(outcome: Round, done: int, total: int) -> None:
    """Print one round."""
    told = Counter(outcomes[0] for outcomes in outcome.errors.values())
    print(
        f"{done}/{total} {outcome.engine}: {len(outcome.ids)} tasks, {dict(told)}, "
        f"{sum(outcome.runs.values()) - len(outcome.runs)} twins, {len(outcome.lost_later)} lost later, "
        f"answers at most {1000 * max(outcome.answers):.0f} ms, "
        f"stalls at most {1000 * outcome.stall[0]:.0f} ms (before: {1000 * outcome.quiet[0]:.0f}), "
        f"on a processor {1000 * outcome.stall[1]:.0f} ms (before: {1000 * outcome.quiet[1]:.0f}), "
        f"gone after {outcome.took:.2f} s; {', '.join(outcome.faults)}",
        flush=True,
    )
    for broken in outcome.broken[:5]:
        print(f"  BROKEN {broken}", flush=True)


def run_all(seed: int, rounds: int) -> list[Round]:
    """Run and print the rounds; none without a Redis."""
    if find_redis() is None:
        print("no rounds with queues: the machine has no redis-server; set REDIS_SERVER to its path")
        return []
    outcomes: list[Round] = []
    for outcome in run(seed, rounds):
        outcomes.append(outcome)
        tell(outcome, len(outcomes), rounds)
    return outcomes


def main() -> int:
    """Run the rounds, and replace their part of the page."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    outcomes = run_all(SEED, rounds)
    print(text := section(outcomes))
    if rounds >= ROUNDS and text:
        page = PAGE.read_text()
        before, heading, after = page.partition(HEADING)
        if heading:
            after = after[after.index("\n## ") + 1 :]
        else:
            before, heading, after = page.partition("## What is checked")
            after = heading + after
        PAGE.write_text(before + text + "\n" + after)
        print(f"written: docs/{PAGE.name}")
    return int(any(outcome.broken for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
