"""The page of figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from benchmarks.machine import facts

from .chaos import SIGNALS, Outcome
from .kinds import ENDS
from .records import Findings
from .servers import SERVERS
from .steady import GROWTH, LEGS, MARGIN, Sample, Steady, percentile
from .verdict import STATUSES

AT_REST = "{}, at rest: before · after a quarter · at the end"

INTRODUCTION = """# Soak

Real servers, on loopback, with concurrent clients that order tasks of every kind in all three phases, shielded and not,
by HTTP and by websocket; some of the clients leave in the middle. All that happens is journalled outside of the
server's process, one line in one write an event, and a checker proves from the journals that no promise was broken.
`make soak` runs it all again, and writes this page; `MINUTES=`, `ROUNDS=` and `SEED=` change how much of it, and which
random choices are made.
"""

CHECKED = """## What is checked

- Each accepted task has exactly one end, and it is the right one for its kind; its handle tells the same as its own
  function; none is lost. A failure is handled and logged as often as it should be (G2, G4, G16).
- The drain waits for every thread, that of a task which has timed out included: unless `shield_timeout` is over, it has
  ended before the app's own shutdown begins (G9).
- Cancelled is only what the drain may cancel, not before `drain_timeout`, and, if shielded, not before `shield_timeout`
  has passed as well (G9, G11).
- A deferred task is dropped if the outcome of its route is not what it wants, and only then (G5).
- Phases: no after_route task begins before its route has returned, no after_response task before the last message was
  handed to the server and the app's call has ended; all tasks of the first two phases have begun before the first
  message is handed over, and before the client has the response; a later phase begins later, and on asyncio the tasks
  of a phase in the order of the calls (G1). Where `max_running` makes tasks wait, the last two are not judged.
  Websocket sessions: the same, but no message of theirs waits for tasks (G12).
- Nothing of a task comes after the app's own shutdown has begun, and the host's counts are 0 then (G10).
- Each task sees the context of its own request (G6), a refused one never runs (G15), and no request fails, and no
  connection breaks, before the signal (G3).
- The exit code is the documented one, and all processes are gone within 20 seconds. In a graceful end the server's
  output has no traceback.
- After SIGKILL: what is in the journal is free of contradictions.
- Under steady load: memory, threads and open files stay within their bounds; and when no task is left the process holds
  no more objects of the library than before the load. (uvicorn itself holds on to the last request of a closed
  connection for 5 s; these are waited for.)

A second SIGINT is sent up to 0.6 s after the first. hypercorn takes no notice of it, and uvicorn neither once it has
asked the app to shut down. But if it finds uvicorn still waiting for requests, uvicorn leaves ("forced" above): it
does not ask for the shutdown, and `asyncio.run` cancels every asyncio task natively, which no shield withstands. Up
to the moment at which the user's lifespan is left all the above is checked in these rounds too, except what
protects from cancellation; what has not ended by then is counted, and not judged.

