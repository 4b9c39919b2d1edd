"""Writes the page with the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from benchmarks.machine import facts

from . import crashes, tabs
from .chaos import SIGNALS, Outcome
from .kinds import ENDS
from .queues import Round
from .queues import section as section_of_queues
from .records import Findings
from .servers import SERVERS
from .steady import GROWTH, LEGS, MARGIN, Sample, Steady, percentile
from .verdict import STATUSES

AT_REST = "{}, at rest: before · after a quarter · at the end"

INTRODUCTION = """# Soak

Each round starts a real server on loopback, and ends it at a random moment. Clients order tasks of every kind in all
three phases, by HTTP and by websocket. Some clients leave in the middle. Server and clients write each event to a
journal outside of the server's process. A checker reads the journals, and counts each broken promise. `make soak` runs
all of it and writes this page, with `MINUTES=`, `ROUNDS=` and `SEED=`.
"""

CHECKED = """## What is checked

For each task and request: the [guarantees](guarantees.md) G1 to G6, G9 to G12, G15 and G16. Where `max_running` makes
tasks wait, two parts of G1 are not checked: the start before the response, and the order of the starts. Also:

- The handle of a task and its function report the same end.
- Before the signal no request fails, and no connection breaks.
- The exit code is the documented one. All processes end within 20 seconds. A graceful end prints no traceback.
- After SIGKILL the journal has no contradictions.
- Under steady load, memory, threads and open files stay within their bounds. At rest the process has no more objects of
  the library than before the load. (uvicorn keeps the last request of a closed connection for 5 s; the check waits.)

A second SIGINT follows up to 0.6 s after the first:

- hypercorn ignores the second SIGINT, and so does uvicorn while it waits for the shutdown of the app.
- While uvicorn waits for requests, uvicorn ends without a shutdown of the app ("forced" above). `asyncio.run` cancels
  all asyncio tasks, shielded tasks included.
- With granian SIGINT goes to the first process only. A worker that gets two signals [may come to a
  stop](shutdown.md#a-second-signal), with any app.

SIGINT goes to all processes of the other servers, as from a terminal. After a forced end, protection from cancellation
is not checked, and all other promises only until the end of the user's lifespan.
"""


@dataclass
class Result:
    """The results of one command."""

    seed: int
    rounds: list[Outcome] = field(default_factory=list)
    steady: list[Steady] = field(default_factory=list)
    seconds: float = 0.0
    queues: list[Round] = field(default_factory=list)
    tabs: list[tabs.Round] = field(default_factory=list)
    crashes: list[crashes.Series] = field(default_factory=list)

    @property
    def findings(self) -> list[Findings]:
        return [run.findings for run in (*self.rounds, *self.steady)]

    @property
    def violations(self) -> int:
        others = sum(len(each.broken) for each in (*self.queues, *self.tabs, *self.crashes))
        return sum(len(findings.violations) for findings in self.findings) + others


def page(result: Result) -> str:
    """Return the page in Markdown."""
    chaos = (INTRODUCTION, _total(result), _rounds(result), _ends(result))
    parts = (*chaos, tabs.section(result.tabs), _steady(result), section_of_queues(result.queues))
    return "\n".join((*filter(None, (*parts, crashes.section(result.crashes))), CHECKED, _run(result)))


def _total(result: Result) -> str:
    tasks = sum(findings.accepted for findings in result.findings)
    graceful = [outcome for outcome in result.rounds if outcome.ending == "graceful"]
    lost = sum(run.findings.lost for run in (*graceful, *result.steady))
    return (
        f"**{len(result.rounds)} servers ended at a random moment, {tasks:,} tasks accepted, {lost} lost in a graceful "
        f"end, {result.violations} promises broken.**\n"
    )


def _rounds(result: Result) -> str:
    heads = ("server, signal", "rounds", "tasks", "not ended", "slowest end, s", "violations")
    rows = []
    for server in SERVERS:
        for name in SIGNALS:
            for ending in ("graceful", "forced", "killed"):
                wanted = (server.name, name, ending)
                if some := [o for o in result.rounds if (o.round.server, o.round.ending, o.ending) == wanted]:
                    label = f"{name} (forced)" if ending == "forced" else name
                    rows.append((f"{server.name}, {label}", *_row(some)))
    return f"## Ended at a random moment\n\n{table(heads, rows)}"


def _row(some: Sequence[Outcome]) -> tuple[object, ...]:
    findings = [outcome.findings for outcome in some]
    return (
        len(some),
        f"{sum(f.accepted for f in findings):,}",
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
(`TasksSaturatedError`). Clients that left in the middle: {answers["gone"]:,}. Websocket sessions: {sessions:,}. Events
after a forced end: {late:,}.
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
At rest no task is left, and garbage is collected. "Before" is before the load. After a quarter the process is warm.
`malloc_trim` makes malloc give back free memory. A leak of small Python objects would show in the blocks. A leak of
this library would show in its objects: the instances of its classes, and its functions, coroutines and generators.

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
    yield "the third, after `malloc_trim`", [f"{run.held[-1].rss:.1f}" for run in runs]
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
        f"- {run.kind.name}, at rest at the end: {more} more objects of the library than before the load. Compared "
        f"with the warm process:\n  {blocks:+.2%} blocks, {grown:+.1f} MiB of memory, {rest:+.1f} MiB after "
        "`malloc_trim`.\n"
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
