"""A short soak test: a few servers end at random moments; and the checker reports every planted violation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import anyio
import pytest
from soak import chaos, crashes, queues, report, steady, tabs
from soak.checker import check
from soak.journal import Event, Journal, read
from soak.kinds import Menu, Order, decode, encode
from soak.memory import held
from soak.overlaps import Death, overlaps
from soak.records import Findings, Terms
from soak.servers import SERVERS
from tests.servers.harness import Record

from taskphase import TaskHost
from taskphase.journal._file import File

SEED = 7
ROUNDS = (0, 1, 2, 3, 4, 13, 6, 7)  # one of each server with SIGTERM, and one with SIGINT, SIGKILL, SIGINT, SIGINT


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, chaos.Outcome]:
    place = tmp_path_factory.mktemp("soak")
    return {outcome.round.number: outcome for outcome in chaos.run(SEED, ROUNDS, place, jobs=2)}


@pytest.mark.parametrize("number", ROUNDS)
def test_no_promise_is_broken_when_a_loaded_server_is_ended_g1_g2_g9_g10(
    outcomes: dict[int, chaos.Outcome], number: int
) -> None:
    outcome = outcomes[number]

    assert [str(violation) for violation in outcome.findings.violations] == []
    assert outcome.findings.accepted > 0
    assert outcome.answers["200"] > 0
    if outcome.ending == "graceful":
        assert outcome.findings.lost == 0
        assert outcome.findings.ends.total() == outcome.findings.accepted


def test_the_rounds_have_every_server_and_signal() -> None:
    met = {(this.server, this.ending) for this in (chaos.Round.draw(SEED, number) for number in range(16))}

    assert met == {(kind.name, ending) for kind in SERVERS for ending in chaos.SIGNALS}


def test_a_server_with_open_tabs_ends_within_the_bound_g9_g10() -> None:
    outcome = tabs.run_round(tabs.SERVERS[0], 0.3)

    assert outcome.broken == []
    assert outcome.streams >= tabs.TABS
    assert 0 < outcome.took <= tabs.BOUND
    assert f"| uvicorn | 1 | {outcome.streams} | {outcome.took:.2f} | {outcome.took:.2f} | 0 |" in tabs.section(
        [outcome]
    )


# Runs that overlap


@pytest.mark.parametrize(
    ("lines", "deaths", "found"),
    [
        ("1 began m/7|2 ended m/7|3 began m/8|4 ended m/8", [], 0),
        ("1 began m/7|2 began n/8|3 ended m/7|4 ended n/8", [], 0),
        ("1 began m/7|3 began m/8|4 ended m/8", [Death(2, 7)], 0),
        ("1 began m/7|3 began m/8|4 ended m/8", [Death(2)], 0),
        ("1 began m/7|3 began m/7|4 ended m/7", [Death(2)], 0),
        ("2 began m/7|3 began m/8|4 ended m/8", [Death(1, 7, until=3)], 0),
        ("2 began m/7|3 began m/8|4 ended m/8", [Death(1), Death(5)], 1),
        ("1 began m/7|3 began m/8|4 ended m/8", [], 1),
        ("1 began m/7|3 began m/8|4 ended m/8", [Death(2, 9)], 1),
        ("1 began m/7|2 began m/8|4 ended m/8", [Death(3, 7)], 1),
        ("1 began m/7|2 began m/8|3 ended m/7|4 ended m/8", [], 1),
        ("1 began m/7|2 began m/8|3 ended m/8|4 began m/9|5 ended m/9|6 ended m/7", [], 2),
    ],
)
def test_runs_of_one_task_in_two_living_processes_are_reported_g22(
    lines: str, deaths: list[Death], found: int, tmp_path: Path
) -> None:
    File(tmp_path / "tasks.db", "normal", 5).connect().close()
    records = [Record.parse(line) for line in lines.split("|")]
    assert len(list(overlaps(records, deaths))) == found
    outcome = crashes.Series("planted", deaths=deaths)
    outcome.judge(records, tmp_path / "tasks.db")
    assert (outcome.at_once, len(outcome.broken)) == (found, found)
    assert f"| 0 | 0 | {found} | {found} |" in crashes.section([outcome])


# The checker

GOOD = """
accepted 1 r quick immediate 0 success
accepted 2 r nap after_route 1 success
accepted 3 r fail after_response 0 always
accepted 4 r quick after_response 0 failure
returned r
began 1 1 r
ended 1 1 returned
began 2 1 r
first r
sent r
left r
ended 2 1 returned
began 3 1 r
ended 3 1 raised
logged 3
final 1 succeeded 1
final 2 succeeded 1
final 3 failed 1
final 4 dropped 0
accepted 5 q hang immediate 0 success
accepted 6 q retry immediate 1 success
returned q
began 5 1 q
began 6 1 q
first q
sent q
left q
ended 6 1 raised
handled 6 1
began 6 2 q
ended 6 2 raised
handled 6 2
began 6 3 q
ended 6 3 returned
accepted 7 s thread immediate 1 success
failed s
first s
sent s
left s
began 7 1 s
asked
ended 5 1 cancelled
ended 7 1 returned
drained
shutdown 0 0 0
final 5 cancelled 1
final 6 succeeded 3
final 7 succeeded 1
down
""".strip().splitlines()

STEP = 1_000_000  # nanoseconds from one line to the next: the whole drain takes 3 ms


def events(lines: Sequence[str], start: int = 0) -> Iterator[Event]:
    return (Event.parse(f"{start + number * STEP} {line}") for number, line in enumerate(lines, 1))


def without(*gone: str) -> list[str]:
    assert set(gone) <= set(GOOD)
    return [line for line in GOOD if line not in gone]


def put(*new: str, after: str, instead: Sequence[str] = ()) -> list[str]:
    """Return the good journal with other lines after one of its lines, and without some lines."""
    lines = without(*instead)
    place = lines.index(after) + 1
    return [*lines[:place], *new, *lines[place:]]


def changed(line: str, into: str) -> list[str]:
    assert line in GOOD
    return [into if other == line else other for other in GOOD]


def rules(findings: Findings) -> set[str]:
    return {violation.rule for violation in findings.violations}


def test_a_run_in_which_all_is_right_is_accepted() -> None:
    findings = check(events(GOOD))

    assert findings.violations == []
    assert (findings.accepted, findings.lost, findings.ends.total()) == (7, 0, 7)
    assert findings.ends["fail", "failed"] == findings.ends["quick", "dropped"] == 1


BROKEN = {
    "a task has no end": ("lost", without("final 2 succeeded 1")),
    "a task is alive at the end": ("lost", changed("final 5 cancelled 1", "final 5 running 1")),
    "a function has no end": ("lost", without("ended 2 1 returned")),
    "a thread has no end": ("lost", without("ended 7 1 returned")),
    "a task ends twice": ("twice", put("final 2 succeeded 1", after="down")),
    "a task ends twice, in two ways": ("twice", put("final 1 cancelled 1", after="final 1 succeeded 1")),
    "a task goes on after its end": ("twice", put("began 2 2 r", after="final 2 succeeded 1")),
    "a task is accepted twice": ("twice", put("accepted 2 r nap after_route 1 success", after="returned r")),
    "a task that nobody accepted ends": ("twice", put("final 8 succeeded 0", after="asked")),
    "after_route comes before the route has returned": (
        "phase",
        put("began 2 1 r", after="accepted 4 r quick after_response 0 failure", instead=["began 2 1 r"]),
    ),
    "after_response comes before the end of the request": (
        "phase",
        put("began 3 1 r", after="sent r", instead=["began 3 1 r"]),
    ),
    "a deferred task comes before schedule() returns": (
        "phase",
        put("accepted 2 r nap after_route 1 success", after="left r", instead=[GOOD[1]]),
    ),
    "an immediate task is late": (
        "barrier",
        put("began 1 1 r", "ended 1 1 returned", after="first r", instead=["began 1 1 r", "ended 1 1 returned"]),
    ),
    "an after_route task is late": ("barrier", put("began 2 1 r", after="sent r", instead=["began 2 1 r"])),
    "an earlier phase comes later": (
        "order",
        put("began 1 1 r", "ended 1 1 returned", after="began 2 1 r", instead=["began 1 1 r", "ended 1 1 returned"]),
    ),
    "tasks of a phase are out of order": ("order", put("began 5 1 q", after="began 6 1 q", instead=["began 5 1 q"])),
    "a task sees another request": ("context", changed("began 1 1 r", "began 1 1 q")),
    "a task runs that was to be dropped": (
        "dropped",
        put("began 4 1 r", "ended 4 1 returned", after="logged 3"),
    ),
    "a task is dropped that was to run": ("dropped", changed("final 2 succeeded 1", "final 2 dropped 1")),
    "a task has not run, and is not dropped": ("dropped", changed("final 4 dropped 0", "final 4 succeeded 0")),
    "a task is cancelled before the shutdown": (
        "cancelled",
        put("ended 5 1 cancelled", after="left q", instead=["ended 5 1 cancelled"]),
    ),
    "a shielded task is cancelled": (
        "cancelled",
        changed("accepted 5 q hang immediate 0 success", "accepted 5 q hang immediate 1 success"),
    ),
    "a task begins after the drain": ("shutdown", put("began 5 2 q", after="shutdown 0 0 0")),
    "a task ends after the drain": (
        "shutdown",
        put("ended 5 1 cancelled", after="drained", instead=["ended 5 1 cancelled"]),
    ),
    "a thread ends after the drain": (
        "shutdown",
        put("ended 7 1 returned", after="shutdown 0 0 0", instead=["ended 7 1 returned"]),
    ),
    "the host has tasks after the drain": ("counts", changed("shutdown 0 0 0", "shutdown 1 0 0")),
    "a failure is not logged": ("logged", without("logged 3")),
    "a failure is logged twice": ("logged", put("logged 3", after="logged 3")),
    "a success is logged as a failure": ("logged", put("logged 1", after="ended 1 1 returned")),
    "an attempt begins inside another": ("attempts", put("began 6 2 q", after="began 6 1 q", instead=["began 6 2 q"])),
    "an attempt ends twice": ("attempts", put("ended 2 1 returned", after="ended 2 1 returned")),
    "an attempt is left out": ("attempts", changed("began 6 2 q", "began 6 3 q")),
    "the handle tells of other attempts": ("attempts", changed("final 6 succeeded 3", "final 6 succeeded 2")),
    "a handler is called for a success": ("handler", put("handled 2 1", after="ended 2 1 returned")),
    "a handler is not called": ("handler", without("handled 6 2")),
    "a success is told as a failure": ("result", changed("final 1 succeeded 1", "final 1 failed 1")),
    "a result is told as a cancellation": ("result", changed("final 6 succeeded 3", "final 6 cancelled 3")),
    "a thread's result is lost": ("result", changed("final 7 succeeded 1", "final 7 cancelled 1")),
    "a task is given up too early": (
        "result",
        put("logged 6", "final 6 failed 1", after="handled 6 1", instead=[*GOOD[29:34], "final 6 succeeded 3"]),
    ),
    "a task is refused without a limit": ("refused", put("refused 8 saturated", after="returned q")),
    "a task is refused before the shutdown": ("refused", put("refused 8 closed", after="returned q")),
    "a refused task runs": ("twice", put("refused 8 closed", "began 8 1 q", after="asked")),
    "the app does not hear of the shutdown": ("marks", without("drained")),
    "the app does not end": ("marks", without("down")),
    "the shutdown comes before the drain": ("marks", put("drained", after="shutdown 0 0 0", instead=["drained"])),
    "the shutdown comes twice": ("marks", put("asked", after="asked")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_checker_refuses_a_run_in_which(name: str) -> None:
    rule, lines = BROKEN[name]

    assert rule in rules(check(events(lines)))


ANSWERED = {
    "more tasks are told of than were accepted": ("count", GOOD, "answered r 200 5", 0),
    "the server fails": ("status", GOOD, "answered r 500 0", 0),
    "a limit is told of where there is none": ("status", GOOD, "answered r 503 0", 0),
    "the client has the response before a task begins": ("barrier", GOOD, "answered r 200 4", -len(GOOD) * STEP),
    "the last message comes after an after_response task": (
        "phase",
        put("sent r", after="began 3 1 r", instead=["sent r"]),
        "answered r 200 4",
        0,
    ),
}


@pytest.mark.parametrize("name", ANSWERED)
def test_the_checker_refuses_a_run_whose_clients_say_that(name: str) -> None:
    rule, lines, answer, start = ANSWERED[name]

    assert rule in rules(check(events(lines), events([answer], start + len(lines) * STEP - STEP)))


def test_the_checker_accepts_what_clients_say_that_is_right() -> None:
    assert check(events(GOOD), events(["answered r 200 4", "gone q", "broken s"], len(GOOD) * STEP)).violations == []


def test_a_killed_run_may_break_off_anywhere_and_a_graceful_run_nowhere() -> None:
    for length in range(len(GOOD)):
        lines = GOOD[:length]
        assert rules(check(events(lines), terms=Terms("killed"))) == set(), lines[-1:]
        assert rules(check(events(lines))) != set()


@pytest.mark.parametrize("name", [name for name, (rule, _) in BROKEN.items() if rule in ("phase", "order", "barrier")])
def test_a_killed_run_is_refused_if_it_is_out_of_phase(name: str) -> None:
    rule, lines = BROKEN[name]

    assert rule in rules(check(events(lines), terms=Terms("killed")))


def test_cancellation_is_judged_by_the_timeouts_of_the_drain() -> None:
    shielded = changed("accepted 5 q hang immediate 0 success", "accepted 5 q hang immediate 1 success")

    assert rules(check(events(GOOD), terms=Terms(drain_timeout=1))) == {"cancelled"}
    assert rules(check(events(shielded), terms=Terms(shield_timeout=1))) == {"cancelled"}
    assert rules(check(events(shielded), terms=Terms(shield_timeout=0.001))) == set()


def test_limits_excuse_what_waits_but_not_what_is_out_of_phase() -> None:
    limited = Terms(limited=True)

    assert rules(check(events(BROKEN["an after_route task is late"][1]), terms=limited)) == set()
    assert rules(check(events(put("refused 8 saturated", after="returned q")), terms=limited)) == set()
    assert "phase" in rules(
        check(events(BROKEN["after_response comes before the end of the request"][1]), terms=limited)
    )


def test_on_trio_tasks_of_the_same_phase_begin_in_any_order() -> None:
    shuffled = BROKEN["tasks of a phase are out of order"][1]
    swapped = BROKEN["an earlier phase comes later"][1]

    assert rules(check(events(shuffled), terms=Terms(in_order=False))) == set()
    assert rules(check(events(swapped), terms=Terms(in_order=False))) == {"order"}


def test_the_thread_of_a_timed_out_task_must_end_before_the_app_s_shutdown_g9() -> None:
    waited_for = changed("accepted 7 s thread immediate 1 success", "accepted 7 s thread_timeout immediate 1 success")
    waited_for.insert(waited_for.index("asked"), "logged 7")
    waited_for[waited_for.index("final 7 succeeded 1")] = "final 7 failed 1"
    left_behind = [line for line in waited_for if line != "ended 7 1 returned"]
    impatient = Terms(shield_timeout=0)

    assert rules(check(events(waited_for))) == set()
    assert rules(check(events(left_behind))) == {"lost"}
    for mark in ("drained", "shutdown 0 0 0", "down"):
        place = left_behind.index(mark) + 1
        outlived = [*left_behind[:place], "ended 7 1 returned", *left_behind[place:]]
        assert rules(check(events(outlived))) == {"shutdown"}
        assert rules(check(events(outlived), terms=impatient)) == set()
    assert rules(check(events(left_behind), terms=impatient)) == set()


def test_no_message_of_a_websocket_session_waits_for_tasks() -> None:
    early = ["answered r 200 4"]
    session = ["opened r", *without("first r")]

    assert rules(check(events(without("first r"), STEP), events(early))) == {"barrier"}
    assert rules(check(events(session), events(early))) == set()


def test_a_forced_end_excuses_what_comes_after_the_lifespan_but_no_second_end() -> None:
    forced = Terms("forced")
    lines = [line for line in GOOD if line not in ("asked", "drained")]
    late = [*lines, "began 5 2 q"]
    twice = put("final 2 succeeded 1", after="final 2 succeeded 1")

    assert rules(check(events(lines), terms=forced)) == set()
    findings = check(events(late), terms=forced)
    assert (rules(findings), findings.late) == (set(), 1)
    assert "twice" in rules(check(events([line for line in twice if line not in ("asked", "drained")]), terms=forced))


# The parts


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.write("began", 1, 1, "r")
    journal.close()
    with path.open("a") as file:
        file.write("123 ended 1 1 retur")

    assert [str(event) for event in read(path)] == ["began 1 1 r"]


def test_orders_survive_the_way_to_the_app() -> None:
    orders = [Order("quick", "after_route", shield=True, count=50), Order("fail", "immediate", when="always")]

    assert decode(encode(orders)) == orders


def test_a_seed_draws_the_same_round_again() -> None:
    assert chaos.Round.draw(SEED, 4) == chaos.Round.draw(SEED, 4) != chaos.Round.draw(SEED + 1, 4)
    assert chaos.Round.draw(SEED, 4).menu == Menu(hangs_shielded=chaos.Round.draw(SEED, 4).shield_timeout is not None)


def test_memory_that_grows_is_more_than_the_bound_allows() -> None:
    def run(growth: float) -> steady.Steady:
        samples = [steady.Sample(50 + growth * second, 10, 20, 0, 0, 0) for second in range(80)]
        return steady.Steady(SERVERS[0], 80, samples)

    def is_flat(some: steady.Steady) -> bool:
        return all(some.quarter(4, name) <= bound for name, bound in steady.bounds(some).items())

    assert is_flat(run(0))
    assert is_flat(run(0.05))
    assert not is_flat(run(0.2))


def test_what_the_library_holds_at_rest_is_counted_by_class() -> None:
    before = steady.Held(50, 1, 1, 1, {"Task": 1, "schedule": 1})
    after = steady.Held(50, 1, 1, 1, {"Task": 3, "Scope": 1})

    assert after.more_than(before) == {"Task": 2, "Scope": 1}
    assert before.more_than(before) == {}


async def test_what_the_process_holds_tells_of_tasks_as_long_as_they_are_kept() -> None:
    before = held(trim=False)["library"]
    async with TaskHost() as host:
        tasks = [host.schedule(anyio.sleep, 0) for _ in range(50)]
        for task in tasks:
            await task.wait()
    kept = held(trim=False)["library"]
    del host, tasks, task
    after = held(trim=True)

    assert kept["Task"] - before.get("Task", 0) >= 50
    assert after["library"].get("Task", 0) <= before.get("Task", 0)
    assert after["rss"] > 1


def test_the_page_has_all_figures(outcomes: dict[int, chaos.Outcome]) -> None:
    samples = [steady.Sample(50 + second, 10, 20, 7, 8, 9) for second in range(80)]
    held_by_leg = [steady.Held(50 + leg, 1000 + leg, 11, 500, {"Task": 3}) for leg in range(steady.LEGS + 2)]
    long_lived = steady.Steady(SERVERS[1], 100, samples, held_by_leg, [0.001, 0.002], [0.001, 0.003])
    failing = [
        queues.Round(
            engine,
            0,
            ids={"1", "1b"},
            runs=Counter({"1": 3}),
            confirmed={"1", "1b"},
            quiet_answers=[0.001, 0.002],
            answers=[0.003, 0.004],
            stall=(0.02, 0.01),
        )
        for engine in queues.ENGINES
    ]
    page = report.page(report.Result(SEED, list(outcomes.values()), [long_lived], 60, failing))

    assert f"**{len(ROUNDS)} servers ended" in page
    for kind in SERVERS:
        assert f"| {kind.name}, SIGTERM | 1 |" in page
    assert "| 50.0 · 51.0 · 54.0 |" in page  # memory at rest
    assert "| 1,000 · 1,001 · 1,004 |" in page
    assert "| 3 · 3 · 3 |" in page
    assert "| Celery | 1 | 1 | 2 | 1 | 2 | 0 | 0 | 1 | 0 |" in page
    assert "| 20.0 | 0.0 | 10.0 | 0.0 |" in page
    assert "| 7 · 8 · 9 |" in page