SIGINT is sent to all processes of a server, as a terminal does, but only to the first one of granian: a worker of it
that is told twice to end while a request is open [may come to a stop](shutdown.md#a-second-signal), whatever the app.
"""


@dataclass
class Result:
    """All of one command."""

    seed: int
    rounds: list[Outcome] = field(default_factory=list)
    steady: list[Steady] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def findings(self) -> list[Findings]:
        return [run.findings for run in (*self.rounds, *self.steady)]

    @property
    def violations(self) -> int:
        return sum(len(findings.violations) for findings in self.findings)


def page(result: Result) -> str:
    """Return the page, in Markdown."""
    return "\n".join(
        (INTRODUCTION, _total(result), _rounds(result), _ends(result), _steady(result), CHECKED, _run(result))
    )


def _total(result: Result) -> str:
    tasks = sum(findings.accepted for findings in result.findings)
    graceful = [outcome for outcome in result.rounds if outcome.ending == "graceful"]
    lost = sum(run.findings.lost for run in (*graceful, *result.steady))
    return (
        f"**{len(result.rounds)} servers ended at a random moment, {tasks:,} tasks accepted, {lost} lost in a graceful "
        f"end, {result.violations} promises broken.**\n"
    )


def _rounds(result: Result) -> str:
    heads = ("server", "signal", "rounds", "tasks", "ended", "under way at the end", "slowest end, s", "violations")
    rows = []
    for server in SERVERS:
        for name in SIGNALS:
            for ending in ("graceful", "forced", "killed"):
                wanted = (server.name, name, ending)
                if some := [o for o in result.rounds if (o.round.server, o.round.ending, o.ending) == wanted]:
                    label = f"{name} (forced)" if ending == "forced" else name
                    rows.append((server.name, label, *_row(some)))
    return f"## Ended at a random moment\n\n{table(heads, rows)}"


def _row(some: Sequence[Outcome]) -> tuple[object, ...]:
    findings = [outcome.findings for outcome in some]
    ended = sum(f.ends.total() for f in findings)
    return (
        len(some),
        f"{sum(f.accepted for f in findings):,}",
        f"{ended:,}",
        f"{sum(f.lost for f in findings):,}",
        f"{max(outcome.took for outcome in some):.2f}",
        sum(len(f.violations) for f in findings),
    )


def _ends(result: Result) -> str:
    ends: Counter[tuple[str, str]] = Counter()
    refused: Counter[str] = Counter()
    late = 0
    for findings in result.findings:
        ends += findings.ends
        refused += findings.refused
        late += findings.late
    rows = [(kind.replace("_", " "), *(f"{ends[kind, status]:,}" for status in STATUSES)) for kind in ENDS]
    sessions = sum(findings.sessions for findings in result.findings)
    answers = sum((run.answers for run in (*result.rounds, *result.steady)), Counter())
    return f"""## Tasks by kind and end

{table(("kind", *STATUSES), rows)}
Refused by `schedule()`: {refused["saturated"]:,} with `TasksSaturatedError`, {refused["closed"]:,} with
`TasksClosedError`.
Responses: {answers["200"]:,} with 200, {answers["418"]:,} with 418 (the route raises), {answers["503"]:,} with 503
(`TasksSaturatedError`); {answers["gone"]:,} clients left in the middle. {sessions:,} were websocket sessions. Signs of
life after a forced end: {late:,}.
"""


def _steady(result: Result) -> str:
    if not result.steady:
        return ""
    names = [steady.kind.name for steady in result.steady]
    rows = [(label, *cells) for label, cells in _figures(result.steady)]
    grown = f"{GROWTH:.0%} and {MARGIN:g} MiB"
    return f"""## Under steady load

The bound: the median of the last quarter of the time is at most {grown} above that of the second quarter.

{table(("", *names), rows)}
At rest: no task is left, and garbage is collected. "Before" is before the load; after a quarter of it everything has
been met, and the process is warm. `malloc_trim` makes malloc give back what is free. A leak of small Python objects
would show in the blocks, one of ours in the objects of the library: the instances of its classes, and its functions,
coroutines and generators, all found by the garbage collector.

{"".join(map(_growth, result.steady))}"""


def _figures(runs: Sequence[Steady]) -> Iterable[tuple[str, list[str]]]:
    def row(label: str, cells: Iterable[object]) -> tuple[str, list[str]]:
        return label, [str(cell) for cell in cells]

    yield row("seconds under load", (len(run.samples) for run in runs))
    yield row("tasks accepted", (f"{run.findings.accepted:,}" for run in runs))
    yield row("tasks lost", (run.findings.lost for run in runs))
    yield row("violations", (len(run.findings.violations) for run in runs))
    yield row("responses", (f"{sum(run.answers.values()):,}" for run in runs))
    for name, label in (("rss", "memory, MiB"), ("threads", "threads"), ("files", "open files")):
        quarters = ([run.quarter(number, name) for number in (1, 2, 3, 4)] for run in runs)
        yield row(
            f"{label}: median of each quarter", (" · ".join(f"{figure:.1f}" for figure in four) for four in quarters)
        )
        ends = ((getattr(run.samples[0], name), getattr(run.samples[-1], name)) for run in runs)
        yield row(f"{label}: first and last", (f"{first:.1f} · {last:.1f}" for first, last in ends))
    yield from _at_rest(runs)
    yield row("running, waiting, deferred: most", (_most(run.samples) for run in runs))
    for percent in (50, 99):
        yield row(
            f"response without tasks, p{percent}, ms: idle", (f"{percentile(run.quiet, percent):.2f}" for run in runs)
        )
        yield row(f"the same under load, p{percent}", (f"{percentile(run.loaded, percent):.2f}" for run in runs))


def _at_rest(runs: Sequence[Steady]) -> Iterable[tuple[str, list[str]]]:
    points = [(run.held[0], run.held[1], run.held[-2]) for run in runs]
    minutes = [run.seconds_under_load * (LEGS - 1) / LEGS / 60 for run in runs]
    growth = zip(points, minutes, strict=True)
    yield AT_REST.format("memory, MiB"), [" · ".join(f"{held.rss:.1f}" for held in three) for three in points]
    yield "growth from the second to the third, MiB a minute", [f"{(p[2].rss - p[1].rss) / m:+.2f}" for p, m in growth]
    yield "the third, when malloc has given back what is free", [f"{run.held[-1].rss:.1f}" for run in runs]
    yield (
        AT_REST.format("in use of malloc's main arena, MiB"),
        [" · ".join(f"{held.malloc:.2f}" for held in three) for three in points],
    )
    yield (
        AT_REST.format("blocks in use of Python's allocator"),
        [" · ".join(f"{held.blocks:,}" for held in three) for three in points],
    )
    yield (
        AT_REST.format("objects of the library"),
        [" · ".join(str(sum(held.library.values())) for held in three) for three in points],
    )


def _growth(run: Steady) -> str:
    before, warm, end, trimmed = (run.held[number] for number in (0, 1, -2, -1))
    more = sum(end.library.values()) - sum(before.library.values())
    blocks, grown, rest = end.blocks / warm.blocks - 1, end.rss - warm.rss, trimmed.rss - warm.rss
    return (
        f"- {run.kind.name}, at rest at the end: {more} objects of the library more than before the load. Compared "
        f"with the warm process:\n  {blocks:+.2%} blocks; {grown:+.1f} MiB of memory, {rest:+.1f} MiB once malloc has "
        "given back what is free.\n"
    )


def _most(samples: Sequence[Sample]) -> str:
    return " · ".join(
        str(max(getattr(sample, name) for sample in samples)) for name in ("running", "waiting", "deferred")
    )


def _run(result: Result) -> str:
    machine = facts()
    machine["packages"] += "".join(f", {name} {version(name)}" for name in ("hypercorn", "granian", "websockets"))
    lines = "\n".join(f"- {name}: {fact}" for name, fact in machine.items())
    return f"## The run\n\n- seed {result.seed}, {result.seconds / 60:.0f} minutes in all\n{lines}\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
